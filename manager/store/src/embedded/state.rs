//! What the store holds in memory: the entries, and the history that watches read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::{Entry, LeaseId, Snapshot, StoreError, Txn, WatchEvent, Write};

/// The history kept for watches; the oldest revisions go first when either is exceeded.
const MAX_HISTORY_CHANGES: usize = 100_000;
const MAX_HISTORY_BYTES: usize = 32 << 20;
/// Bytes an entry takes in the file beside its key and value.
const ENTRY_OVERHEAD: u64 = 25;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) value: Arc<[u8]>,
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
    pub(super) lease: Option<LeaseId>,
}

/// One key's new value, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Arc<str>,
    pub(super) record: Option<Record>,
}

/// All changes of one revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Revision {
    pub(super) revision: i64,
    pub(super) changes: Vec<Change>,
}

impl Revision {
    fn size_bytes(&self) -> usize {
        let size = |change: &Change| {
            change.key.len() + change.record.as_ref().map_or(0, |record| record.value.len())
        };
        self.changes.iter().map(size).sum()
    }
}

/// Everything that is committed.
#[derive(Debug)]
pub(super) struct State {
    pub(super) revision: i64,
    /// The first revision a watch may start from.
    pub(super) oldest: i64,
    /// About how many bytes a rewritten file would take.
    pub(super) live_bytes: u64,
    entries: BTreeMap<Arc<str>, Record>,
    history: VecDeque<Arc<Revision>>,
    history_changes: usize,
    history_bytes: usize,
}

impl State {
    /// A state with `entries` as of `revision` and no history before it.
    pub(super) fn new(revision: i64, entries: Vec<(Arc<str>, Record)>) -> Self {
        let mut state = Self {
            revision,
            // A store at revision 1 has never changed: there is nothing a watch could miss.
            oldest: if revision == 1 { 1 } else { revision + 1 },
            live_bytes: 0,
            entries: BTreeMap::new(),
            history: VecDeque::new(),
            history_changes: 0,
            history_bytes: 0,
        };
        for (key, record) in entries {
            state.set(Change { key, record: Some(record) });
        }
        state
    }

    pub(super) fn get(&self, key: &str) -> Option<&Record> {
        self.entries.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Record)> {
        self.entries.iter()
    }

    pub(super) fn range(&self, prefix: &str) -> Snapshot {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let entries = self
            .entries
            .range::<str, _>(from)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, record)| entry(key, record))
            .collect();
        Snapshot { revision: self.revision, entries }
    }

    /// Makes the changes of the next revision.
    pub(super) fn apply(&mut self, revision: Arc<Revision>) {
        self.revision = revision.revision;
        for change in &revision.changes {
            self.set(change.clone());
        }
        self.history_changes += revision.changes.len();
        self.history_bytes += revision.size_bytes();
        self.history.push_back(revision);
        while self.history_changes > MAX_HISTORY_CHANGES || self.history_bytes > MAX_HISTORY_BYTES {
            self.forget_first();
        }
    }

    /// Forgets the history before `revision`.
    pub(super) fn compact(&mut self, revision: i64) {
        while self.history.front().is_some_and(|first| first.revision < revision) {
            self.forget_first();
        }
        self.oldest = self.oldest.max(revision);
    }

    /// The changes to keys under `prefix` from revision `next` on, at most about `limit` of
    /// them, and the revision to go on from.
    pub(super) fn changes_from(
        &self,
        next: i64,
        prefix: &str,
        limit: usize,
    ) -> Result<(Vec<WatchEvent>, i64), StoreError> {
        if next < self.oldest {
            return Err(StoreError::Compacted { requested: next, oldest: self.oldest });
        }
        let start = self.history.partition_point(|revision| revision.revision < next);
        let mut events = Vec::new();
        for revision in self.history.range(start..) {
            if events.len() >= limit {
                return Ok((events, revision.revision));
            }
            let matching = revision.changes.iter().filter(|change| change.key.starts_with(prefix));
            events.extend(matching.map(|change| event(change, revision.revision)));
        }
        Ok((events, next.max(self.revision + 1)))
    }

    fn set(&mut self, Change { key, record }: Change) {
        let size = |key: &str, value: &[u8]| {
            u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX) + ENTRY_OVERHEAD
        };
        let old = match record {
            Some(record) => {
                self.live_bytes += size(&key, &record.value);
                self.entries.insert(Arc::clone(&key), record)
            }
            None => self.entries.remove(&key),
        };
        if let Some(old) = old {
            self.live_bytes -= size(&key, &old.value);
        }
    }

    fn forget_first(&mut self) {
        if let Some(first) = self.history.pop_front() {
            self.history_changes -= first.changes.len();
            self.history_bytes -= first.size_bytes();
            self.oldest = first.revision + 1;
        }
    }
}

fn entry(key: &str, record: &Record) -> Entry {
    Entry {
        key: key.to_owned(),
        value: record.value.to_vec(),
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
    }
}

fn event(change: &Change, revision: i64) -> WatchEvent {
    match &change.record {
        Some(record) => WatchEvent::Put(entry(&change.key, record)),
        None => WatchEvent::Deleted { key: change.key.to_string(), revision },
    }
}

/// Transactions that are decided but not yet durable, on top of a [`State`].
pub(super) struct Stage<'a> {
    base: &'a State,
    overlay: BTreeMap<Arc<str>, Option<Record>>,
    revision: i64,
    /// The revisions to write.
    pub(super) revisions: Vec<Arc<Revision>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(base: &'a State) -> Self {
        let overlay = BTreeMap::new();
        Self { base, overlay, revision: base.revision, revisions: Vec::new() }
    }

    /// Decides `txn` on top of what is staged; the revision after it.
    pub(super) fn add(
        &mut self,
        txn: Txn,
        lease_lives: impl Fn(LeaseId) -> bool,
    ) -> Result<i64, StoreError> {
        let Txn { compares, writes } = txn;
        let fails = |compare: &crate::Compare| {
            let found = self.get(compare.key());
            let found =
                found.map(|found| (found.create_revision, found.mod_revision, &*found.value));
            !compare.holds(found)
        };
        let failed: Vec<_> = compares.into_iter().filter(fails).collect();
        if !failed.is_empty() {
            return Err(StoreError::Conflict { failed });
        }
        for write in &writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && !lease_lives(*lease)
            {
                return Err(StoreError::LeaseExpired { lease: *lease });
            }
        }
        let changes = writes.into_iter().filter_map(|write| self.change(write)).collect();
        Ok(self.push(changes))
    }

    /// Deletes all keys bound to `lease`, which must not be staged with other changes to them.
    pub(super) fn delete_keys_of(&mut self, lease: LeaseId) -> i64 {
        let bound = self.base.iter().filter(|(_, record)| record.lease == Some(lease));
        let changes = bound.map(|(key, _)| Change { key: Arc::clone(key), record: None }).collect();
        self.push(changes)
    }

    fn push(&mut self, changes: Vec<Change>) -> i64 {
        if !changes.is_empty() {
            self.revision += 1;
            for change in &changes {
                self.overlay.insert(Arc::clone(&change.key), change.record.clone());
            }
            self.revisions.push(Arc::new(Revision { revision: self.revision, changes }));
        }
        self.revision
    }

    fn change(&self, write: Write) -> Option<Change> {
        let old = self.get(write.key());
        match write {
            Write::Put { key, value, lease } => {
                let mod_revision = self.revision + 1;
                let create_revision = old.map_or(mod_revision, |record| record.create_revision);
                let value = Arc::from(value);
                let record = Record { value, create_revision, mod_revision, lease };
                Some(Change { key: Arc::from(key), record: Some(record) })
            }
            Write::Delete { key } => old.map(|_| Change { key: Arc::from(key), record: None }),
        }
    }

    fn get(&self, key: &str) -> Option<&Record> {
        match self.overlay.get(key) {
            Some(staged) => staged.as_ref(),
            None => self.base.get(key),
        }
    }
}
