//! Keeping the store small: history is forgotten regularly, and space is watched.

use fgpu_store::{Store, StoreError, StoreStatus};
use std::sync::Arc;
use std::time::Duration;

/// How often history is forgotten: what is older than one such period goes.
const PERIOD: Duration = Duration::from_secs(5 * 60);
/// From this share of its quota on the store's size is warned of, percent.
const WARN_FROM_PERCENT: u64 = 80;

/// Works until the task is dropped.
pub(crate) async fn run(store: Arc<dyn Store>) {
    let mut old = None;
    loop {
        old = match round(&*store, old).await {
            Ok(revision) => Some(revision),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "upkeep of the store failed"
                );
                old
            }
        };
        tokio::time::sleep(PERIOD).await;
    }
}

/// Forgets the history before `old`; returns where the next round may cut.
async fn round(store: &dyn Store, old: Option<i64>) -> Result<i64, StoreError> {
    if let Some(revision) = old {
        store.compact(revision).await?;
    }
    let status = store.status().await?;
    if let Some(percent) = fullness(&status) {
        tracing::warn!(
            percent,
            bytes = status.size_bytes,
            location = status.location,
            "the store fills up; raise its quota or lower the retention of ended sessions"
        );
    }
    Ok(status.revision)
}

/// How full the store is, if that is worth a warning.
fn fullness(status: &StoreStatus) -> Option<u64> {
    let quota = status.quota_bytes.filter(|quota| *quota > 0)?;
    let percent = status.size_bytes.saturating_mul(100) / quota;
    (percent >= WARN_FROM_PERCENT).then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_store::{EmbeddedStore, Txn};

    #[test]
    fn a_store_is_warned_of_before_it_is_full() {
        let status = |size_bytes, quota_bytes| StoreStatus {
            kind: "etcd",
            location: "here".to_owned(),
            revision: 1,
            size_bytes,
            quota_bytes,
        };
        assert_eq!(fullness(&status(79, Some(100))), None);
        assert_eq!(fullness(&status(80, Some(100))), Some(80));
        assert_eq!(fullness(&status(80, None)), None);
    }

    #[tokio::test]
    async fn each_round_forgets_what_was_history_a_round_ago() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path().join("store")).await.unwrap();
        let first = round(&store, None).await.unwrap();
        store.commit(Txn::new().put("a", "1")).await.unwrap();

        let second = round(&store, Some(first)).await.unwrap();
        round(&store, Some(second)).await.unwrap();

        let refused = store.watch("", first).await;
        let error = match refused {
            Err(error) => error,
            Ok(mut stream) => {
                futures_util::StreamExt::next(&mut stream).await.unwrap().unwrap_err()
            }
        };
        assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
    }
}
