//! What the files and `/proc` tell of a container.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::proc;
use super::state::{Store, Stored};
use crate::{
    Container, ContainerState, ContainerStats, EventKind, EventStream, Owner, PublishedPort,
    RuntimeError, RuntimeEvent,
};

/// How often the files are looked at for events.
const POLL: Duration = Duration::from_millis(200);
/// Events a slow reader may be behind.
const EVENTS_AHEAD: usize = 256;
/// Exit code of a command whose shim was killed before it could write down the real one.
const UNKNOWN_CODE: i32 = 255;

pub(super) fn container(stored: &Stored) -> Container {
    let spec = &stored.spec;
    let state = state(stored);
    let ports = spec.ports.iter().filter(|_| state.is_running());
    Container {
        id: spec.id.clone(),
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        image: spec.image.clone(),
        ports: ports
            .map(|port| PublishedPort {
                container_port: port.container_port,
                protocol: port.protocol,
                host_ip: port.host_ip,
                // There is no network of its own: the port is that of the node.
                host_port: port.container_port,
            })
            .collect(),
        state,
    }
}

fn state(stored: &Stored) -> ContainerState {
    if let Some(exit) = &stored.exit {
        return ContainerState::Exited {
            code: exit.code,
            oom_killed: exit.oom_killed,
            finished_at_unix_ms: exit.finished_at_unix_ms,
            error: exit.error.clone(),
            command_missing: false,
        };
    }
    match &stored.run {
        None => ContainerState::Created,
        Some(run) if stored.is_running() => {
            ContainerState::Running { started_at_unix_ms: run.started_at_unix_ms, pid: run.pid }
        }
        // It may have ended since the files were read.
        Some(_) => match Stored::read(&stored.folder) {
            Ok(Some(again)) if again.exit.is_some() => state(&again),
            _ => ContainerState::Exited {
                code: UNKNOWN_CODE,
                oom_killed: false,
                finished_at_unix_ms: 0,
                error: Some("the shim ended before its command: exit code unknown".to_owned()),
                command_missing: false,
            },
        },
    }
}

/// Looks at the files again and again and tells what changed.
pub(super) fn events(store: Store, owner: Owner) -> EventStream {
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    let mut before = phases(&store, &owner);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = sender.closed() => return,
            }
            // Without the files nothing is known: the stream ends, and the reader lists again.
            let (Ok(old), Ok(new)) = (&before, phases(&store, &owner)) else {
                return;
            };
            for event in changes(old, &new) {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            before = Ok(new);
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    Running,
    Exited { oom: bool },
}

type Phases = BTreeMap<String, Phase>;

fn phases(store: &Store, owner: &Owner) -> Result<Phases, RuntimeError> {
    let stored = store.load_all()?;
    let ours = stored.iter().filter(|each| owner.owns(&each.spec.labels));
    Ok(ours
        .map(|each| {
            let phase = match state(each) {
                ContainerState::Created => Phase::Created,
                ContainerState::Running { .. } => Phase::Running,
                ContainerState::Exited { oom_killed, .. } => Phase::Exited { oom: oom_killed },
            };
            (each.spec.id.clone(), phase)
        })
        .collect())
}

fn changes(old: &Phases, new: &Phases) -> Vec<RuntimeEvent> {
    let mut events = Vec::new();
    let mut tell = |id: &String, kind| {
        let id = id.clone();
        events.push(RuntimeEvent { id, kind });
    };
    for (id, phase) in new {
        let was = old.get(id).copied().unwrap_or(Phase::Created);
        match (was, *phase) {
            (Phase::Created | Phase::Exited { .. }, Phase::Running) => tell(id, EventKind::Started),
            (Phase::Created | Phase::Running, Phase::Exited { oom }) => {
                if was == Phase::Created {
                    tell(id, EventKind::Started);
                }
                if oom {
                    tell(id, EventKind::Oom);
                }
                tell(id, EventKind::Exited);
            }
            _ => {}
        }
    }
    for id in old.keys().filter(|id| !new.contains_key(*id)) {
        tell(id, EventKind::Removed);
    }
    events
}

pub(super) fn stats(stored: &Stored) -> Result<ContainerStats, RuntimeError> {
    let spec = &stored.spec;
    let Some(run) = stored.run.as_ref().filter(|_| stored.is_running()) else {
        return Err(RuntimeError::NotRunning { id: spec.id.clone() });
    };
    if let Some(cgroups) = spec.cgroups() {
        let usage = cgroups.usage(&spec.session);
        return Ok(ContainerStats {
            cpu_usage_ns: usage.cpu_ns,
            memory_bytes: usage.memory_bytes,
            memory_limit_bytes: spec.limits.memory_bytes,
            pids: usage.pids,
            host_pids: cgroups.processes(&spec.session),
        });
    }
    // Without cgroups: those that run now, so that the CPU time of ended ones is missing.
    let host_pids = proc::descendants(run.shim_pid);
    let found: Vec<_> = host_pids.iter().filter_map(|pid| proc::stat(*pid)).collect();
    Ok(ContainerStats {
        cpu_usage_ns: proc::ticks_to_ns(found.iter().map(|stat| stat.cpu_ticks).sum()),
        memory_bytes: proc::pages_to_bytes(found.iter().map(|stat| stat.resident_pages).sum()),
        memory_limit_bytes: None,
        pids: found.len() as u64,
        host_pids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(old: &[(&str, Phase)], new: &[(&str, Phase)]) -> Vec<EventKind> {
        let map = |list: &[(&str, Phase)]| {
            list.iter().map(|(id, phase)| ((*id).to_owned(), *phase)).collect()
        };
        let events = changes(&map(old), &map(new));
        events.into_iter().map(|event| event.kind).collect()
    }

    #[test]
    fn every_change_is_told_also_one_between_two_looks() {
        use EventKind::{Exited, Oom, Removed, Started};
        let (ended, killed) = (Phase::Exited { oom: false }, Phase::Exited { oom: true });
        assert_eq!(told(&[], &[("a", Phase::Created)]), []);
        assert_eq!(told(&[], &[("a", Phase::Running)]), [Started]);
        assert_eq!(told(&[("a", Phase::Running)], &[("a", ended)]), [Exited]);
        assert_eq!(told(&[("a", Phase::Running)], &[("a", killed)]), [Oom, Exited]);
        assert_eq!(told(&[("a", Phase::Created)], &[("a", ended)]), [Started, Exited]);
        assert_eq!(told(&[("a", ended)], &[]), [Removed]);
        assert_eq!(told(&[("a", ended)], &[("a", ended)]), []);
    }
}
