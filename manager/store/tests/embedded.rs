//! What only a file can do: be locked, torn, damaged, rewritten, and full.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fgpu_store::{EmbeddedStore, Store, StoreError, Txn};
use futures_util::StreamExt as _;
use tempfile::TempDir;

fn new_path() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    (folder, path)
}

async fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path).await.unwrap()
}

async fn refused(path: &Path) -> StoreError {
    match EmbeddedStore::open(path).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

async fn put(store: &EmbeddedStore, key: &str, value: impl Into<Vec<u8>>) -> i64 {
    store.commit(Txn::new().put(key, value)).await.unwrap()
}

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_file() {
    let (_folder, path) = new_path();
    let store = open(&path).await;
    let error = refused(&path).await;
    let StoreError::Locked { path: named, pid } = &error else { panic!("{error:?}") };
    assert_eq!((named, *pid), (&path, Some(std::process::id())));
    drop(store);
    open(&path).await;
}

#[tokio::test]
async fn the_lock_holds_when_the_file_has_been_rewritten() {
    let (_folder, path) = new_path();
    let store = open(&path).await;
    grow_and_rewrite(&store).await;
    assert!(matches!(refused(&path).await, StoreError::Locked { .. }));
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone_even_if_it_was_not_before() {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (_folder, path) = new_path();
    grow_and_rewrite(&open(&path).await).await;
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    open(&path).await;
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_folder_that_does_not_exist_is_named() {
    let error = refused(Path::new("/nonexistent/folder/store")).await;
    assert_eq!(error.to_string(), "cannot open /nonexistent/folder/store");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let (_folder, path) = new_path();
    for content in ["#!/bin/sh\necho this is not a store file at all\n", "fgpustor", "x"] {
        std::fs::write(&path, content).unwrap();
        let error = refused(&path).await;
        assert!(matches!(error, StoreError::Corrupt { offset: 0, .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), content.as_bytes());
    }
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_refused_with_both_versions() {
    let (_folder, path) = new_path();
    drop(open(&path).await);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    std::fs::write(&path, bytes).unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, StoreError::NewerFormat { found: 2, supported: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("format version 2, this release reads up to version 1"));
}

#[tokio::test]
async fn damage_before_the_last_write_is_never_dropped_silently() {
    let (_folder, path) = new_path();
    let store = open(&path).await;
    let mut ends = vec![usize::try_from(store.status().await.unwrap().size_bytes).unwrap()];
    for key in ["a", "b", "c"] {
        put(&store, key, vec![7; 100]).await;
        ends.push(usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap());
    }
    drop(store);
    let intact = std::fs::read(&path).unwrap();
    // Every byte of the first two frames: their lengths and checksums, too.
    for index in ends[0]..ends[2] {
        let mut bytes = intact.clone();
        bytes[index] ^= 0x81;
        std::fs::write(&path, &bytes).unwrap();
        let error = refused(&path).await;
        let frame = if index < ends[1] { ends[0] } else { ends[1] };
        let StoreError::Corrupt { path: named, offset, .. } = &error else {
            panic!("byte {index}: {error:?}")
        };
        assert_eq!((named, *offset), (&path, frame as u64), "byte {index}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the file is left as it is");
    }

    // The next step that the error names: its first bytes are a good file.
    std::fs::write(&path, &intact[..ends[1]]).unwrap();
    let entries = open(&path).await.range("").await.unwrap().entries;
    assert_eq!(entries.len(), 1);
}

#[tokio::test]
async fn damage_in_the_snapshot_is_never_dropped_silently() {
    let (_folder, path) = new_path();
    let store = open(&path).await;
    put(&store, "kept", vec![7; 300]).await;
    grow_and_rewrite(&store).await;
    drop(store);
    let intact = std::fs::read(&path).unwrap();
    for index in 36..300 {
        let mut bytes = intact.clone();
        bytes[index] ^= 0x81;
        std::fs::write(&path, &bytes).unwrap();
        let error = refused(&path).await;
        assert!(matches!(error, StoreError::Corrupt { .. }), "byte {index}: {error:?}");
    }
    std::fs::write(&path, &intact[..300]).unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, StoreError::Corrupt { .. }), "cut off: {error:?}");
}

#[tokio::test]
async fn a_torn_write_at_the_end_is_cut_off() {
    let (_folder, path) = new_path();
    let store = open(&path).await;
    put(&store, "a", "1").await;
    let intact = std::fs::metadata(&path).unwrap().len();
    put(&store, "b", "2").await;
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    let start = usize::try_from(intact).unwrap();
    // Cut off anywhere, or with pages that never reached the disk.
    let mut torn: Vec<Vec<u8>> = (start..bytes.len()).map(|end| bytes[..end].to_vec()).collect();
    let mut zeros = bytes.clone();
    zeros[start..].fill(0);
    torn.push(zeros);
    for bytes in torn {
        std::fs::write(&path, &bytes).unwrap();
        let store = open(&path).await;
        assert_eq!(store.range("").await.unwrap().entries.len(), 1, "{} bytes", bytes.len());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), intact);
    }
}

#[tokio::test]
async fn keys_under_a_lease_go_with_the_process_that_held_it() {
    let (_folder, path) = new_path();
    let store = open(&path).await;
    let lease = store.grant_lease(Duration::from_secs(600)).await.unwrap();
    let txn = Txn::new().put_with_lease("leader", "me", lease).put("other", "1");
    let before = store.commit(txn).await.unwrap();
    drop(store);

    let store = open(&path).await;
    let snapshot = store.range("").await.unwrap();
    let keys: Vec<_> = snapshot.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!((keys, snapshot.revision), (vec!["other"], before + 1));
    let error = store.keep_alive(lease).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseExpired { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_of_garbage_is_rewritten_and_loses_nothing() {
    let (_folder, path) = new_path();
    let store = open(&path).await;
    put(&store, "first", "1").await;
    let mut stream = store.watch("first", 1).await.unwrap();
    grow_and_rewrite(&store).await;
    let last = put(&store, "last", "2").await;
    let before = store.range("").await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().len(), 1, "history outlives the rewriting");
    drop(store);

    let store = open(&path).await;
    assert_eq!(store.range("").await.unwrap(), before);
    assert_eq!(before.revision, last);
    assert!(!path.with_file_name("store.tmp").exists());
    let mut stream = store.watch("", last).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap()[0].key(), "last");
}

#[tokio::test]
async fn history_is_bounded_and_a_watch_that_falls_behind_is_told_so() {
    let (_folder, path) = new_path();
    let store = open(&path).await;
    let mut stream = store.watch("", 1).await.unwrap();
    for _ in 0..40 {
        put(&store, "large", vec![0; 1 << 20]).await;
    }
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Compacted { requested: 1, .. }), "{error:?}");
}

/// Replaces one value again and again, until the file has been rewritten.
async fn grow_and_rewrite(store: &EmbeddedStore) {
    let mut size = 0;
    for _ in 0..1000 {
        put(store, "garbage", vec![1; 100_000]).await;
        let now = store.status().await.unwrap().size_bytes;
        if now < size {
            return;
        }
        size = now;
    }
    panic!("the file was never rewritten; it has {size} bytes");
}

/// A file system of 1 MiB in memory; unmounted on drop.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(
            mount.status.success(),
            "cannot mount a tmpfs, which this test needs; run it as root: {mount:?}"
        );
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_refuses_writes_until_there_is_space_and_loses_nothing() {
    let disk = SmallDisk::new();
    let path = disk.0.path().join("store");
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 600 << 10]).unwrap();
    let store = open(&path).await;
    let mut written = 0;
    let full = loop {
        match store.commit(Txn::new().put(format!("{written:03}"), vec![7; 10_000])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 200, "the disk is never full");
    };
    let StoreError::Full { location, .. } = &full else { panic!("{full:?}") };
    assert_eq!(location, path.to_str().unwrap());
    assert_eq!(store.range("").await.unwrap().entries.len(), written, "nothing half done");
    let again = store.commit(Txn::new().put("large", vec![7; 100_000])).await.unwrap_err();
    assert!(matches!(again, StoreError::Full { .. }), "{again:?}");

    std::fs::remove_file(&ballast).unwrap();
    put(&store, "after", vec![7; 10_000]).await;
    let before = store.range("").await.unwrap();
    assert_eq!(before.entries.len(), written + 1);
    drop(store);
    assert_eq!(open(&path).await.range("").await.unwrap(), before);
}
