//! The embedded store on a disk that fails.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tempfile::TempDir;

use super::file::LogFile;
use super::{EmbeddedStore, frame};
use crate::{Compare, Store, StoreError, Txn};

/// Linux: no space left on device; input/output error.
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// What the disk refuses.
#[derive(Default)]
struct Disk {
    full: AtomicBool,
    no_sync: AtomicBool,
    no_truncate: AtomicBool,
    syncs: AtomicUsize,
    /// While true, a sync waits.
    held: Mutex<bool>,
    released: Condvar,
}

impl Disk {
    fn hold(&self, hold: bool) {
        *self.held.lock().unwrap() = hold;
        self.released.notify_all();
    }
}

/// A log file on a [`Disk`].
struct FailingFile {
    disk: Arc<Disk>,
    file: Box<dyn LogFile>,
}

impl LogFile for FailingFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.disk.full.load(Ordering::SeqCst) {
            // As a real disk does: what still fits is written.
            self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.syncs.fetch_add(1, Ordering::SeqCst);
        let mut held = self.disk.held.lock().unwrap();
        while *held {
            held = self.disk.released.wait(held).unwrap();
        }
        if self.disk.no_sync.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.file.sync()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if self.disk.no_truncate.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.file.truncate(len)
    }
}

struct Fixture {
    _folder: TempDir,
    path: PathBuf,
    disk: Arc<Disk>,
    store: EmbeddedStore,
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let disk = Arc::new(Disk::default());
    let store = open_on(&path, &disk).await;
    Fixture { _folder: folder, path, disk, store }
}

async fn open_on(path: &std::path::Path, disk: &Arc<Disk>) -> EmbeddedStore {
    let disk = Arc::clone(disk);
    EmbeddedStore::open_with(path, |file| Box::new(FailingFile { disk, file })).await.unwrap()
}

async fn values(store: &EmbeddedStore) -> Vec<String> {
    let entries = store.range("").await.unwrap().entries;
    entries.into_iter().map(|entry| String::from_utf8(entry.value).unwrap()).collect()
}

#[tokio::test]
async fn a_full_disk_fails_the_commit_changes_nothing_and_heals() {
    let fixture = fixture().await;
    let store = &fixture.store;
    let before = store.commit(Txn::new().put("a", "1")).await.unwrap();
    let len = std::fs::metadata(&fixture.path).unwrap().len();

    fixture.disk.full.store(true, Ordering::SeqCst);
    let full = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
    assert_eq!(std::fs::metadata(&fixture.path).unwrap().len(), len);
    assert_eq!(values(store).await, ["1"]);

    fixture.disk.full.store(false, Ordering::SeqCst);
    assert_eq!(store.commit(Txn::new().put("a", "3")).await.unwrap(), before + 1);
    drop(fixture.store);
    let store = EmbeddedStore::open(&fixture.path).await.unwrap();
    assert_eq!(values(&store).await, ["3"]);
}

#[tokio::test]
async fn a_commit_that_cannot_be_undone_is_unknown_and_stops_all_writes_until_reopened() {
    let fixture = fixture().await;
    let store = &fixture.store;
    store.commit(Txn::new().put("a", "1")).await.unwrap();

    fixture.disk.full.store(true, Ordering::SeqCst);
    fixture.disk.no_truncate.store(true, Ordering::SeqCst);
    let unknown = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
    assert!(matches!(unknown, StoreError::Unknown { .. }), "{unknown:?}");
    fixture.disk.full.store(false, Ordering::SeqCst);
    fixture.disk.no_truncate.store(false, Ordering::SeqCst);

    let poisoned = store.commit(Txn::new().put("a", "3")).await.unwrap_err();
    assert!(matches!(poisoned, StoreError::Poisoned { .. }), "{poisoned:?}");
    assert_eq!(values(store).await, ["1"], "reads go on");
    drop(fixture.store);
    let store = EmbeddedStore::open(&fixture.path).await.unwrap();
    assert_eq!(values(&store).await, ["1"]);
    store.commit(Txn::new().put("a", "4")).await.unwrap();
}

#[tokio::test]
async fn a_sync_that_fails_leaves_the_commit_unknown() {
    let fixture = fixture().await;
    fixture.disk.no_sync.store(true, Ordering::SeqCst);
    let unknown = fixture.store.commit(Txn::new().put("a", "1")).await.unwrap_err();
    assert!(matches!(unknown, StoreError::Unknown { .. }), "{unknown:?}");
    assert_eq!(values(&fixture.store).await, Vec::<String>::new());
}

#[tokio::test]
async fn commits_that_wait_together_share_one_sync_and_see_each_other() {
    let fixture = fixture().await;
    let Fixture { store, disk, .. } = &fixture;
    disk.hold(true);
    let before = disk.syncs.load(Ordering::SeqCst);
    let first = store.commit(Txn::new().put("first", "1"));
    let rest = futures_util::future::join_all((0..50).map(|index| {
        let create = Txn::new().compare(Compare::absent("shared")).put("shared", "1");
        store.commit(create.put(format!("k{index}"), "1"))
    }));
    let release = async {
        // The others queue up behind the first one, whose sync is held.
        while disk.syncs.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        disk.hold(false);
    };
    let (first, rest, ()) = tokio::join!(first, rest, release);

    first.unwrap();
    assert_eq!(rest.iter().filter(|outcome| outcome.is_ok()).count(), 1, "one creates it");
    let syncs = disk.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs <= 3, "51 commits took {syncs} syncs");
}

#[tokio::test]
async fn a_batch_that_fails_takes_the_conflicts_that_rest_on_it_along() {
    let fixture = fixture().await;
    let Fixture { store, disk, .. } = &fixture;
    disk.full.store(true, Ordering::SeqCst);
    let create = || store.commit(Txn::new().compare(Compare::absent("a")).put("a", "1"));
    for outcome in futures_util::future::join_all([create(), create(), create()]).await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_store_opens_on_a_full_disk_and_deletes_orphaned_keys_once_there_is_space() {
    let fixture = fixture().await;
    let lease = fixture.store.grant_lease(std::time::Duration::from_secs(600)).await.unwrap();
    fixture.store.commit(Txn::new().put_with_lease("a", "1", lease)).await.unwrap();
    let Fixture { _folder, path, disk, store } = fixture;
    drop(store);

    disk.full.store(true, Ordering::SeqCst);
    let store = open_on(&path, &disk).await;
    let full = store.commit(Txn::new().put("b", "1")).await.unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
    disk.full.store(false, Ordering::SeqCst);

    let start = std::time::Instant::now();
    while !values(&store).await.is_empty() {
        assert!(start.elapsed().as_secs() < 60, "still there: {:?}", values(&store).await);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_by_the_clock_of_the_runtime() {
    let fixture = fixture().await;
    let store = &fixture.store;
    let ttl = std::time::Duration::from_secs(10);
    let lease = store.grant_lease(ttl).await.unwrap();
    tokio::time::advance(ttl / 2).await;
    store.keep_alive(lease).await.unwrap();
    tokio::time::advance(ttl * 3 / 4).await;
    store.keep_alive(lease).await.unwrap();
    tokio::time::advance(ttl).await;
    let expired = store.keep_alive(lease).await.unwrap_err();
    assert!(matches!(expired, StoreError::LeaseExpired { .. }), "{expired:?}");
}

#[tokio::test]
async fn a_value_that_looks_like_a_frame_does_not_hide_a_torn_write() {
    let fixture = fixture().await;
    fixture.store.commit(Txn::new().put("a", "1")).await.unwrap();
    let Fixture { _folder, path, store, .. } = fixture;
    let intact = std::fs::metadata(&path).unwrap().len();
    let whole = std::fs::read(&path).unwrap();
    // The salt of this file is known to nobody who only writes values.
    let other_salt = frame::encode_frame(1, 2, b"payload");
    store.commit(Txn::new().put("b", other_salt)).await.unwrap();
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[..whole.len()], whole);
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();

    let store = EmbeddedStore::open(&path).await.unwrap();
    assert_eq!(values(&store).await, ["1"]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), intact);
}
