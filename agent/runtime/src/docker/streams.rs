//! What comes from an engine over time: events, output, use of resources.

use std::collections::HashMap;

use bollard::container::LogOutput;
use bollard::models::{ContainerMemoryStats, ContainerStatsResponse, EventMessage};
use bollard::query_parameters::{
    EventsOptionsBuilder, LogsOptionsBuilder, StatsOptionsBuilder, TopOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::engine::{Engine, EngineError};
use crate::cgroup::processes_around;
use crate::time::unix_nanos;
use crate::{
    Container, ContainerState, ContainerStats, EventKind, EventStream, LogChunk, LogChunkStream,
    LogOptions, LogStream, Owner, RuntimeError, RuntimeEvent,
};

/// Events a slow reader may be behind before the engine has to wait for it.
const EVENTS_AHEAD: usize = 256;
/// Memory limits from here on mean "all of the machine's".
const UNLIMITED_FROM: u64 = 1 << 62;

pub(super) async fn events(engine: &Engine, owner: &Owner) -> Result<EventStream, RuntimeError> {
    let docker = engine.client().await?;
    // Asks for those since now, so that none is lost before the engine begins to listen.
    let now = unix_nanos();
    let since = format!("{}.{:09}", now / 1_000_000_000, now % 1_000_000_000);
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let filters = HashMap::from([
        ("type".to_owned(), text(&["container"])),
        ("event".to_owned(), text(&["start", "die", "oom", "destroy"])),
        ("label".to_owned(), owner.filters()),
    ]);
    let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
    // An engine that is not there should be an error of this call, not an empty stream.
    engine
        .within(docker.ping())
        .await
        .map_err(|error| error.into_runtime("tell events".to_owned()))?;
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    let engine = engine.clone();
    tokio::spawn(async move {
        let told = docker.events(Some(options));
        let forward = async {
            let mut told = std::pin::pin!(told);
            while let Some(Ok(message)) = told.next().await {
                let Some(event) = event(message) else {
                    continue;
                };
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = forward => {}
            _ = engine.until_silent() => {}
            () = sender.closed() => {}
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn event(message: EventMessage) -> Option<RuntimeEvent> {
    let kind = match message.action.as_deref()? {
        "start" => EventKind::Started,
        "die" => EventKind::Exited,
        "oom" => EventKind::Oom,
        "destroy" => EventKind::Removed,
        _ => return None,
    };
    let id = message.actor?.id?;
    Some(RuntimeEvent { id, kind })
}

pub(super) async fn logs(
    engine: &Engine,
    id: &str,
    options: &LogOptions,
) -> Result<LogChunkStream, RuntimeError> {
    let docker = engine.client().await?;
    let tail = options.tail.map_or("all".to_owned(), |n| n.to_string());
    let since = options.since_unix_s.unwrap_or(0).max(0);
    let asked = LogsOptionsBuilder::new()
        .follow(options.follow)
        .stdout(true)
        .stderr(true)
        .timestamps(options.timestamps)
        .since(i32::try_from(since).unwrap_or(i32::MAX))
        .tail(&tail)
        .build();
    let (engine, id) = (engine.clone(), id.to_owned());
    let output = docker.logs(&id, Some(asked)).map(move |piece| match piece {
        Ok(piece) => Ok(chunk(piece)),
        Err(error) => Err(engine.failed(error).of_container("read the output of", &id)),
    });
    Ok(Box::pin(output))
}

pub(super) fn chunk(piece: LogOutput) -> LogChunk {
    let (stream, data) = match piece {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message }
        | LogOutput::StdIn { message }
        | LogOutput::Console { message } => (LogStream::Stdout, message),
    };
    LogChunk { stream, data }
}

pub(super) async fn stats(
    engine: &Engine,
    container: &Container,
) -> Result<ContainerStats, RuntimeError> {
    let id = container.id.as_str();
    let ContainerState::Running { pid, .. } = container.state else {
        return Err(RuntimeError::NotRunning { id: id.to_owned() });
    };
    let docker = engine.client().await?;
    let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
    let mut told = docker.stats(id, Some(options)).boxed();
    let gone = || EngineError::Answered { status: 0, message: "no statistics came".to_owned() };
    let first = engine
        .within(async { told.next().await.transpose() })
        .await
        .and_then(|first| first.ok_or_else(gone))
        .map_err(|error| error.of_container("measure", id))?;
    let mut stats = measured(&first);
    stats.host_pids = host_pids(engine, id, pid).await?;
    Ok(stats)
}

fn measured(told: &ContainerStatsResponse) -> ContainerStats {
    let memory = told.memory_stats.clone().unwrap_or_default();
    ContainerStats {
        cpu_usage_ns: told
            .cpu_stats
            .as_ref()
            .and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage)
            .unwrap_or(0),
        memory_bytes: in_use(&memory),
        memory_limit_bytes: memory.limit.filter(|limit| *limit < UNLIMITED_FROM),
        pids: told.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or(0),
        host_pids: Vec::new(),
    }
}

/// Memory without the file cache that the kernel can drop, under the name of either cgroup version.
fn in_use(memory: &ContainerMemoryStats) -> u64 {
    let stat = memory.stats.as_ref();
    let droppable = stat
        .and_then(|stat| stat.get("total_inactive_file").or(stat.get("inactive_file")))
        .copied()
        .unwrap_or(0);
    memory.usage.unwrap_or(0).saturating_sub(droppable)
}

/// The processes of a container as the node numbers them: from its cgroup where we see it, else by
/// asking the engine, which runs `ps`.
async fn host_pids(engine: &Engine, id: &str, pid: u32) -> Result<Vec<u32>, RuntimeError> {
    let found =
        tokio::task::spawn_blocking(move || processes_around(pid)).await.unwrap_or_default();
    if found.len() > 1 || std::path::Path::new(&format!("/proc/{pid}")).exists() {
        return Ok(found);
    }
    let docker = engine.client().await?;
    let options = TopOptionsBuilder::new().ps_args("-eo pid").build();
    let top = engine
        .within(docker.top_processes(id, Some(options)))
        .await
        .map_err(|error| error.of_container("list the processes of", id))?;
    let rows = top.processes.unwrap_or_default();
    Ok(rows.iter().filter_map(|row| row.first()?.trim().parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_leaves_out_what_can_be_dropped() {
        let with = |key: &str| ContainerMemoryStats {
            usage: Some(1_000),
            stats: Some(HashMap::from([(key.to_owned(), 300)])),
            ..ContainerMemoryStats::default()
        };
        assert_eq!(in_use(&with("inactive_file")), 700);
        assert_eq!(in_use(&with("total_inactive_file")), 700);
        assert_eq!(in_use(&with("anon")), 1_000);
    }
}
