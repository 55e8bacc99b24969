//! Which images the node holds: asked of the runtime now and then, and whenever a session has come to
//! run, which may have brought one.
//!
//! It is a hint for the manager and nothing more: an engine that does not answer leaves the last
//! answer standing.

use crate::supervisor::{Snapshot, StandingState, SupervisorHandle};
use fgpu_domain::placement::MOST_IMAGES;
use fgpu_domain::reconcile::PlacementId;
use fgpu_wire::v1;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The runtime is not asked more often than this.
const GAP: Duration = Duration::from_secs(1);

/// Names of images on the node, the newest first, now and after every change.
pub type ImageNames = watch::Receiver<Arc<Vec<String>>>;

/// Watches the images of the node until nobody reads any more; asks at least so often.
#[must_use]
pub fn watch_images(supervisor: SupervisorHandle, every: Duration) -> ImageNames {
    let (sender, receiver) = watch::channel(Arc::default());
    tokio::spawn(keep_watching(supervisor, every, sender));
    receiver
}

/// What a manager is told of images that it knew as `told`; `None` where that is all.
#[must_use]
pub fn news(told: Option<&[String]>, now: &[String]) -> Option<v1::NodeImages> {
    let Some(told) = told else {
        return Some(v1::NodeImages { full: true, added: now.to_vec(), removed: Vec::new() });
    };
    let beyond = |names: &[String], known: &[String]| -> Vec<String> {
        names.iter().filter(|name| !known.contains(name)).cloned().collect()
    };
    let (added, removed) = (beyond(now, told), beyond(told, now));
    let changed = !added.is_empty() || !removed.is_empty();
    changed.then_some(v1::NodeImages { full: false, added, removed })
}

async fn keep_watching(
    supervisor: SupervisorHandle,
    every: Duration,
    images: watch::Sender<Arc<Vec<String>>>,
) {
    let mut snapshots = supervisor.snapshots();
    loop {
        let asked = Instant::now();
        let before = running(&snapshots.borrow_and_update());
        let runtime = supervisor.runtime();
        match runtime.images().await {
            Ok(mut names) => {
                names.truncate(MOST_IMAGES);
                images.send_if_modified(|old| {
                    let changed = **old != names;
                    if changed {
                        *old = Arc::new(names);
                    }
                    changed
                });
            }
            Err(error) => tracing::debug!(%error, "the images of the node are not known"),
        }
        tokio::select! {
            () = sleep_until(asked + every) => {}
            alive = started(&mut snapshots, &before) => if !alive { return },
            () = images.closed() => return,
        }
        // Many that start at once are one question.
        sleep_until(asked + GAP).await;
    }
}

/// Waits until more runs than `before`: what it was made from is there now. False when the
/// supervisor has ended.
async fn started(
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    before: &BTreeSet<PlacementId>,
) -> bool {
    while running(&snapshots.borrow_and_update()).is_subset(before) {
        if snapshots.changed().await.is_err() {
            return false;
        }
    }
    true
}

fn running(snapshot: &Snapshot) -> BTreeSet<PlacementId> {
    let placements = snapshot.placements.iter();
    let running = placements.filter(|(_, found)| matches!(found.state, StandingState::Running(_)));
    running.map(|(id, _)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_manager_is_told_all_at_first_and_then_what_changed() {
        let all = news(None, &names("a b")).unwrap();
        assert_eq!((all.full, all.added), (true, names("a b")));
        let none = news(None, &[]).unwrap();
        assert!(none.full, "what it knew from before is not there any more");
        assert_eq!(news(Some(&names("a b")), &names("b a")), None);
        let changed = news(Some(&names("a b")), &names("c b")).unwrap();
        assert_eq!((changed.full, changed.added, changed.removed), (false, names("c"), names("a")));
    }
}
