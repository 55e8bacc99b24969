//! Random histories with crashes: the embedded store against a model.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

use fgpu_store::{Compare, EmbeddedStore, Entry, Snapshot, Store, StoreError, Txn};
use proptest::prelude::*;

/// What happens to the store.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(u8, Change)>),
    /// A transaction under the condition that a key is as the model has it, or is not.
    Guarded {
        key: u8,
        holds: bool,
        changes: Vec<(u8, Change)>,
    },
    Reopen,
    /// Closes the store and cuts this share (of 65,536) of the file off.
    Crash(u16),
    Compact,
}

#[derive(Debug, Clone)]
enum Change {
    Put(Vec<u8>),
    Delete,
}

fn changes() -> impl Strategy<Value = Vec<(u8, Change)>> {
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 200_000..400_000),
    ];
    let change = prop_oneof![3 => value.prop_map(Change::Put), 1 => Just(Change::Delete)];
    prop::collection::btree_map(0..12_u8, change, 0..6).prop_map(|map| map.into_iter().collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => changes().prop_map(Step::Commit),
        5 => (0..12_u8, any::<bool>(), changes())
            .prop_map(|(key, holds, changes)| Step::Guarded { key, holds, changes }),
        2 => Just(Step::Reopen),
        2 => any::<u16>().prop_map(Step::Crash),
        1 => Just(Step::Compact),
    ]
}

/// The committed states, by revision; the last is the current one.
struct Model {
    states: BTreeMap<i64, BTreeMap<String, Entry>>,
}

impl Model {
    fn new() -> Self {
        Self { states: BTreeMap::from([(1, BTreeMap::new())]) }
    }

    fn revision(&self) -> i64 {
        *self.states.last_key_value().unwrap().0
    }

    fn current(&self) -> &BTreeMap<String, Entry> {
        self.states.last_key_value().unwrap().1
    }

    fn snapshot(&self, revision: i64) -> Option<Snapshot> {
        let entries = self.states.get(&revision)?.values().cloned().collect();
        Some(Snapshot { revision, entries })
    }

    fn apply(&mut self, changes: &[(u8, Change)]) {
        let revision = self.revision() + 1;
        let mut state = self.current().clone();
        let mut changed = false;
        for (key, change) in changes {
            let key = name(*key);
            match change {
                Change::Put(value) => {
                    let create_revision =
                        state.get(&key).map_or(revision, |entry| entry.create_revision);
                    let value = value.clone();
                    let entry =
                        Entry { key: key.clone(), value, create_revision, mod_revision: revision };
                    state.insert(key, entry);
                    changed = true;
                }
                Change::Delete => changed |= state.remove(&key).is_some(),
            }
        }
        if changed {
            self.states.insert(revision, state);
        }
    }

    /// Forgets what a crash has taken.
    fn cut_to(&mut self, revision: i64) {
        self.states.retain(|state, _| *state <= revision);
    }
}

fn name(key: u8) -> String {
    format!("key/{key}")
}

fn txn(changes: &[(u8, Change)]) -> Txn {
    changes.iter().fold(Txn::new(), |txn, (key, change)| match change {
        Change::Put(value) => txn.put(name(*key), value.clone()),
        Change::Delete => txn.delete(name(*key)),
    })
}

async fn guarded(
    store: &EmbeddedStore,
    model: &mut Model,
    key: u8,
    holds: bool,
    changes: &[(u8, Change)],
) {
    let revision = model.current().get(&name(key)).map_or(0, |entry| entry.mod_revision);
    let revision = if holds { revision } else { revision + 1 };
    let compare = Compare::ModRevision { key: name(key), revision };
    match store.commit(txn(changes).compare(compare)).await {
        Ok(_) => {
            assert!(holds, "the compare of {} should have failed", name(key));
            model.apply(changes);
        }
        Err(StoreError::Conflict { .. }) => assert!(!holds, "the compare should have held"),
        Err(other) => panic!("{other:?}"),
    }
}

/// Cuts the file and opens it: the state is one that was committed, or the cut is reported.
async fn crash(path: &Path, share: u16, model: &mut Model) -> Option<EmbeddedStore> {
    let len = std::fs::metadata(path).unwrap().len();
    let keep = len - len * u64::from(share) / 65_536;
    OpenOptions::new().write(true).open(path).unwrap().set_len(keep).unwrap();
    match EmbeddedStore::open(path).await {
        Ok(store) => {
            let found = store.range("").await.unwrap();
            assert_eq!(Some(&found), model.snapshot(found.revision).as_ref());
            if keep == len {
                assert_eq!(found.revision, model.revision(), "nothing was cut off");
            }
            model.cut_to(found.revision);
            Some(store)
        }
        // No crash cuts into the snapshot, which was synced before the file got its name.
        Err(StoreError::Corrupt { .. }) => None,
        Err(other) => panic!("{other:?}"),
    }
}

async fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut model = Model::new();
    let mut store = EmbeddedStore::open(&path).await.unwrap();
    for step in steps {
        match step {
            Step::Commit(changes) => {
                store.commit(txn(&changes)).await.unwrap();
                model.apply(&changes);
            }
            Step::Guarded { key, holds, changes } => {
                guarded(&store, &mut model, key, holds, &changes).await;
            }
            Step::Compact => store.compact(model.revision()).await.unwrap(),
            Step::Reopen => {
                drop(store);
                store = EmbeddedStore::open(&path).await.unwrap();
            }
            Step::Crash(share) => {
                drop(store);
                match crash(&path, share, &mut model).await {
                    Some(opened) => store = opened,
                    None => return,
                }
            }
        }
        let found = store.range("").await.unwrap();
        assert_eq!(Some(found), model.snapshot(model.revision()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_history_of_writes_and_crashes_the_state_is_a_committed_one(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(run(steps));
    }
}
