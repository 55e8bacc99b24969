//! What systemd is told: ready, what is going on, alive, stopping.

use sd_notify::NotifyState;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Tells systemd, or nobody. Cheap to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notifier {
    /// Where systemd started this process as a service; elsewhere telling it does nothing.
    Systemd,
    /// Nobody: several agents in one process, or tests.
    #[default]
    Silent,
}

/// When systemd wants the next sign of life.
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

impl Notifier {
    /// The service is up, in the state `status`.
    pub fn ready(self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// What is going on, for `systemctl status`.
    pub fn status(self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// The service goes down; what runs stays.
    pub fn stopping(self) {
        let status = "stopping; containers keep running";
        self.tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// The supervisor's loop turns.
    pub fn alive(self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// When signs of life are due: twice in the time systemd waits, or never.
    #[must_use]
    pub fn watchdog(self) -> Watchdog {
        let every = match self {
            Self::Systemd => sd_notify::watchdog_enabled(),
            Self::Silent => None,
        };
        Watchdog(every.map(|every| {
            let mut ticks = interval((every / 2).max(Duration::from_millis(100)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }

    fn tell(self, state: &[NotifyState<'_>]) {
        if self == Self::Systemd
            && let Err(error) = sd_notify::notify(state)
        {
            tracing::debug!(%error, "systemd was not told");
        }
    }
}

impl Watchdog {
    /// Returns when a sign of life is due.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
