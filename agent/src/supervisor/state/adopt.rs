//! From what the engine tells to what is known: adoption, exits, disappearances.

use super::placement::{Phase, Placement};
use super::{Effect, EngineState, Now, State};
use crate::ends::{self, End};
use crate::labels::{self, Labelled};
use crate::ledger::Running;
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::session::PublishedPort;
use fgpu_domain::time::UnixMillis;
use fgpu_runtime::{Container, ContainerState};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// All containers of ours, as the engine told at one moment.
#[derive(Debug)]
pub(in crate::supervisor) struct Listing {
    /// When the engine was asked.
    pub(in crate::supervisor) began: Instant,
    /// The containers.
    pub(in crate::supervisor) containers: Vec<Container>,
    /// Whether containers outlive a restart of the engine.
    pub(in crate::supervisor) live_restore: bool,
}

/// What ended a container that was not told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Its own doing, as far as anybody can tell.
    Itself,
    /// The engine was away, and its containers do not outlive it.
    Engine,
}

impl State {
    /// The engine does not answer. What ran a moment ago and was killed without our asking was
    /// killed by it.
    pub(in crate::supervisor) fn engine_away(&mut self, reason: String, live_restore: bool) {
        self.engine = EngineState::Away { reason };
        for placement in self.placements.values_mut() {
            let Phase::Finishing { end, .. } = &mut placement.phase else { continue };
            if !live_restore && end.code.is_empty() && matches!(end.exit_code, Some(137 | 143)) {
                *end = by_engine(end.clone());
            }
        }
    }

    /// Whether the engine was last known not to answer.
    pub(in crate::supervisor) fn engine_is_away(&self) -> bool {
        matches!(self.engine, EngineState::Away { .. })
    }

    /// Takes in everything the engine has.
    pub(in crate::supervisor) fn listed(
        &mut self,
        listing: Listing,
        host: &str,
        now: Now,
    ) -> Vec<Effect> {
        let away = matches!(self.engine, EngineState::Away { .. });
        self.engine = EngineState::Up;
        self.complete = true;
        let cause = if away && !listing.live_restore { Cause::Engine } else { Cause::Itself };
        let mut effects = Vec::new();
        let mut there = BTreeSet::new();
        for container in &listing.containers {
            there.extend(labels::read(&container.labels).map(|labelled| labelled.id));
            effects.extend(self.take(container, host, cause, now));
        }
        effects.extend(self.missing(&there, listing.began, away, now));
        effects
    }

    /// Takes in one container, as it was just seen.
    pub(in crate::supervisor) fn observed(
        &mut self,
        container: &Container,
        host: &str,
        now: Now,
    ) -> Option<Effect> {
        self.take(container, host, Cause::Itself, now)
    }

    fn take(
        &mut self,
        container: &Container,
        host: &str,
        cause: Cause,
        now: Now,
    ) -> Option<Effect> {
        let Some(labelled) = labels::read(&container.labels) else {
            // Ours, and of no placement: nobody wants it, once we know what is wanted.
            let leftover = Effect::RemoveLeftover { container: container.id.clone(), id: None };
            return self.desired.is_some().then_some(leftover);
        };
        let id = labelled.id.clone();
        let placement = self.placements.entry(id.clone()).or_insert_with(|| adopted(labelled));
        match &placement.phase {
            Phase::Running { .. } | Phase::Interrupted => {
                placement.take(&id, container, host, cause, now)
            }
            Phase::Gone { .. } => {
                Some(Effect::RemoveLeftover { container: container.id.clone(), id: Some(id) })
            }
            // Its worker knows better than a list.
            Phase::Waiting
            | Phase::Starting { .. }
            | Phase::Stopping { .. }
            | Phase::Finishing { .. } => None,
        }
    }

    /// What should run and is not there, although the engine was asked after it had started.
    fn missing(
        &mut self,
        there: &BTreeSet<PlacementId>,
        began: Instant,
        away: bool,
        now: Now,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (id, placement) in &mut self.placements {
            let Phase::Running { running, since } = &placement.phase else { continue };
            if there.contains(id) || *since >= began {
                continue;
            }
            let running = Running { container: String::new(), ..running.clone() };
            let end = vanished(away, now.wall);
            placement.phase = Phase::Finishing { running: Some(running), end };
            effects.push(Effect::Finish { id: id.clone(), container: None });
        }
        effects
    }
}

impl Placement {
    /// Takes in the state of the container of a placement that no worker is busy with.
    fn take(
        &mut self,
        id: &PlacementId,
        container: &Container,
        host: &str,
        cause: Cause,
        now: Now,
    ) -> Option<Effect> {
        match &container.state {
            ContainerState::Running { started_at_unix_ms, .. } => {
                let known = matches!(&self.phase, Phase::Running { running, .. }
                    if running.container == container.id);
                if !known {
                    let at = UnixMillis(*started_at_unix_ms);
                    let running = running_of(container, at, host);
                    self.phase = Phase::Running { running, since: now.instant };
                }
                None
            }
            ContainerState::Exited { .. } => {
                let end = End::of_state(&container.state, now.wall)?;
                let end = if cause == Cause::Engine { by_engine(end) } else { end };
                let before = match &self.phase {
                    Phase::Running { running, .. } => Some(running.clone()),
                    _ => None,
                };
                let end = if before.is_some() { end.after_running() } else { end };
                let ran = before.unwrap_or_else(|| running_of(container, end.at, host));
                let running = Running { container: container.id.clone(), ..ran };
                Some(self.finish(id, Some(running), end))
            }
            ContainerState::Created => {
                self.phase = Phase::Interrupted;
                None
            }
        }
    }
}

/// A placement known by the labels of its container alone.
fn adopted(labelled: Labelled) -> Placement {
    Placement {
        spec: None,
        grant: labelled.grant,
        owner: labelled.owner,
        group_environment: BTreeMap::new(),
        on_disconnect: labelled.on_disconnect,
        phase: Phase::Interrupted,
        resend: 0,
    }
}

/// What is told of a running container.
pub(in crate::supervisor) fn running_of(
    container: &Container,
    at: UnixMillis,
    host: &str,
) -> Running {
    let port = |port: &fgpu_runtime::PublishedPort| PublishedPort {
        container_port: port.container_port,
        host: host.to_owned(),
        host_port: port.host_port,
    };
    let ports = container.ports.iter().map(port).collect();
    Running { container: container.id.clone(), at, ports }
}

fn by_engine(end: End) -> End {
    let code = end.exit_code.map_or_else(String::new, |code| format!(" (exit code {code})"));
    let message = format!("the container engine went away and the container with it{code}");
    end.because(ends::ENGINE_RESTARTED, message)
}

fn vanished(away: bool, at: UnixMillis) -> End {
    match away {
        true => by_engine(End::failed("", "", at)),
        false => End::failed(
            ends::CONTAINER_REMOVED,
            "the container was removed on the node by somebody else",
            at,
        ),
    }
}
