//! Keeps the ledger file up to date without holding up who changes it.

use super::{Ledger, file};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a failed write waits before it is tried again.
const RETRY: Duration = Duration::from_secs(3);

/// What has been written so far.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Number of the last change that is durable.
    pub revision: u64,
    /// What the file system says, while it does not take a change.
    pub problem: Option<String>,
}

/// Cheap to clone; every clone may wait, one of them writes.
#[derive(Debug, Clone)]
pub struct LedgerWriter {
    wanted: watch::Sender<(u64, Arc<Ledger>)>,
    written: watch::Receiver<Written>,
}

impl LedgerWriter {
    /// Starts the task that writes into `folder`. It ends when the last clone is gone and all is
    /// written, or could not be.
    #[must_use]
    pub fn start(folder: PathBuf, ledger: Ledger) -> Self {
        let (wanted, changes) = watch::channel((0, Arc::new(ledger)));
        let (report, written) = watch::channel(Written::default());
        tokio::spawn(write_all(folder, changes, report));
        Self { wanted, written }
    }

    /// Hands over a new content and returns its number. Contents that come while one is being
    /// written are skipped but for the last.
    pub fn put(&self, ledger: Ledger) -> u64 {
        let mut number = 0;
        self.wanted.send_modify(|(revision, content)| {
            *revision += 1;
            number = *revision;
            *content = Arc::new(ledger);
        });
        number
    }

    /// Waits until the content with number `revision` is durable, at most `limit`; says whether
    /// it is.
    pub async fn durable(&self, revision: u64, limit: Duration) -> bool {
        let mut written = self.written.clone();
        let reached = written.wait_for(|written| written.revision >= revision);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// What has been written, to watch.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<Written> {
        self.written.clone()
    }
}

async fn write_all(
    folder: PathBuf,
    mut changes: watch::Receiver<(u64, Arc<Ledger>)>,
    report: watch::Sender<Written>,
) {
    let mut identity = None;
    while changes.changed().await.is_ok() {
        loop {
            let (revision, ledger) = changes.borrow_and_update().clone();
            let (into, known) = (folder.clone(), identity.clone());
            let write = tokio::task::spawn_blocking(move || file::store(&into, &ledger, known));
            let problem = match write.await {
                Ok(Ok(written)) => {
                    identity = Some(written);
                    report.send_replace(Written { revision, problem: None });
                    break;
                }
                Ok(Err(error)) => crate::ends::chain(&error),
                Err(error) => error.to_string(),
            };
            if report.borrow().problem.is_none() {
                tracing::error!(%problem, "the ledger cannot be written; trying on");
            }
            report.send_modify(|written| written.problem = Some(problem));
            if changes.has_changed().is_err() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_change_is_durable_when_it_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let writer = LedgerWriter::start(folder.path().to_owned(), Ledger::new("me".to_owned()));

        let changed = Ledger { epoch: 4, ..Ledger::new("me".to_owned()) };
        let revision = writer.put(changed.clone());

        assert!(writer.durable(revision, LONG).await);
        assert_eq!(file::load(folder.path(), 1).unwrap().ledger, changed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_cannot_be_written_is_a_problem_until_it_can() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("later");
        let writer = LedgerWriter::start(folder.clone(), Ledger::new("me".to_owned()));

        let revision = writer.put(Ledger::new("me".to_owned()));
        let mut written = writer.written();
        let seen = written.wait_for(|written| written.problem.is_some()).await.unwrap().clone();
        assert!(seen.problem.unwrap().contains("later"));
        std::fs::create_dir(&folder).unwrap();

        assert!(writer.durable(revision, LONG).await);
        assert_eq!(writer.written().borrow().problem, None);
    }
}
