//! Leader election.

use std::sync::Arc;
use std::time::Duration;

use fgpu_store::election::observe;
use fgpu_store::{Election, Fault, FaultyStore, Leadership, Store, StoreError, Txn};
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, eventually, within};

crate::on_both_stores![
    the_next_candidate_follows_a_leader_that_resigns,
    a_deposed_leader_cannot_write_under_its_fence,
    a_leader_that_is_cut_off_from_the_store_learns_that_it_has_lost,
    a_leader_whose_key_is_deleted_learns_that_it_has_lost,
    a_leader_stays_leader_through_short_outages,
    a_campaign_survives_lost_answers_and_an_absent_store,
    a_campaign_ends_at_shutdown,
    everyone_can_see_who_leads,
];

const TTL: Duration = Duration::from_secs(2);

fn election(identity: &str) -> Election {
    Election { key: "leader".to_owned(), identity: identity.into(), ttl: TTL }
}

async fn lead(store: &Arc<dyn Store>, identity: &str) -> Leadership {
    let campaign = election(identity);
    let won = campaign.campaign(Arc::clone(store), CancellationToken::new());
    within("the campaign is won", won).await.unwrap().unwrap()
}

async fn the_next_candidate_follows_a_leader_that_resigns(backend: &mut impl Backend) {
    let store = backend.store();
    let first = lead(&store, "first").await;
    let (epoch, lost) = (first.epoch, first.lost());
    let other = Arc::clone(&store);
    let second = tokio::spawn(async move { lead(&other, "second").await });

    first.resign().await.unwrap();

    assert!(lost.is_cancelled());
    let second = second.await.unwrap();
    assert!(second.epoch > epoch, "{} > {epoch}", second.epoch);
    assert!(!second.is_lost());
}

async fn a_deposed_leader_cannot_write_under_its_fence(backend: &mut impl Backend) {
    let store = backend.store();
    let first = lead(&store, "first").await;
    let fence = first.fence();
    store.commit(Txn::new().compare(fence.clone()).put("a", "first")).await.unwrap();
    // As after a pause of the whole process: nobody renews, nobody resigns.
    drop(first);
    let second = lead(&store, "second").await;
    store.commit(Txn::new().compare(second.fence()).put("a", "second")).await.unwrap();

    let refused = store.commit(Txn::new().compare(fence.clone()).put("a", "late")).await;

    let refused = refused.unwrap_err();
    assert!(refused.conflicts_with(&fence), "{refused:?}");
    assert_eq!(store.range("a").await.unwrap().entries[0].value, b"second");
}

async fn a_leader_that_is_cut_off_from_the_store_learns_that_it_has_lost(
    backend: &mut impl Backend,
) {
    let faulty = Arc::new(FaultyStore::new(backend.store()));
    let store: Arc<dyn Store> = Arc::clone(&faulty) as Arc<dyn Store>;
    let leader = lead(&store, "first").await;
    let lost = leader.lost();
    // The other side of the cut: whoever follows must find the first one stopped.
    let rival = backend.store();
    let next = tokio::spawn(async move { lead(&rival, "second").await });

    faulty.fail_all(Fault::Unavailable);

    let next = next.await.unwrap();
    assert!(lost.is_cancelled(), "there is a new leader before the old one knows");
    assert!(next.epoch > leader.epoch);
}

async fn a_leader_whose_key_is_deleted_learns_that_it_has_lost(backend: &mut impl Backend) {
    let store = backend.store();
    let leader = lead(&store, "first").await;
    store.commit(Txn::new().delete("leader")).await.unwrap();
    within("the leader knows", leader.lost().cancelled()).await;
}

async fn a_leader_stays_leader_through_short_outages(backend: &mut impl Backend) {
    let faulty = Arc::new(FaultyStore::new(backend.store()));
    let store: Arc<dyn Store> = Arc::clone(&faulty) as Arc<dyn Store>;
    let leader = lead(&store, "first").await;
    // Every renewal (a keep-alive and a look at the key) fails at its first attempt.
    let outage = [Fault::Unavailable, Fault::None, Fault::None];
    faulty.fail_next(outage.into_iter().cycle().take(300));
    // A lease of twice the length that nobody renews shows that the time has passed.
    let witness = backend.store();
    let lease = witness.grant_lease(TTL * 2).await.unwrap();
    witness.commit(Txn::new().put_with_lease("witness", "1", lease)).await.unwrap();
    eventually("the witness goes", async || {
        let snapshot = witness.range("witness").await.unwrap();
        (snapshot.entries.is_empty(), leader.is_lost())
    })
    .await;
    assert!(!leader.is_lost());
    witness.commit(Txn::new().compare(leader.fence()).put("a", "1")).await.unwrap();
}

async fn a_campaign_survives_lost_answers_and_an_absent_store(backend: &mut impl Backend) {
    let faulty = Arc::new(FaultyStore::new(backend.store()));
    let store: Arc<dyn Store> = Arc::clone(&faulty) as Arc<dyn Store>;
    faulty.fail_next([Fault::Unavailable, Fault::None, Fault::LostAck]);
    faulty.fail_next_commits([Fault::LostAck, Fault::LostRequest]);
    let leader = lead(&store, "first").await;
    let commit = Txn::new().compare(leader.fence()).put("a", "1");
    store.commit(commit).await.unwrap();
    assert_eq!(faulty.commits(), 4, "two lost, one won, one write");
}

async fn a_campaign_ends_at_shutdown(backend: &mut impl Backend) {
    let store = backend.store();
    let leader = lead(&store, "first").await;
    let shutdown = CancellationToken::new();
    let candidate = election("second");
    let campaign = candidate.campaign(Arc::clone(&store), shutdown.clone());
    shutdown.cancel();
    let ended = within("the campaign ends", campaign).await.unwrap();
    assert!(ended.is_none());
    assert!(!leader.is_lost());
}

async fn everyone_can_see_who_leads(backend: &mut impl Backend) {
    let store = backend.store();
    assert_eq!(election("").find_leader(&*store).await.unwrap(), None);
    let mut seen = observe(Arc::clone(&store), "leader");
    let mut wait_for = async |identity: Option<&[u8]>| {
        let found = seen.wait_for(|leader| {
            leader.as_ref().map(|leader| leader.identity.as_slice()) == identity
        });
        within("the observer sees it", found).await.unwrap().clone()
    };
    let first = lead(&store, "first").await;
    let leader = wait_for(Some(b"first")).await.unwrap();
    assert_eq!(leader.epoch, first.epoch);
    assert_eq!(election("").find_leader(&*store).await.unwrap(), Some(leader));
    first.resign().await.unwrap();
    wait_for(None).await;
    let second = lead(&store, "second").await;
    assert_eq!(wait_for(Some(b"second")).await.unwrap().epoch, second.epoch);
    let conflict = store.commit(Txn::new().compare(second.fence()).put("a", "1")).await;
    assert!(!matches!(conflict, Err(StoreError::Conflict { .. })), "{conflict:?}");
}
