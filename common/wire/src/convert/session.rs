//! Sessions as they are, and what agents report of them.

use super::id;
use super::spec::isolation;
use crate::error::CallError;
use crate::v1;
use fgpu_domain::session::{
    Attempt, Outcome, Phase, Progress, PublishedPort, Report, ReportState, Session,
};
use fgpu_domain::slice::{Grant, Isolation, Slice};
use fgpu_domain::time::UnixMillis;
use fgpu_domain::units::{ComputeMilli, Fgpu, MemoryBytes};

/// Reads a grant.
///
/// # Errors
/// A node name or device uuid that is none.
pub fn grant(grant: v1::Grant) -> Result<Grant, CallError> {
    // A grant that names no level promises nothing.
    let isolation = isolation(grant.isolation()).unwrap_or(Isolation::Shared);
    let slices = grant.slices.into_iter().map(slice).collect::<Result<_, _>>()?;
    Ok(Grant { node: id("node", &grant.node)?, slices, isolation })
}

/// Reads a slice.
///
/// # Errors
/// A device uuid that is none.
pub fn slice(slice: v1::Slice) -> Result<Slice, CallError> {
    Ok(Slice {
        device: id("device", &slice.device_uuid)?,
        memory: MemoryBytes(slice.memory_bytes),
        compute: ComputeMilli(slice.compute_milli),
        fgpu: Fgpu(slice.fgpu_milli),
    })
}

/// Reads what an agent says about one placement.
///
/// # Errors
/// A field that is missing or no valid id.
pub fn report(report: v1::SessionReport) -> Result<Report, CallError> {
    use v1::session_report::State;
    let state = match report.state {
        None => return Err(CallError::field("state", "", "a report says how it stands")),
        Some(State::Pulling(pulling)) => ReportState::Preparing(Progress::Pulling {
            done: pulling.done_bytes,
            total: pulling.total_bytes,
        }),
        Some(State::Creating(_)) => ReportState::Preparing(Progress::Creating),
        Some(State::Running(started)) => ReportState::Running {
            at: UnixMillis(started.at_ms),
            ports: started.ports.into_iter().map(port).collect::<Result<_, _>>()?,
        },
        Some(State::Gone(gone)) => {
            ReportState::Gone { exit_code: gone.exit_code, code: gone.code, message: gone.message }
        }
    };
    Ok(Report {
        session: id("session", &report.session_id)?,
        generation: report.generation,
        state,
        grant: report.grant.map(grant).transpose()?,
    })
}

fn port(port: v1::PublishedPort) -> Result<PublishedPort, CallError> {
    let number = |field: &str, port: u32| {
        u16::try_from(port).map_err(|_| CallError::field(field, port, "a port up to 65535"))
    };
    Ok(PublishedPort {
        container_port: number("container_port", port.container_port)?,
        host: port.host,
        host_port: number("host_port", port.host_port)?,
    })
}

/// The wire's word for a phase.
#[must_use]
pub fn phase_of(phase: &Phase) -> v1::Phase {
    match phase {
        Phase::Pending { .. } => v1::Phase::Pending,
        Phase::Scheduled { .. } => v1::Phase::Scheduled,
        Phase::Starting { progress: Progress::Pulling { .. }, .. } => v1::Phase::Pulling,
        Phase::Starting { progress: Progress::Creating, .. } => v1::Phase::Creating,
        Phase::Running { .. } => v1::Phase::Running,
        Phase::Stopping { .. } => v1::Phase::Stopping,
        Phase::Lost { .. } => v1::Phase::Lost,
        Phase::Ended(_) => v1::Phase::Ended,
    }
}

impl From<&Session> for v1::Session {
    fn from(session: &Session) -> Self {
        let mut wire = Self {
            id: session.id.to_string(),
            spec: Some((&*session.spec).into()),
            owner: session.owner.to_string(),
            created_at_ms: session.created_at.0,
            generation: session.generation,
            phase: phase_of(&session.phase).into(),
            grant: session.phase.grant().map(Into::into),
            started_at_ms: session.phase.started().map_or(0, |at| at.0),
            attempts: session.attempts.iter().map(Into::into).collect(),
            stranded: session.stranded.iter().map(|old| (&old.grant).into()).collect(),
            group: session.group.as_ref().map(Into::into),
            placed_at_ms: session.placed_at.map_or(0, |at| at.0),
            ..Self::default()
        };
        fill_phase(&mut wire, &session.phase);
        wire
    }
}

/// What exists only in one phase.
fn fill_phase(wire: &mut v1::Session, phase: &Phase) {
    match phase {
        Phase::Pending { since } | Phase::Scheduled { since, .. } => {
            wire.phase_since_ms = since.0;
        }
        Phase::Starting { since, progress, .. } => {
            wire.phase_since_ms = since.0;
            if let Progress::Pulling { done, total } = progress {
                wire.pull_done_bytes = *done;
                wire.pull_total_bytes = *total;
            }
        }
        Phase::Running { since, ports, .. } => {
            wire.phase_since_ms = since.0;
            wire.ports = ports.iter().map(Into::into).collect();
        }
        Phase::Stopping { since, reason, .. } => {
            wire.phase_since_ms = since.0;
            wire.reason = reason.to_string();
        }
        Phase::Lost { since, grant, .. } => {
            wire.phase_since_ms = since.0;
            wire.reason = format!("node {} is silent", grant.node);
        }
        Phase::Ended(ended) => {
            wire.phase_since_ms = ended.at.0;
            wire.grant = ended.grant.as_ref().map(Into::into);
            wire.outcome = v1::Outcome::from(ended.outcome).into();
            wire.exit_code = ended.exit_code;
            wire.reason_code = ended.code.clone();
            wire.reason = ended.message.clone();
        }
    }
}

impl From<&Grant> for v1::Grant {
    fn from(grant: &Grant) -> Self {
        Self {
            node: grant.node.to_string(),
            slices: grant.slices.iter().map(Into::into).collect(),
            isolation: v1::Isolation::from(grant.isolation).into(),
        }
    }
}

impl From<&Slice> for v1::Slice {
    fn from(slice: &Slice) -> Self {
        Self {
            device_uuid: slice.device.to_string(),
            memory_bytes: slice.memory.0,
            compute_milli: slice.compute.0,
            fgpu_milli: slice.fgpu.0,
        }
    }
}

impl From<&PublishedPort> for v1::PublishedPort {
    fn from(port: &PublishedPort) -> Self {
        Self {
            container_port: port.container_port.into(),
            host: port.host.clone(),
            host_port: port.host_port.into(),
        }
    }
}

impl From<&Attempt> for v1::Attempt {
    fn from(attempt: &Attempt) -> Self {
        Self {
            generation: attempt.generation,
            grant: Some((&attempt.grant).into()),
            at_ms: attempt.at.0,
            reason: attempt.reason.clone(),
            node_fault: attempt.node_fault,
        }
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::Failed => Self::Failed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Evicted => Self::Evicted,
        }
    }
}

impl From<&Report> for v1::SessionReport {
    fn from(report: &Report) -> Self {
        use v1::session_report::State;
        let state = match &report.state {
            ReportState::Preparing(Progress::Pulling { done, total }) => {
                State::Pulling(v1::Pulling { done_bytes: *done, total_bytes: *total })
            }
            ReportState::Preparing(Progress::Creating) => State::Creating(true),
            ReportState::Running { at, ports } => State::Running(v1::Started {
                at_ms: at.0,
                ports: ports.iter().map(Into::into).collect(),
                container_id: String::new(),
            }),
            ReportState::Gone { exit_code, code, message } => State::Gone(v1::Gone {
                exit_code: *exit_code,
                code: code.clone(),
                message: message.clone(),
                at_ms: 0,
            }),
        };
        Self {
            session_id: report.session.to_string(),
            generation: report.generation,
            state: Some(state),
            grant: report.grant.as_ref().map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_as_it_was_sent() {
        let slice = Slice {
            device: "GPU-1".parse().unwrap(),
            memory: MemoryBytes::gib(8),
            compute: ComputeMilli(100),
            fgpu: Fgpu(1_000),
        };
        let grant =
            Grant { node: "a1".parse().unwrap(), slices: vec![slice], isolation: Isolation::Whole };
        let port =
            PublishedPort { container_port: 80, host: "127.0.0.1".into(), host_port: 40_000 };
        let states = [
            ReportState::Preparing(Progress::Pulling { done: 1, total: 2 }),
            ReportState::Preparing(Progress::Creating),
            ReportState::Running { at: UnixMillis(5), ports: vec![port] },
            ReportState::Gone { exit_code: Some(3), code: "X".into(), message: "y".into() },
        ];
        for state in states {
            let sent = Report {
                session: "abcdefgh".parse().unwrap(),
                generation: 4,
                state,
                grant: Some(grant.clone()),
            };
            assert_eq!(report((&sent).into()), Ok(sent));
        }
    }
}
