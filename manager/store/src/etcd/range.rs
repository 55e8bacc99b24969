//! Ranges, read in pages at one revision.
//!
//! etcd looks at every key up to the end of the range for each page, however few are asked for: pages
//! are large, so that few are needed.

use etcd_client::{GetOptions, GetResponse, KeyValue};
use futures_util::stream;
use tokio::sync::mpsc;

use super::{EtcdStore, revision_of};
use crate::{Entry, PageStream, Snapshot, StoreError};

/// Entries asked for at first, before it is known how large they are: even of the largest
/// values this is less than an answer may hold.
const FIRST_PAGE: usize = 32;
/// What a page should hold.
const PAGE_BYTES: usize = 4 << 20;
const PAGE_ENTRIES: usize = 8000;
/// How much larger a page may be than the one before.
const GROWTH: usize = 8;
/// Pages that wait to be worked on, beside the one that is being read.
const AHEAD: usize = 1;
/// How often a range is begun again because its revision was compacted meanwhile.
const ATTEMPTS: usize = 5;

pub(super) async fn range(store: &EtcdStore, prefix: &str) -> Result<Snapshot, StoreError> {
    let mut attempt = 1;
    loop {
        match read_whole(store, prefix).await {
            Err(StoreError::Compacted { .. }) if attempt < ATTEMPTS => attempt += 1,
            other => return other,
        }
    }
}

async fn read_whole(store: &EtcdStore, prefix: &str) -> Result<Snapshot, StoreError> {
    let mut pages = Pages::new(store.clone(), prefix);
    let mut whole = Snapshot { revision: 0, entries: Vec::new() };
    while let Some(page) = pages.next().await? {
        whole.revision = page.revision;
        whole.entries.extend(page.entries);
    }
    Ok(whole)
}

/// Reads pages in a task of its own, as far ahead as [`AHEAD`] says.
pub(super) fn pages(store: &EtcdStore, prefix: &str) -> PageStream {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let mut pages = Pages::new(store.clone(), prefix);
    tokio::spawn(async move {
        loop {
            let page = pages.next().await;
            let more = matches!(page, Ok(Some(_)));
            // Whoever asked may have gone.
            if sender.send(page).await.is_err() || !more {
                return;
            }
        }
    });
    let location = store.location.clone();
    Box::pin(stream::unfold(Some(receiver), move |receiver| {
        let location = location.clone();
        async move {
            let mut receiver = receiver?;
            // The reader says when it is done; where it does not, pages may be missing.
            match receiver.recv().await.unwrap_or_else(|| Err(given_up(location))).transpose()? {
                Ok(page) => Some((Ok(page), Some(receiver))),
                Err(error) => Some((Err(error), None)),
            }
        }
    }))
}

fn given_up(endpoint: String) -> StoreError {
    StoreError::Unavailable { endpoint, source: "reading was given up half way".into() }
}

/// The pages of one range, one after the other.
struct Pages {
    store: EtcdStore,
    from: Vec<u8>,
    end: Vec<u8>,
    limit: usize,
    /// That of the first page; 0 before it.
    revision: i64,
    more: bool,
}

impl Pages {
    fn new(store: EtcdStore, prefix: &str) -> Self {
        let from = store.full_key(prefix);
        let end = prefix_end(&from);
        Self { store, from, end, limit: FIRST_PAGE, revision: 0, more: true }
    }

    /// The next page; there is at least one.
    async fn next(&mut self) -> Result<Option<Snapshot>, StoreError> {
        if !self.more {
            return Ok(None);
        }
        let (from, end) = (self.from.clone(), self.end.clone());
        let mut page = read_page(&self.store, from, end, self.limit, self.revision).await?;
        if self.revision == 0 {
            self.revision = revision_of(page.header());
        }
        self.more = page.more();
        let entries = page.take_kvs();
        self.limit = next_limit(&entries, self.limit);
        if let Some(last) = entries.last() {
            // The smallest key after it.
            self.from = [last.key(), &[0]].concat();
        }
        let entries = entries.into_iter().map(|entry| to_entry(&self.store, entry));
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(Some(Snapshot { revision: self.revision, entries }))
    }
}

async fn read_page(
    store: &EtcdStore,
    from: Vec<u8>,
    end: Vec<u8>,
    limit: usize,
    revision: i64,
) -> Result<GetResponse, StoreError> {
    let options = GetOptions::new()
        .with_range(end)
        .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
        .with_revision(revision);
    let mut kv = store.kv.clone();
    store.call(async move { kv.get(from, Some(options)).await }).await
}

/// As many entries as fill a page, judged by the last one; it grows step by step, so that
/// larger values further on do not make a page that is far too large.
fn next_limit(entries: &[KeyValue], limit: usize) -> usize {
    let bytes: usize = entries.iter().map(|entry| entry.key().len() + entry.value().len()).sum();
    let mean = bytes / entries.len().max(1) + 1;
    (PAGE_BYTES / mean).clamp(1, (limit * GROWTH).min(PAGE_ENTRIES))
}

/// The first key after all keys with this prefix.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // No key is greater than all with such a prefix: to the end of the key space.
    vec![0]
}

/// etcd's entry as ours; a key or prefix that is not ours is refused.
pub(super) fn to_entry(store: &EtcdStore, entry: KeyValue) -> Result<Entry, StoreError> {
    let (create_revision, mod_revision) = (entry.create_revision(), entry.mod_revision());
    let key = own_key(store, entry.key())?;
    let (_, value) = entry.into_key_value();
    Ok(Entry { key, value, create_revision, mod_revision })
}

/// The key without our prefix.
pub(super) fn own_key(store: &EtcdStore, key: &[u8]) -> Result<String, StoreError> {
    key.strip_prefix(store.prefix.as_bytes())
        .and_then(|key| std::str::from_utf8(key).ok())
        .map(str::to_owned)
        .ok_or_else(|| StoreError::Invalid {
            detail: format!(
                "etcd holds key {:?} under prefix {}, which is not text; delete it",
                String::from_utf8_lossy(key),
                store.prefix
            ),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_behind_it() {
        assert_eq!(prefix_end(b"/a/"), b"/a0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
    }
}
