//! Transactions and ranges.

use std::collections::BTreeSet;
use std::sync::Arc;

use fgpu_store::{
    Compare, MAX_TXN_BYTES, MAX_TXN_COMPARES, MAX_TXN_WRITES, Store, StoreError, Txn,
};

use crate::backend::{Backend, texts};

crate::on_both_stores![
    an_empty_store_is_at_revision_1,
    a_commit_gives_the_revision_of_its_writes,
    a_compare_decides_whether_a_transaction_is_applied,
    a_conflict_names_every_compare_that_failed,
    a_transaction_is_applied_as_a_whole_or_not_at_all,
    a_key_put_again_after_a_delete_is_created_anew,
    a_transaction_that_changes_nothing_keeps_the_revision,
    a_range_holds_the_keys_under_its_prefix_in_order,
    values_may_hold_any_bytes_and_keys_any_text,
    a_transaction_at_every_limit_is_accepted,
    a_transaction_beyond_a_limit_or_malformed_is_refused_and_changes_nothing,
    twenty_thousand_keys_are_read_at_one_revision,
    a_range_of_the_largest_values_is_read,
    concurrent_increments_lose_nothing,
    of_two_creations_of_one_key_one_wins,
];

async fn an_empty_store_is_at_revision_1(backend: &mut impl Backend) {
    let snapshot = backend.store().range("").await.unwrap();
    assert_eq!((snapshot.revision, snapshot.entries), (1, vec![]));
}

async fn a_commit_gives_the_revision_of_its_writes(backend: &mut impl Backend) {
    let store = backend.store();
    let first = store.commit(Txn::new().put("a", "1").put("b", "2")).await.unwrap();
    let second = store.commit(Txn::new().put("a", "3")).await.unwrap();
    assert_eq!(second, first + 1);

    let snapshot = store.range("").await.unwrap();
    let found: Vec<_> = snapshot
        .entries
        .iter()
        .map(|entry| (entry.key.as_str(), entry.create_revision, entry.mod_revision))
        .collect();
    assert_eq!(found, [("a", first, second), ("b", first, first)]);
    assert_eq!(snapshot.revision, second);
    assert_eq!(store.status().await.unwrap().revision, second);
}

async fn a_compare_decides_whether_a_transaction_is_applied(backend: &mut impl Backend) {
    let store = backend.store();
    let created = store.commit(Txn::new().put("key", "1")).await.unwrap();
    let modified = store.commit(Txn::new().put("key", "2")).await.unwrap();
    let modrev = |key: &str, revision| Compare::ModRevision { key: key.to_owned(), revision };
    let createrev = |key: &str, revision| Compare::CreateRevision { key: key.to_owned(), revision };
    let value = |key: &str, value: &str| Compare::Value { key: key.into(), value: value.into() };
    let cases = [
        (value("key", "2"), true),
        (value("key", "1"), false),
        (value("key", ""), false),
        (value("none", ""), false),
        (Compare::absent("key"), false),
        (Compare::absent("none"), true),
        (modrev("key", modified), true),
        (modrev("key", created), false),
        (modrev("key", 0), false),
        (modrev("none", 0), true),
        (modrev("none", modified), false),
        (createrev("key", created), true),
        (createrev("key", modified), false),
        (createrev("none", 0), true),
        (createrev("none", created), false),
    ];
    for (compare, expected) in cases {
        let outcome = store.commit(Txn::new().compare(compare.clone()).put("other", "x")).await;
        match outcome {
            Ok(_) => assert!(expected, "{compare:?} should have failed"),
            Err(StoreError::Conflict { failed }) => {
                assert!(!expected, "{compare:?} should have held");
                assert_eq!(failed, [compare]);
            }
            Err(other) => panic!("{compare:?}: {other:?}"),
        }
    }
}

async fn a_conflict_names_every_compare_that_failed(backend: &mut impl Backend) {
    let store = backend.store();
    store.commit(Txn::new().put("a", "1").put("b", "1")).await.unwrap();
    let txn = Txn::new()
        .compare(Compare::absent("a"))
        .compare(Compare::absent("c"))
        .compare(Compare::absent("b"))
        .put("d", "1");
    let conflict = store.commit(txn).await.unwrap_err();
    assert!(conflict.conflicts_with(&Compare::absent("a")), "{conflict:?}");
    assert!(conflict.conflicts_with(&Compare::absent("b")), "{conflict:?}");
    assert!(!conflict.conflicts_with(&Compare::absent("c")), "{conflict:?}");
    assert!(!conflict.is_retryable());
}

async fn a_transaction_is_applied_as_a_whole_or_not_at_all(backend: &mut impl Backend) {
    let store = backend.store();
    store.commit(Txn::new().put("a", "1").put("b", "1")).await.unwrap();
    let refused = Txn::new().compare(Compare::absent("a")).put("c", "2").put("b", "2").delete("a");
    store.commit(refused).await.unwrap_err();
    assert_eq!(texts(&store.range("").await.unwrap()), [("a", "1"), ("b", "1")]);

    let accepted = Txn::new().compare(Compare::absent("c")).put("c", "2").put("b", "2").delete("a");
    store.commit(accepted).await.unwrap();
    assert_eq!(texts(&store.range("").await.unwrap()), [("b", "2"), ("c", "2")]);
}

async fn a_key_put_again_after_a_delete_is_created_anew(backend: &mut impl Backend) {
    let store = backend.store();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    store.commit(Txn::new().delete("a")).await.unwrap();
    assert_eq!(store.range("a").await.unwrap().entries, []);
    let again = store.commit(Txn::new().compare(Compare::absent("a")).put("a", "2")).await.unwrap();
    let entry = store.range("a").await.unwrap().entries.remove(0);
    assert_eq!((entry.create_revision, entry.mod_revision), (again, again));
}

async fn a_transaction_that_changes_nothing_keeps_the_revision(backend: &mut impl Backend) {
    let store = backend.store();
    let revision = store.commit(Txn::new().put("a", "1")).await.unwrap();
    assert_eq!(store.commit(Txn::new().delete("none")).await.unwrap(), revision);
    let only_compare = Txn::new().compare(Compare::absent("none"));
    assert_eq!(store.commit(only_compare).await.unwrap(), revision);
    assert_eq!(store.commit(Txn::new().put("a", "1")).await.unwrap(), revision + 1);
}

async fn a_range_holds_the_keys_under_its_prefix_in_order(backend: &mut impl Backend) {
    let store = backend.store();
    let txn = ["b/2", "a", "b/10", "b", "b0", "b/1", "c"]
        .into_iter()
        .fold(Txn::new(), |txn, key| txn.put(key, key));
    store.commit(txn).await.unwrap();
    let keys = async |prefix| {
        let snapshot = store.range(prefix).await.unwrap();
        snapshot.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("b/").await, ["b/1", "b/10", "b/2"]);
    assert_eq!(keys("").await, ["a", "b", "b/1", "b/10", "b/2", "b0", "c"]);
    assert_eq!(keys("d").await, Vec::<String>::new());
}

async fn values_may_hold_any_bytes_and_keys_any_text(backend: &mut impl Backend) {
    let store = backend.store();
    let all: Vec<u8> = (0..=255).collect();
    store.commit(Txn::new().put("größe/\u{10ffff}", all.clone()).put("empty", "")).await.unwrap();
    let snapshot = store.range("größe/").await.unwrap();
    assert_eq!(snapshot.entries[0].value, all);
    assert_eq!(texts(&store.range("empty").await.unwrap()), [("empty", "")]);
}

async fn a_transaction_at_every_limit_is_accepted(backend: &mut impl Backend) {
    let store = backend.store();
    let compares = (0..MAX_TXN_COMPARES)
        .fold(Txn::new(), |txn, index| txn.compare(Compare::absent(format!("n/{index:03}"))));
    let mut txn =
        (1..MAX_TXN_WRITES).fold(compares, |txn, index| txn.put(format!("k/{index:03}"), "v"));
    let rest = MAX_TXN_BYTES - txn.clone().put("k/000", "").size_bytes();
    txn = txn.put("k/000", vec![7; rest]);
    assert_eq!(txn.size_bytes(), MAX_TXN_BYTES);

    store.commit(txn).await.unwrap();

    let snapshot = store.range("k/").await.unwrap();
    assert_eq!(snapshot.entries.len(), MAX_TXN_WRITES);
    assert_eq!(snapshot.entries[0].value.len(), rest);

    // Reading all compared keys back must fit the limits, too.
    let conflict = snapshot.entries.iter().fold(Txn::new(), |txn, entry| {
        txn.compare(Compare::absent(&entry.key)).put(&entry.key, "w")
    });
    let Err(StoreError::Conflict { failed }) = store.commit(conflict).await else {
        panic!("all these keys exist");
    };
    assert_eq!(failed.len(), MAX_TXN_WRITES);
}

async fn a_transaction_beyond_a_limit_or_malformed_is_refused_and_changes_nothing(
    backend: &mut impl Backend,
) {
    let store = backend.store();
    let many =
        (0..=MAX_TXN_WRITES).fold(Txn::new(), |txn, index| txn.put(format!("k{index}"), "v"));
    let large = Txn::new().put("k", vec![0; MAX_TXN_BYTES]);
    for txn in [many, large] {
        let refused = store.commit(txn).await.unwrap_err();
        assert!(matches!(refused, StoreError::TooLarge { .. }), "{refused:?}");
    }
    let twice = store.commit(Txn::new().put("a", "1").put("a", "2")).await.unwrap_err();
    assert!(matches!(twice, StoreError::Invalid { .. }), "{twice:?}");
    assert_eq!(store.range("").await.unwrap().revision, 1);
}

async fn twenty_thousand_keys_are_read_at_one_revision(backend: &mut impl Backend) {
    const KEYS: usize = 20_000;
    let store = backend.store();
    let keys: Vec<String> = (0..KEYS).map(|index| format!("m/{index:05}")).collect();
    for chunk in keys.chunks(MAX_TXN_WRITES) {
        let txn = chunk.iter().fold(Txn::new(), |txn, key| txn.put(key, vec![b'x'; 300]));
        store.commit(txn).await.unwrap();
    }

    // Each of these writes the first and the last key: a range must see both or neither.
    let stop = tokio_util::sync::CancellationToken::new();
    let (stopped, other) = (stop.clone(), Arc::clone(&store));
    let writer = tokio::spawn(async move {
        let mut round = 0;
        while !stopped.is_cancelled() {
            round += 1;
            let value = round.to_string();
            other.commit(Txn::new().put("a", value.clone()).put("z", value)).await.unwrap();
        }
        round
    });
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        let snapshot = store.range("").await.unwrap();
        let middle = snapshot.entries.iter().filter(|entry| entry.key.starts_with("m/"));
        assert!(middle.map(|entry| &entry.key).eq(&keys), "all keys, each once, in order");
        let outer: Vec<_> =
            snapshot.entries.iter().filter(|entry| !entry.key.starts_with("m/")).collect();
        if let [first, last] = outer[..] {
            assert_eq!(first.value, last.value, "at revision {}", snapshot.revision);
        } else {
            assert_eq!(outer.len(), 0, "one key of a pair is missing");
        }
        seen.insert(snapshot.revision);
    }
    stop.cancel();
    assert!(writer.await.unwrap() > 0);
}

async fn a_range_of_the_largest_values_is_read(backend: &mut impl Backend) {
    let store = backend.store();
    let size = MAX_TXN_BYTES - Txn::new().put("v/00", "").size_bytes();
    store.commit(Txn::new().put("v/", "small")).await.unwrap();
    for index in 0..24_u8 {
        let txn = Txn::new().put(format!("v/{index:02}"), vec![index; size]);
        store.commit(txn).await.unwrap();
    }
    let entries = store.range("v/").await.unwrap().entries;
    assert_eq!(entries.len(), 25);
    for (entry, index) in entries.iter().skip(1).zip(0_u8..) {
        assert_eq!(entry.value.len(), size, "{}", entry.key);
        assert!(entry.value.iter().all(|byte| *byte == index), "{}", entry.key);
    }
}

async fn concurrent_increments_lose_nothing(backend: &mut impl Backend) {
    const TASKS: usize = 8;
    const EACH: usize = 25;
    let store = backend.store();
    store.commit(Txn::new().put("count", "0")).await.unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..EACH {
                    increment(&*store).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let total = (TASKS * EACH).to_string();
    assert_eq!(texts(&store.range("count").await.unwrap()), [("count", total.as_str())]);
}

async fn increment(store: &dyn Store) {
    loop {
        let entry = store.range("count").await.unwrap().entries.remove(0);
        let count: usize = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        let next = (count + 1).to_string();
        let txn = Txn::new().compare(Compare::unchanged(&entry)).put("count", next);
        match store.commit(txn).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

async fn of_two_creations_of_one_key_one_wins(backend: &mut impl Backend) {
    let store = backend.store();
    for round in 0..20 {
        let key = format!("k{round}");
        let create = |value: &str| {
            let txn = Txn::new().compare(Compare::absent(&key)).put(&key, value);
            store.commit(txn)
        };
        let (first, second) = tokio::join!(create("first"), create("second"));
        let expected = match (first, second) {
            (Ok(_), Err(StoreError::Conflict { .. })) => "first",
            (Err(StoreError::Conflict { .. }), Ok(_)) => "second",
            other => panic!("{other:?}"),
        };
        assert_eq!(texts(&store.range(&key).await.unwrap())[0].1, expected);
        store.commit(Txn::new().delete(&key)).await.unwrap();
    }
}
