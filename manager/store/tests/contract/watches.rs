//! Watches and compaction.

use fgpu_store::{StoreError, Txn, WatchEvent, WatchStream};
use futures_util::StreamExt as _;

use crate::backend::{Backend, within};

crate::on_both_stores![
    a_watch_from_a_revision_sees_every_change_since_in_order,
    a_watch_from_now_sees_only_what_comes_after_it,
    a_watch_sees_only_its_prefix,
    an_item_of_a_watch_holds_whole_revisions,
    a_slow_watch_misses_nothing,
    a_watch_from_before_the_compaction_is_told_so,
    compacting_again_does_no_harm_and_the_future_cannot_be_compacted,
];

/// The next `count` events.
async fn take(stream: &mut WatchStream, count: usize) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let item = within("an event comes", stream.next()).await.unwrap().unwrap();
        assert!(!item.is_empty(), "an item holds events");
        events.extend(item);
    }
    events
}

fn summary(events: &[WatchEvent]) -> Vec<(i64, &str, Option<&str>)> {
    let value = |event: &'_ WatchEvent| -> Option<String> {
        match event {
            WatchEvent::Put(entry) => Some(String::from_utf8(entry.value.clone()).unwrap()),
            WatchEvent::Deleted { .. } => None,
        }
    };
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    events.iter().map(|event| (event.revision(), event.key(), value(event).map(leak))).collect()
}

async fn a_watch_from_a_revision_sees_every_change_since_in_order(backend: &mut impl Backend) {
    let store = backend.store();
    let before = store.commit(Txn::new().put("a", "1")).await.unwrap();
    store.commit(Txn::new().put("a", "2")).await.unwrap();
    store.commit(Txn::new().put("b", "1").delete("a")).await.unwrap();

    let mut stream = store.watch("", before + 1).await.unwrap();
    let past = take(&mut stream, 3).await;
    let expected =
        [(before + 1, "a", Some("2")), (before + 2, "b", Some("1")), (before + 2, "a", None)];
    assert_eq!(summary(&past), expected);

    store.commit(Txn::new().put("a", "3")).await.unwrap();
    let now = take(&mut stream, 1).await;
    let WatchEvent::Put(entry) = &now[0] else { panic!("{now:?}") };
    assert_eq!((entry.create_revision, entry.mod_revision), (before + 3, before + 3));
}

async fn a_watch_from_now_sees_only_what_comes_after_it(backend: &mut impl Backend) {
    let store = backend.store();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let mut stream = store.watch("", 0).await.unwrap();
    let after = store.commit(Txn::new().put("a", "2")).await.unwrap();
    assert_eq!(summary(&take(&mut stream, 1).await), [(after, "a", Some("2"))]);
}

async fn a_watch_sees_only_its_prefix(backend: &mut impl Backend) {
    let store = backend.store();
    let mut stream = store.watch("b/", 1).await.unwrap();
    store.commit(Txn::new().put("a", "1").put("b", "1")).await.unwrap();
    store.commit(Txn::new().put("b0", "1").put("b/1", "1")).await.unwrap();
    let last = store.commit(Txn::new().delete("b/1").delete("a")).await.unwrap();
    let events = take(&mut stream, 2).await;
    assert_eq!(summary(&events), [(last - 1, "b/1", Some("1")), (last, "b/1", None)]);
}

async fn an_item_of_a_watch_holds_whole_revisions(backend: &mut impl Backend) {
    let store = backend.store();
    for round in 0..30 {
        let txn =
            (0..100).fold(Txn::new(), |txn, key| txn.put(format!("{key}"), format!("{round}")));
        store.commit(txn).await.unwrap();
    }
    let mut stream = store.watch("", 2).await.unwrap();
    let mut seen = 0;
    while seen < 3000 {
        let item = within("an event comes", stream.next()).await.unwrap().unwrap();
        for revision in item.chunk_by(|left, right| left.revision() == right.revision()) {
            assert_eq!(revision.len(), 100, "revision {}", revision[0].revision());
        }
        seen += item.len();
    }
    assert_eq!(seen, 3000);
}

async fn a_slow_watch_misses_nothing(backend: &mut impl Backend) {
    let store = backend.store();
    let mut stream = store.watch("", 1).await.unwrap();
    for round in 0..500 {
        store.commit(Txn::new().put("a", round.to_string())).await.unwrap();
    }
    let events = take(&mut stream, 500).await;
    let revisions: Vec<_> = events.iter().map(WatchEvent::revision).collect();
    assert_eq!(revisions, (2..502).collect::<Vec<_>>());
}

async fn a_watch_from_before_the_compaction_is_told_so(backend: &mut impl Backend) {
    let store = backend.store();
    for round in 0..5 {
        store.commit(Txn::new().put("a", round.to_string())).await.unwrap();
    }
    store.compact(4).await.unwrap();

    let mut early = store.watch("", 3).await.unwrap();
    let error = within("the watch ends", early.next()).await.unwrap().unwrap_err();
    let StoreError::Compacted { requested: 3, oldest } = error else { panic!("{error:?}") };
    assert!(early.next().await.is_none(), "the stream ends after an error");

    let mut late = store.watch("", oldest).await.unwrap();
    let revisions: Vec<_> = take(&mut late, 3).await.iter().map(WatchEvent::revision).collect();
    assert_eq!(revisions, [4, 5, 6]);
    assert_eq!(store.range("").await.unwrap().entries[0].value, b"4", "entries are untouched");
}

async fn compacting_again_does_no_harm_and_the_future_cannot_be_compacted(
    backend: &mut impl Backend,
) {
    let store = backend.store();
    for round in 0..5 {
        store.commit(Txn::new().put("a", round.to_string())).await.unwrap();
    }
    store.compact(4).await.unwrap();
    store.compact(4).await.unwrap();
    store.compact(2).await.unwrap();
    let refused = store.compact(100).await.unwrap_err();
    assert!(matches!(refused, StoreError::Invalid { .. }), "{refused:?}");
}
