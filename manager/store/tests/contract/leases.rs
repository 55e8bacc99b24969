//! Leases.

use std::time::Duration;

use fgpu_store::{LeaseId, StoreError, Txn, WatchEvent};
use futures_util::StreamExt as _;

use crate::backend::{Backend, eventually, texts, within};

crate::on_both_stores![
    a_key_goes_with_its_lease_unless_that_is_kept_alive,
    revoking_a_lease_deletes_its_keys_in_one_revision,
    a_key_put_without_a_lease_is_bound_no_more,
    nothing_can_be_bound_to_a_lease_that_is_gone,
    a_lease_that_has_expired_cannot_be_kept_alive,
];

const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(600);

async fn a_key_goes_with_its_lease_unless_that_is_kept_alive(backend: &mut impl Backend) {
    let store = backend.store();
    let kept = store.grant_lease(SHORT).await.unwrap();
    let left = store.grant_lease(SHORT).await.unwrap();
    let txn = Txn::new()
        .put_with_lease("kept", "1", kept)
        .put_with_lease("left", "1", left)
        .put("free", "1");
    store.commit(txn).await.unwrap();
    eventually("the key of the lease that is left alone goes", async || {
        store.keep_alive(kept).await.unwrap();
        let snapshot = store.range("left").await.unwrap();
        (snapshot.entries.is_empty(), snapshot)
    })
    .await;
    assert_eq!(texts(&store.range("").await.unwrap()), [("free", "1"), ("kept", "1")]);
}

async fn revoking_a_lease_deletes_its_keys_in_one_revision(backend: &mut impl Backend) {
    let store = backend.store();
    let lease = store.grant_lease(LONG).await.unwrap();
    let txn =
        Txn::new().put_with_lease("a", "1", lease).put_with_lease("b", "1", lease).put("c", "1");
    let bound = store.commit(txn).await.unwrap();
    let mut stream = store.watch("", bound + 1).await.unwrap();

    store.revoke_lease(lease).await.unwrap();

    assert_eq!(texts(&store.range("").await.unwrap()), [("c", "1")]);
    let events = within("the deletion is seen", stream.next()).await.unwrap().unwrap();
    let deleted = |key: &str| WatchEvent::Deleted { key: key.to_owned(), revision: bound + 1 };
    assert_eq!(events, [deleted("a"), deleted("b")]);
    store.revoke_lease(lease).await.unwrap();
}

async fn a_key_put_without_a_lease_is_bound_no_more(backend: &mut impl Backend) {
    let store = backend.store();
    let lease = store.grant_lease(LONG).await.unwrap();
    let txn = Txn::new().put_with_lease("a", "1", lease).put_with_lease("b", "1", lease);
    store.commit(txn).await.unwrap();
    store.commit(Txn::new().put("a", "2")).await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(texts(&store.range("").await.unwrap()), [("a", "2")]);
}

async fn nothing_can_be_bound_to_a_lease_that_is_gone(backend: &mut impl Backend) {
    let store = backend.store();
    let revoked = store.grant_lease(LONG).await.unwrap();
    store.revoke_lease(revoked).await.unwrap();
    for lease in [revoked, LeaseId(12_345)] {
        let txn = Txn::new().put("a", "1").put_with_lease("b", "1", lease);
        let refused = store.commit(txn).await.unwrap_err();
        let StoreError::LeaseExpired { lease: named } = refused else { panic!("{refused:?}") };
        assert_eq!(named, lease);
    }
    assert_eq!(texts(&store.range("").await.unwrap()), []);
}

async fn a_lease_that_has_expired_cannot_be_kept_alive(backend: &mut impl Backend) {
    let store = backend.store();
    let lease = store.grant_lease(SHORT).await.unwrap();
    store.commit(Txn::new().put_with_lease("a", "1", lease)).await.unwrap();
    eventually("the key goes", async || {
        let snapshot = store.range("a").await.unwrap();
        (snapshot.entries.is_empty(), snapshot)
    })
    .await;
    let refused = store.keep_alive(lease).await.unwrap_err();
    let StoreError::LeaseExpired { lease: named } = refused else { panic!("{refused:?}") };
    assert_eq!(named, lease);
}
