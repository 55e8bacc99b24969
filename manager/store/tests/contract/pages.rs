//! Ranges that are read a page at a time.

use fgpu_store::{Entry, MAX_TXN_WRITES, Snapshot, Store, StoreError, Txn};
use futures_util::StreamExt as _;

use crate::backend::{Backend, within};

crate::on_both_stores![
    pages_hold_together_what_a_range_holds,
    pages_of_an_empty_store_tell_its_revision,
    pages_are_of_one_revision_whatever_is_written_meanwhile,
    pages_whose_revision_is_compacted_meanwhile_are_whole_or_say_so,
    pages_may_be_left_half_way,
];

/// More than fits the first pages.
async fn fill(store: &dyn Store, keys: usize) {
    for from in (0..keys).step_by(MAX_TXN_WRITES) {
        let numbers = from..(from + MAX_TXN_WRITES).min(keys);
        let txn = numbers
            .fold(Txn::new(), |txn, number| txn.put(format!("k/{number:06}"), vec![b'x'; 1000]));
        store.commit(txn).await.unwrap();
    }
}

/// All pages, and the error that ended them.
async fn all(store: &dyn Store, prefix: &str) -> (Vec<Snapshot>, Option<StoreError>) {
    let mut stream = store.range_pages(prefix).await.unwrap();
    let mut pages = Vec::new();
    while let Some(page) = within("a page comes", stream.next()).await {
        match page {
            Ok(page) => pages.push(page),
            Err(error) => {
                assert!(stream.next().await.is_none(), "the first error is the last item");
                return (pages, Some(error));
            }
        }
    }
    (pages, None)
}

fn joined(pages: Vec<Snapshot>) -> Vec<Entry> {
    pages.into_iter().flat_map(|page| page.entries).collect()
}

async fn pages_hold_together_what_a_range_holds(backend: &mut impl Backend) {
    let store = backend.store();
    fill(&*store, 3000).await;
    store.commit(Txn::new().put("j", "before").put("l", "behind")).await.unwrap();
    for prefix in ["", "k/", "k/0000", "none"] {
        let whole = store.range(prefix).await.unwrap();
        let (pages, error) = all(&*store, prefix).await;
        assert!(error.is_none(), "{error:?}");
        assert!(pages.iter().all(|page| page.revision == whole.revision));
        assert_eq!(joined(pages), whole.entries, "{prefix:?}");
    }
}

async fn pages_of_an_empty_store_tell_its_revision(backend: &mut impl Backend) {
    let (pages, error) = all(&*backend.store(), "").await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(pages, [Snapshot { revision: 1, entries: Vec::new() }]);
}

async fn pages_are_of_one_revision_whatever_is_written_meanwhile(backend: &mut impl Backend) {
    let store = backend.store();
    fill(&*store, 12_000).await;
    let before = store.range("").await.unwrap();
    let mut stream = store.range_pages("").await.unwrap();
    let mut pages = vec![stream.next().await.unwrap().unwrap()];
    let change = Txn::new().delete("k/011998").put("k/011999", "new").put("z", "new");
    store.commit(change).await.unwrap();
    while let Some(page) = within("a page comes", stream.next()).await {
        pages.push(page.unwrap());
    }
    assert!(pages.iter().all(|page| page.revision == before.revision));
    assert_eq!(joined(pages), before.entries);
}

async fn pages_whose_revision_is_compacted_meanwhile_are_whole_or_say_so(
    backend: &mut impl Backend,
) {
    let store = backend.store();
    fill(&*store, 30_000).await;
    let before = store.range("").await.unwrap();
    let mut stream = store.range_pages("").await.unwrap();
    let mut pages = vec![stream.next().await.unwrap().unwrap()];
    let now = store.commit(Txn::new().put("k/000000", "new")).await.unwrap();
    store.compact(now).await.unwrap();
    let error = loop {
        match within("a page comes", stream.next()).await {
            Some(Ok(page)) => pages.push(page),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    match error {
        Some(StoreError::Compacted { .. }) => {
            let again = joined(all(&*store, "").await.0);
            assert_eq!(again, store.range("").await.unwrap().entries);
        }
        Some(error) => panic!("{error:?}"),
        None => assert_eq!(joined(pages), before.entries),
    }
}

async fn pages_may_be_left_half_way(backend: &mut impl Backend) {
    let store = backend.store();
    fill(&*store, 3000).await;
    let mut stream = store.range_pages("").await.unwrap();
    drop(stream.next().await.unwrap().unwrap());
    drop(stream);
    assert_eq!(store.range("").await.unwrap().entries.len(), 3000);
}
