//! How a batch becomes transactions.
//!
//! A batch is a sequence of units: what one input changed, and last what was placed. A transaction
//! takes whole units as long as they fit, each record as it is after the last of them. A unit too
//! large for one transaction (a drained node with hundreds of sessions) is written over several:
//! within one unit records do not depend on each other — an input only changes sessions in place or
//! frees what they hold, and placing only adds grants on what the units before it left free — so
//! every prefix is a state the cluster can be rebuilt from.

use fgpu_store::{MAX_TXN_BYTES, MAX_TXN_WRITES};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What else goes into every transaction (fence, mark), generously.
const OWN_BYTES: usize = 4096;
const OWN_WRITES: usize = 1;
/// What the store counts for a write beside key and value.
const WRITE_OVERHEAD: usize = 64;

/// One write: a record, or `None` for a delete.
pub(super) type Operation = (String, Option<Vec<u8>>);

/// The writes of one transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) writes: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
    /// Units that are complete once this and all chunks before are written.
    pub(super) complete: usize,
    /// Whether it begins within a unit, so that giving up before it would tear that unit.
    pub(super) continues: bool,
}

/// The size of a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) writes: usize,
    pub(super) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { writes: MAX_TXN_WRITES - OWN_WRITES, bytes: MAX_TXN_BYTES - OWN_BYTES }
    }
}

/// The transactions for `units`, in order. Units without writes take part in the one before them,
/// or in none.
pub(super) fn plan(units: Vec<Vec<Operation>>, limits: Limits) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut current = Chunk::default();
    for (index, unit) in units.into_iter().enumerate() {
        if !current.takes(&unit, limits) {
            let complete = current.complete;
            chunks.push(std::mem::take(&mut current));
            current.complete = complete;
        }
        for operation in unit {
            if !current.takes(std::slice::from_ref(&operation), limits) {
                let complete = current.complete;
                chunks.push(std::mem::take(&mut current));
                current = Chunk { complete, continues: true, ..Chunk::default() };
            }
            current.add(operation);
        }
        current.complete = index + 1;
    }
    if !current.writes.is_empty() {
        chunks.push(current);
    } else if let Some(last) = chunks.last_mut() {
        last.complete = current.complete;
    }
    chunks
}

impl Chunk {
    /// Whether `operations` fit as well; anything fits into an empty chunk as a whole or piece by
    /// piece. A record that is in it already takes no place of its own.
    fn takes(&self, operations: &[Operation], limits: Limits) -> bool {
        let bytes: usize = operations.iter().map(size).sum();
        let new = || operations.iter().filter(|(key, _)| !self.writes.contains_key(key)).count();
        self.writes.is_empty()
            || (self.bytes + bytes <= limits.bytes
                && (self.writes.len() + operations.len() <= limits.writes
                    || self.writes.len() + new() <= limits.writes))
    }

    fn add(&mut self, (key, value): Operation) {
        let bytes = size_of(&key, value.as_ref());
        let older = match self.writes.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(value);
                0
            }
            Entry::Occupied(mut entry) => {
                let older = entry.insert(value);
                size_of(entry.key(), older.as_ref())
            }
        };
        self.bytes = self.bytes + bytes - older;
    }
}

fn size((key, value): &Operation) -> usize {
    size_of(key, value.as_ref())
}

fn size_of(key: &str, value: Option<&Vec<u8>>) -> usize {
    WRITE_OVERHEAD + key.len() + value.map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { writes: 3, bytes: 10_000 };

    fn put(key: &str) -> Operation {
        (key.to_owned(), Some(key.as_bytes().to_vec()))
    }

    fn shape(units: &[&[&str]]) -> Vec<(Vec<String>, usize, bool)> {
        let units = units.iter().map(|unit| unit.iter().map(|key| put(key)).collect()).collect();
        plan(units, LIMITS)
            .into_iter()
            .map(|chunk| (chunk.writes.into_keys().collect(), chunk.complete, chunk.continues))
            .collect()
    }

    fn keys(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_fits_together_is_one_transaction_and_a_record_is_written_once() {
        assert_eq!(shape(&[&["a"], &[], &["a", "b"]]), [(keys("a b"), 3, false)]);
        assert_eq!(shape(&[&[], &[]]), []);
    }

    #[test]
    fn a_record_written_again_takes_no_second_place() {
        assert_eq!(shape(&[&["a"], &["b"], &["c"], &["a", "b", "c"]]), [(keys("a b c"), 4, false)]);
        let large = |size| vec![("a".to_owned(), Some(vec![0; size]))];
        let units = vec![large(4000), large(5000), vec![put("b")], large(4500)];
        let chunks = plan(units, LIMITS);
        assert_eq!(chunks.len(), 1, "what it replaces counts no more: {chunks:?}");
    }

    #[test]
    fn a_unit_is_not_torn_while_it_fits_into_one_transaction() {
        assert_eq!(
            shape(&[&["a", "b"], &["c", "d"], &[]]),
            [(keys("a b"), 1, false), (keys("c d"), 3, false)]
        );
    }

    #[test]
    fn a_unit_too_large_for_one_is_written_over_several_and_says_so() {
        assert_eq!(
            shape(&[&["x"], &["a", "b", "c", "d", "e"], &["y"]]),
            [(keys("x"), 1, false), (keys("a b c"), 1, false), (keys("d e y"), 3, true),]
        );
    }

    #[test]
    fn bytes_count_as_well() {
        let large = |key: &str| vec![(key.to_owned(), Some(vec![0; 6000]))];
        let chunks = plan(vec![large("a"), large("b")], LIMITS);
        assert_eq!(chunks.len(), 2);
        assert_eq!((chunks[0].complete, chunks[1].complete), (1, 2));
    }
}
