//! Restarts of what is behind the store.

use fgpu_store::{Compare, Txn};

use crate::backend::Backend;

crate::on_both_stores![
    a_restart_keeps_every_entry_and_revision,
    a_watch_may_be_resumed_after_a_restart,
];

async fn a_restart_keeps_every_entry_and_revision(backend: &mut impl Backend) {
    let store = backend.store();
    for round in 1..50 {
        let txn = Txn::new()
            .put(format!("k/{round}"), vec![b'x'; round])
            .put("last", round.to_string())
            .delete(format!("k/{}", round / 2));
        store.commit(txn).await.unwrap();
    }
    let before = store.range("").await.unwrap();
    drop(store);

    backend.restart().await;

    let store = backend.store();
    assert_eq!(store.range("").await.unwrap(), before);
    let last = before.entries.iter().find(|entry| entry.key == "last").unwrap();
    let txn = Txn::new().compare(Compare::unchanged(last)).put("last", "after");
    assert_eq!(store.commit(txn).await.unwrap(), before.revision + 1);
}

async fn a_watch_may_be_resumed_after_a_restart(backend: &mut impl Backend) {
    use futures_util::StreamExt as _;
    let store = backend.store();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let seen = store.range("").await.unwrap().revision;
    store.commit(Txn::new().put("a", "2")).await.unwrap();
    let mut stream = store.watch("", seen + 1).await.unwrap();
    drop(store);

    backend.restart().await;

    // Whatever the open watch saw before it ended, it ends with an error.
    let ended = async {
        while let Some(item) = stream.next().await {
            if let Err(error) = item {
                return error;
            }
        }
        panic!("the watch ended without an error");
    };
    let error = crate::backend::within("the old watch ends", ended).await;
    assert!(error.is_retryable(), "{error:?}");
    let mut again = backend.store().watch("", seen + 1).await.unwrap();
    let item = crate::backend::within("an event comes", again.next()).await.unwrap().unwrap();
    assert_eq!(item[0].revision(), seen + 1);
}
