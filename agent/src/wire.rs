//! Between what the agent knows and the contract. Everything but the envelope is converted by
//! `fgpu_wire`.

use crate::ends::End;
use crate::order::{Desired, DesiredState, Order};
use crate::supervisor::{Snapshot, Standing, StandingState};
use fgpu_domain::ids::IdError;
use fgpu_domain::reconcile::{PlacementId, Want};
use fgpu_domain::session::Progress;
use fgpu_domain::units::{CpuMilli, MemoryBytes};
use fgpu_wire::convert::{self, SpecDefaults};
use fgpu_wire::error::CallError;
use fgpu_wire::v1;
use fgpu_wire::v1::session_report::State;
use std::collections::BTreeMap;

/// A specification that says nothing of CPU or memory sets no limit: the manager has filled it in.
const AS_TOLD: SpecDefaults = SpecDefaults { cpu: CpuMilli::ZERO, memory: MemoryBytes::ZERO };

/// What an agent cannot make sense of at all.
#[derive(Debug, thiserror::Error)]
#[error("a desired state names a session that is none")]
pub(crate) struct BadDesired(#[from] IdError);

/// Reads what the manager wants. A session that is not understood is taken with that as its order,
/// so that it is refused by itself.
///
/// # Errors
/// [`BadDesired`] where not even the session is named.
pub(crate) fn desired_state(wire: v1::DesiredState) -> Result<DesiredState, BadDesired> {
    let mut placements = BTreeMap::new();
    for session in wire.sessions {
        let id =
            PlacementId { session: session.session_id.parse()?, generation: session.generation };
        let want = session.stop_grace_ms.map_or(Want::Run, |grace_ms| Want::Stop { grace_ms });
        let order = order(session).map_err(|error| {
            format!(
                "this agent does not understand the order: {error}; is it older than the manager?"
            )
        });
        placements.insert(id, Desired { want, order });
    }
    Ok(DesiredState { epoch: wire.epoch, generation: wire.generation, placements })
}

fn order(session: v1::DesiredSession) -> Result<Order, CallError> {
    let spec = convert::session_spec(session.spec.unwrap_or_default(), AS_TOLD)?;
    let grant = convert::grant(session.grant.unwrap_or_default())?;
    let group_environment = session.group_environment.into_iter().collect();
    Ok(Order { spec, grant, owner: session.owner, group_environment })
}

/// Everything in `snapshot`, as a report that names all there is.
#[must_use]
pub(crate) fn full_report(snapshot: &Snapshot) -> v1::SessionReports {
    let all = snapshot.placements.iter();
    v1::SessionReports { sessions: all.map(|(id, s)| report(id, s)).collect(), full: true }
}

/// What in `now` is not as it was in `before`; `None` when nothing is.
#[must_use]
pub(crate) fn changes(before: &Snapshot, now: &Snapshot) -> Option<v1::SessionReports> {
    let new = |id: &PlacementId, standing: &Standing| before.placements.get(id) != Some(standing);
    let changed = now.placements.iter().filter(|(id, standing)| new(id, standing));
    let sessions: Vec<v1::SessionReport> = changed.map(|(id, s)| report(id, s)).collect();
    (!sessions.is_empty()).then_some(v1::SessionReports { sessions, full: false })
}

fn report(id: &PlacementId, standing: &Standing) -> v1::SessionReport {
    let state = match &standing.state {
        StandingState::Preparing(Progress::Pulling { done, total }) => {
            State::Pulling(v1::Pulling { done_bytes: *done, total_bytes: *total })
        }
        StandingState::Preparing(Progress::Creating) => State::Creating(true),
        StandingState::Running(running) => State::Running(v1::Started {
            at_ms: running.at.0,
            ports: running.ports.iter().map(Into::into).collect(),
            container_id: running.container.clone(),
        }),
        StandingState::Gone(end) => State::Gone(gone(end)),
    };
    v1::SessionReport {
        session_id: id.session.to_string(),
        generation: id.generation,
        state: Some(state),
        grant: standing.grant.as_ref().map(Into::into),
    }
}

fn gone(end: &End) -> v1::Gone {
    v1::Gone {
        exit_code: end.exit_code,
        code: end.code.clone(),
        message: end.message.clone(),
        at_ms: end.at.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::id;
    use crate::order::tests::order as domain_order;
    use fgpu_domain::time::UnixMillis;

    fn wire_session(session: &str, generation: u64) -> v1::DesiredSession {
        let order = domain_order(&["GPU-1"]);
        v1::DesiredSession {
            session_id: session.to_owned(),
            generation,
            spec: Some((&order.spec).into()),
            grant: Some((&order.grant).into()),
            stop_grace_ms: None,
            owner: order.owner,
            group_environment: order.group_environment.into_iter().collect(),
        }
    }

    #[test]
    fn an_order_arrives_as_it_was_sent() {
        let sessions = vec![wire_session("aaaaaaaa", 2)];
        let wire = v1::DesiredState { epoch: 3, generation: 4, sessions };

        let desired = desired_state(wire).unwrap();

        assert_eq!((desired.epoch, desired.generation), (3, 4));
        let wanted = &desired.placements[&id("aaaaaaaa", 2)];
        assert_eq!(wanted.want, Want::Run);
        assert_eq!(wanted.order.as_ref().unwrap().grant, domain_order(&["GPU-1"]).grant);
    }

    #[test]
    fn an_order_that_is_not_understood_leaves_the_others_alone() {
        let mut bad = wire_session("bbbbbbbb", 1);
        bad.grant = None;
        let sessions = vec![wire_session("aaaaaaaa", 1), bad];
        let wire = v1::DesiredState { epoch: 1, generation: 1, sessions };

        let desired = desired_state(wire).unwrap();

        assert!(desired.placements[&id("aaaaaaaa", 1)].order.is_ok());
        assert!(desired.placements[&id("bbbbbbbb", 1)].order.is_err());
    }

    #[test]
    fn only_what_changed_is_reported() {
        let end = End::failed("X", "y", UnixMillis(1));
        let standing = |resend| Standing {
            state: StandingState::Gone(end.clone()),
            grant: None,
            container: None,
            resend,
        };
        let snapshot = |a, b| Snapshot {
            placements: [(id("aaaaaaaa", 1), standing(a)), (id("bbbbbbbb", 1), standing(b))].into(),
            ..Snapshot::default()
        };

        assert_eq!(changes(&snapshot(0, 0), &snapshot(0, 0)), None);
        let changed = changes(&snapshot(0, 0), &snapshot(0, 1)).unwrap();
        assert_eq!(changed.sessions.len(), 1);
        assert_eq!(changed.sessions[0].session_id, "bbbbbbbb");
        assert!(!changed.full);
    }
}
