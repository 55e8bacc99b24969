//! Tells the engine when nodes fall silent and when they are heard again.
//!
//! Silence is measured on the monotonic clock from a node's last word, or from the moment this
//! manager began to lead. The watcher sleeps until the next node could change, so a heartbeat costs
//! nothing here unless its node counted as silent.

use crate::engine::{EngineError, EngineHandle};
use crate::nodes::{NodeCell, Nodes};
use fgpu_domain::cluster::Input;
use fgpu_domain::ids::NodeName;
use fgpu_domain::node::Liveness;
use fgpu_service::clock::Clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Pause before the engine is told again what it could not take.
const RETRY: Duration = Duration::from_secs(1);

/// How long silence takes to count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thresholds {
    pub(crate) suspect: Duration,
    pub(crate) lost: Duration,
}

/// What watches the nodes of one term.
pub(crate) struct Watcher {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) engine: EngineHandle,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) thresholds: Thresholds,
    /// When this manager began to lead, by the monotonic clock.
    pub(crate) started: Duration,
}

/// How a node counts, and when that changes by itself.
fn judge(
    heard: Option<Duration>,
    started: Duration,
    now: Duration,
    limits: Thresholds,
) -> (Liveness, Option<Duration>) {
    let since = heard.unwrap_or(started);
    let silent = now.saturating_sub(since);
    if silent >= limits.lost {
        return (Liveness::Lost, None);
    }
    match heard {
        None => (Liveness::NeverSeen, Some(since + limits.lost)),
        Some(_) if silent >= limits.suspect => (Liveness::Suspect, Some(since + limits.lost)),
        Some(_) => (Liveness::Live, Some(since + limits.suspect)),
    }
}

impl Watcher {
    /// Watches until the task is dropped.
    pub(crate) async fn run(self) {
        let mut told: BTreeMap<NodeName, Liveness> = BTreeMap::new();
        loop {
            let next = self.look(&mut told).await;
            let news = self.nodes.news.notified();
            match next {
                Some(at) => tokio::select! {
                    () = news => {}
                    () = self.clock.sleep_until(at) => {}
                },
                None => news.await,
            }
        }
    }

    /// Tells what changed; returns when to look again.
    async fn look(&self, told: &mut BTreeMap<NodeName, Liveness>) -> Option<Duration> {
        let now = self.clock.monotonic();
        let mut next: Option<Duration> = None;
        for cell in self.nodes.all() {
            let heard = cell.last_heard();
            let (liveness, change) = judge(heard, self.started, now, self.thresholds);
            let mut again = change;
            let known = told.get(&cell.name).copied().unwrap_or_default();
            if known != liveness {
                match self.tell(&cell, liveness).await {
                    true => drop(told.insert(cell.name.clone(), liveness)),
                    false => again = Some(now + RETRY),
                }
                // A word that came while the node was being counted as silent raised no alarm.
                if cell.last_heard() != heard {
                    again = Some(now);
                }
            }
            next = next.into_iter().chain(again).min();
        }
        next
    }

    /// Whether the engine took it.
    async fn tell(&self, cell: &NodeCell, liveness: Liveness) -> bool {
        cell.set_silent(liveness != Liveness::Live);
        let input = Input::Liveness { node: cell.name.clone(), liveness };
        match self.engine.submit(input).await {
            Ok(_) => {
                tracing::info!(node = %cell.name, ?liveness, "node");
                true
            }
            // Not registered yet, or removed: it starts over when it registers.
            Err(EngineError::Refused(_)) => false,
            Err(error) => {
                tracing::debug!(node = %cell.name, ?liveness, %error, "not noted yet");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Thresholds =
        Thresholds { suspect: Duration::from_secs(10), lost: Duration::from_secs(40) };

    fn at(heard: Option<u64>, now: u64) -> (Liveness, Option<u64>) {
        let seconds = Duration::from_secs;
        let (liveness, next) = judge(heard.map(seconds), seconds(100), seconds(now), LIMITS);
        (liveness, next.map(|next| next.as_secs()))
    }

    #[test]
    fn silence_counts_from_the_last_word() {
        assert_eq!(at(Some(200), 209), (Liveness::Live, Some(210)));
        assert_eq!(at(Some(200), 210), (Liveness::Suspect, Some(240)));
        assert_eq!(at(Some(200), 240), (Liveness::Lost, None));
    }

    #[test]
    fn a_node_never_heard_is_lost_only_after_this_manager_has_led_that_long() {
        assert_eq!(at(None, 100), (Liveness::NeverSeen, Some(140)));
        assert_eq!(at(None, 139), (Liveness::NeverSeen, Some(140)));
        assert_eq!(at(None, 140), (Liveness::Lost, None));
    }
}
