//! Folders of a cgroup hierarchy.

use std::io;
use std::path::Path;

/// The processes of the cgroup at `folder` and of those below it, sorted.
pub(super) fn processes_below(folder: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    collect(folder, &mut found);
    found.sort_unstable();
    found.dedup();
    found
}

fn collect(folder: &Path, found: &mut Vec<u32>) {
    let listed = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another PID namespace: not ours to see.
    found.extend(
        listed.lines().filter_map(|line| line.trim().parse::<u32>().ok()).filter(|pid| *pid != 0),
    );
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

/// Removes `folder` and the folders below it. The kernel refuses for a cgroup with processes; the
/// files in it do not count.
pub(super) fn remove_empty(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Names of the cgroups directly below the one at `folder`, sorted.
pub(super) fn names_below(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
