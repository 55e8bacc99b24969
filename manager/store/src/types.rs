//! What goes into the store and comes out of it.

use std::fmt;
use std::pin::Pin;

use futures_util::Stream;

use crate::StoreError;

/// Most writes in one transaction.
///
/// etcd refuses a transaction in which the compares, the writes, or the reads made on failure
/// (each counted by itself) exceed `--max-txn-ops`, 128 by default. This stays below with room
/// for a caller's fencing condition.
pub const MAX_TXN_WRITES: usize = 120;

/// Most compares in one transaction: etcd's own limit, see [`MAX_TXN_WRITES`].
pub const MAX_TXN_COMPARES: usize = 128;

/// Most bytes in one transaction, as [`Txn::size_bytes`] counts them.
///
/// etcd's default limit on a request (`--max-request-bytes`) is 1.5 MiB = 1,572,864 bytes; the
/// rest is headroom for etcd's own framing and for the key prefix.
pub const MAX_TXN_BYTES: usize = 1_500_000 - 64 * 1024;

/// Bytes counted for each compare and write beside its key and value.
const OPERATION_OVERHEAD_BYTES: usize = 64;

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, without the store's own prefix.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key; a key that is deleted and put again is created anew.
    pub create_revision: i64,
    /// The revision of the last put.
    pub mod_revision: i64,
}

/// Entries as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision at which the entries were read.
    pub revision: i64,
    /// The entries, sorted by key.
    pub entries: Vec<Entry>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent {
        /// The key.
        key: String,
    },
    /// The key was last put at this revision (0: it does not exist).
    ModRevision {
        /// The key.
        key: String,
        /// The revision it must have.
        revision: i64,
    },
    /// The key was created at this revision (0: it does not exist).
    CreateRevision {
        /// The key.
        key: String,
        /// The revision it must have.
        revision: i64,
    },
    /// The key exists and has this value. Unlike a revision, a value is known before the write that
    /// puts it has been made, so that the next write can rest on it.
    Value {
        /// The key.
        key: String,
        /// The value it must have.
        value: Vec<u8>,
    },
}

impl Compare {
    /// Holds while nobody has changed `entry`.
    #[must_use]
    pub fn unchanged(entry: &Entry) -> Self {
        Self::ModRevision { key: entry.key.clone(), revision: entry.mod_revision }
    }

    /// Holds while `key` does not exist.
    #[must_use]
    pub fn absent(key: impl Into<String>) -> Self {
        Self::Absent { key: key.into() }
    }

    /// The key it looks at.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Absent { key }
            | Self::ModRevision { key, .. }
            | Self::CreateRevision { key, .. }
            | Self::Value { key, .. } => key,
        }
    }

    /// Whether it holds for a key that was created and last put at these revisions and has this
    /// value; `None`: the key does not exist.
    pub(crate) fn holds(&self, found: Option<(i64, i64, &[u8])>) -> bool {
        let (created, modified) =
            found.map_or((0, 0), |(created, modified, _)| (created, modified));
        match self {
            Self::Absent { .. } => found.is_none(),
            Self::ModRevision { revision, .. } => modified == *revision,
            Self::CreateRevision { revision, .. } => created == *revision,
            Self::Value { value, .. } => found.is_some_and(|(_, _, found)| found == value),
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { key } => write!(f, "{key} is absent"),
            Self::ModRevision { key, revision } => {
                write!(f, "{key} was last changed at revision {revision}")
            }
            Self::CreateRevision { key, revision } => {
                write!(f, "{key} was created at revision {revision}")
            }
            Self::Value { key, value } => {
                write!(f, "{key} is {:?}", String::from_utf8_lossy(value))
            }
        }
    }
}

/// A change a transaction makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces a key.
    Put {
        /// The key; not empty.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease the key is bound to from now on; `None` unbinds it.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; an absent key is no error.
    Delete {
        /// The key; not empty.
        key: String,
    },
}

impl Write {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Writes that are made together, if all compares hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold; at most [`MAX_TXN_COMPARES`].
    pub compares: Vec<Compare>,
    /// What to change, each key at most once; at most [`MAX_TXN_WRITES`].
    pub writes: Vec<Write>,
}

impl Txn {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn compare(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a put of a key without a lease.
    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.write(Write::Put { key: key.into(), value: value.into(), lease: None })
    }

    /// Adds a put of a key that lives as long as `lease`.
    #[must_use]
    pub fn put_with_lease(
        self,
        key: impl Into<String>,
        value: impl Into<Vec<u8>>,
        lease: LeaseId,
    ) -> Self {
        self.write(Write::Put { key: key.into(), value: value.into(), lease: Some(lease) })
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.write(Write::Delete { key: key.into() })
    }

    /// Adds a write.
    #[must_use]
    pub fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// The size that counts against [`MAX_TXN_BYTES`]: keys, values and a fixed amount for each
    /// compare and write. A compare's key counts twice, because it is read back on failure.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| match compare {
            Compare::Value { key, value } => 2 * key.len() + value.len(),
            other => 2 * other.key().len(),
        });
        let writes = self.writes.iter().map(|write| match write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
        });
        let operations = self.compares.len() + self.writes.len();
        compares.chain(writes).sum::<usize>() + operations * OPERATION_OVERHEAD_BYTES
    }

    /// Refuses what etcd would refuse, so that both stores refuse the same.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        check_limit("writes in one transaction", self.writes.len(), MAX_TXN_WRITES)?;
        check_limit("compares in one transaction", self.compares.len(), MAX_TXN_COMPARES)?;
        check_limit("bytes in one transaction", self.size_bytes(), MAX_TXN_BYTES)?;
        let mut keys: Vec<&str> = self.writes.iter().map(Write::key).collect();
        // Mostly they are in order, which costs one look at each.
        keys.sort_unstable();
        if let Some([key, _]) = keys.array_windows().find(|[key, next]| key == next) {
            let detail = format!("the transaction writes key {key} twice");
            return Err(StoreError::Invalid { detail });
        }
        let compared = self.compares.iter().map(Compare::key);
        if compared.chain(keys.first().copied()).any(str::is_empty) {
            return Err(StoreError::Invalid { detail: "a key is empty".to_owned() });
        }
        Ok(())
    }
}

fn check_limit(what: &'static str, actual: usize, limit: usize) -> Result<(), StoreError> {
    if actual > limit {
        return Err(StoreError::TooLarge { what, actual, limit });
    }
    Ok(())
}

/// A lease: keys bound to it are deleted when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was put; its `mod_revision` is the revision of the change.
    Put(Entry),
    /// A key was deleted, or its lease ended.
    Deleted {
        /// The key.
        key: String,
        /// The revision of the change.
        revision: i64,
    },
}

impl WatchEvent {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// What [`Store::range_pages`](crate::Store::range_pages) returns.
pub type PageStream = Pin<Box<dyn Stream<Item = Result<Snapshot, StoreError>> + Send>>;

/// What [`Store::watch`](crate::Store::watch) returns.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<Vec<WatchEvent>, StoreError>> + Send>>;

/// What a store is and how full it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// `"etcd"` or `"embedded"`.
    pub kind: &'static str,
    /// The endpoints, or the path of the file.
    pub location: String,
    /// The current revision.
    pub revision: i64,
    /// Bytes the store takes on disk.
    pub size_bytes: u64,
    /// Bytes it may take at most, where the store tells.
    pub quota_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_at_the_limits_is_accepted_and_one_above_is_refused_with_numbers() {
        let fill = |count: usize| {
            (0..count).fold(Txn::new(), |txn, index| txn.put(format!("k{index}"), "v"))
        };
        fill(MAX_TXN_WRITES).check().unwrap();
        let refused = fill(MAX_TXN_WRITES + 1).check().unwrap_err();
        assert_eq!(refused.to_string(), "121 writes in one transaction exceed the limit of 120");

        let overhead = Txn::new().put("k", "").size_bytes();
        let exact = vec![0_u8; MAX_TXN_BYTES - overhead];
        Txn::new().put("k", exact.clone()).check().unwrap();
        let above = Txn::new().put("kk", exact).check().unwrap_err();
        assert!(matches!(above, StoreError::TooLarge { .. }), "{above:?}");
    }

    #[test]
    fn a_transaction_that_writes_a_key_twice_or_an_empty_key_is_refused() {
        for txn in [
            Txn::new().put("a", "1").delete("a"),
            Txn::new().delete("a").delete("a"),
            Txn::new().put("", "1"),
            Txn::new().compare(Compare::absent("")),
        ] {
            let refused = txn.check().unwrap_err();
            assert!(matches!(refused, StoreError::Invalid { .. }), "{txn:?}: {refused:?}");
        }
    }
}
