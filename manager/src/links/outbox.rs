//! What an agent is still to be sent: always the newest, never a backlog.

use crate::nodes::DesiredUpdate;
use fgpu_wire::link::{DesiredState, Down, ManagerMessage};
use fgpu_wire::v1;
use std::collections::VecDeque;

/// Requests for channels kept for an agent that does not read.
pub(super) const CHANNELS: usize = 32;

/// What waits to be sent to one agent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    welcome: Option<v1::Welcome>,
    welcomed: bool,
    ack: Option<u64>,
    channels: VecDeque<Box<v1::OpenChannel>>,
    desired: Option<DesiredUpdate>,
    /// Of the newest desired state that was put in here.
    generation: u64,
}

impl Outbox {
    /// The first message; nothing else is sent before it.
    pub(super) fn welcome(&mut self, welcome: v1::Welcome) {
        if !self.welcomed {
            self.welcome = Some(welcome);
        }
    }

    /// Whether the welcome was queued or sent.
    pub(super) fn is_welcomed(&self) -> bool {
        self.welcomed || self.welcome.is_some()
    }

    pub(super) fn ack(&mut self, sequence: u64) {
        self.ack = Some(sequence);
    }

    pub(super) fn desired(&mut self, update: DesiredUpdate) {
        self.generation = update.generation;
        self.desired = Some(update);
    }

    /// The generation of the newest desired state that is sent or waits here; 0: none was.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn channel(&mut self, request: Box<v1::OpenChannel>) {
        self.channels.push_back(request);
    }

    pub(super) fn takes_channels(&self) -> bool {
        self.channels.len() < CHANNELS
    }

    pub(super) fn is_empty(&self) -> bool {
        if !self.welcomed {
            return self.welcome.is_none();
        }
        self.ack.is_none() && self.channels.is_empty() && self.desired.is_none()
    }

    /// The next message; acks first, since the agent's lease hangs on them.
    pub(super) fn next(&mut self, epoch: i64) -> Option<ManagerMessage> {
        let message = if !self.welcomed {
            let welcome = self.welcome.take()?;
            self.welcomed = true;
            Down::Welcome(welcome)
        } else if let Some(sequence) = self.ack.take() {
            Down::Ack(v1::HeartbeatAck { sequence })
        } else if let Some(request) = self.channels.pop_front() {
            Down::OpenChannel(*request)
        } else {
            Down::Desired(desired_state(&self.desired.take()?, epoch))
        };
        Some(ManagerMessage { message: Some(message) })
    }
}

fn desired_state(update: &DesiredUpdate, epoch: i64) -> DesiredState {
    DesiredState {
        epoch,
        generation: update.generation,
        sessions: update.sessions.iter().map(|entry| entry.encoded.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn names(outbox: &mut Outbox) -> Vec<&'static str> {
        std::iter::from_fn(|| outbox.next(7))
            .map(|message| match message.message {
                Some(Down::Welcome(_)) => "welcome",
                Some(Down::Desired(_)) => "desired",
                Some(Down::OpenChannel(_)) => "channel",
                Some(Down::Ack(_)) => "ack",
                None => "nothing",
            })
            .collect()
    }

    #[test]
    fn the_welcome_goes_first_and_only_the_newest_of_each_is_sent() {
        let mut outbox = Outbox::default();
        let update = |generation| DesiredUpdate { generation, sessions: Arc::default() };
        outbox.desired(update(1));
        outbox.desired(update(2));
        outbox.ack(1);
        outbox.ack(2);
        assert!(outbox.is_empty());
        assert_eq!(names(&mut outbox), Vec::<&str>::new());

        outbox.welcome(v1::Welcome::default());
        outbox.channel(Box::default());

        assert_eq!(names(&mut outbox), ["welcome", "ack", "channel", "desired"]);
        assert!(outbox.is_empty());
        outbox.welcome(v1::Welcome::default());
        assert_eq!(names(&mut outbox), Vec::<&str>::new());
    }
}
