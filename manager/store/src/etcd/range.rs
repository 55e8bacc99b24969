//! Ranges, read in pages at one revision.

use etcd_client::{GetOptions, GetResponse, KeyValue};

use super::{EtcdStore, revision_of};
use crate::{Entry, Snapshot, StoreError};

/// Entries asked for at first, before it is known how large they are: even of the largest
/// values this is less than an answer may hold.
const FIRST_PAGE: usize = 32;
/// What a page should hold.
const PAGE_BYTES: usize = 2 << 20;
const PAGE_ENTRIES: usize = 5000;
/// How often a range is begun again because its revision was compacted meanwhile.
const ATTEMPTS: usize = 5;

pub(super) async fn range(store: &EtcdStore, prefix: &str) -> Result<Snapshot, StoreError> {
    let mut attempt = 1;
    loop {
        match read_pages(store, prefix).await {
            Err(StoreError::Compacted { .. }) if attempt < ATTEMPTS => attempt += 1,
            other => return other,
        }
    }
}

async fn read_pages(store: &EtcdStore, prefix: &str) -> Result<Snapshot, StoreError> {
    let mut from = store.full_key(prefix);
    let end = prefix_end(&from);
    let mut snapshot = Snapshot { revision: 0, entries: Vec::new() };
    let mut limit = FIRST_PAGE;
    loop {
        let mut page =
            read_page(store, from.clone(), end.clone(), limit, snapshot.revision).await?;
        if snapshot.revision == 0 {
            snapshot.revision = revision_of(page.header());
        }
        let more = page.more();
        let entries = page.take_kvs();
        limit = next_limit(&entries, limit);
        if let Some(last) = entries.last() {
            // The smallest key after it.
            from = [last.key(), &[0]].concat();
        }
        for entry in entries {
            snapshot.entries.push(to_entry(store, entry)?);
        }
        if !more {
            return Ok(snapshot);
        }
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
    (PAGE_BYTES / mean).clamp(1, (limit * 4).min(PAGE_ENTRIES))
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
