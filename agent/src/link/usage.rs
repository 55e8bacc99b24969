//! What devices and containers are measured to be doing, for heartbeats.
//!
//! Measured by a task of its own, one round per heartbeat. A round that hangs is not waited for:
//! heartbeats go out with what was measured last, or, when that is old, with nothing.

use crate::supervisor::{Snapshot, StandingState, SupervisorHandle};
use fgpu_accelerator::Accelerator;
use fgpu_domain::device::DeviceUsage;
use fgpu_domain::ids::SessionId;
use fgpu_runtime::{ContainerRuntime, ContainerStats};
use fgpu_wire::v1;
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How long one container may take to tell what it uses.
const STATS: Duration = Duration::from_secs(2);
/// Containers asked at once.
const AT_ONCE: usize = 8;
/// What was measured is given up after this many heartbeats.
const STALE: u32 = 3;

/// One round of measuring.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) devices: Vec<v1::DeviceUsage>,
    pub(super) containers: Vec<v1::ContainerUsage>,
    at: Option<Instant>,
}

/// Measures until it is dropped.
pub(super) struct Sampler {
    latest: watch::Receiver<Arc<Sample>>,
    every: Duration,
    task: JoinHandle<()>,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sampler {
    pub(super) fn start(
        accelerator: Arc<dyn Accelerator>,
        supervisor: SupervisorHandle,
        every: Duration,
    ) -> Self {
        let (sender, latest) = watch::channel(Arc::new(Sample::default()));
        let task = tokio::spawn(measure(accelerator, supervisor, every, sender));
        Self { latest, every, task }
    }

    /// What was measured last, if it is not old.
    pub(super) fn latest(&self) -> Arc<Sample> {
        let latest = self.latest.borrow().clone();
        match latest.at {
            Some(at) if at.elapsed() <= self.every * STALE => latest,
            _ => Arc::default(),
        }
    }
}

async fn measure(
    accelerator: Arc<dyn Accelerator>,
    supervisor: SupervisorHandle,
    every: Duration,
    sender: watch::Sender<Arc<Sample>>,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = accelerator.clone();
        // A driver that hangs holds up this task alone, and is asked by no second thread.
        let devices = tokio::task::spawn_blocking(move || asked.usage()).await;
        let devices = match devices {
            Ok(Ok(devices)) => devices,
            Ok(Err(error)) => {
                tracing::debug!(%error, "devices are not measured");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let containers = containers(&supervisor, &devices).await;
        let devices = devices.iter().map(Into::into).collect();
        sender.send_replace(Arc::new(Sample { devices, containers, at: Some(Instant::now()) }));
    }
}

async fn containers(
    supervisor: &SupervisorHandle,
    devices: &[DeviceUsage],
) -> Vec<v1::ContainerUsage> {
    let running = running(&supervisor.snapshot());
    if running.is_empty() {
        return Vec::new();
    }
    let runtime = supervisor.runtime();
    let ask = |(session, container): (SessionId, String)| {
        let runtime = runtime.clone();
        async move {
            let stats = ask(&*runtime, &container).await?;
            Some((session, stats))
        }
    };
    stream::iter(running)
        .map(ask)
        .buffer_unordered(AT_ONCE)
        .filter_map(|answer| async move { answer })
        .map(|(session, stats)| usage(&session, &stats, devices))
        .collect()
        .await
}

async fn ask(runtime: &dyn ContainerRuntime, container: &str) -> Option<ContainerStats> {
    timeout(STATS, runtime.stats(container)).await.ok()?.ok()
}

fn running(snapshot: &Snapshot) -> Vec<(SessionId, String)> {
    let placements = snapshot.placements.iter();
    placements
        .filter(|(_, standing)| matches!(standing.state, StandingState::Running(_)))
        .filter_map(|(id, standing)| Some((id.session.clone(), standing.container.clone()?)))
        .collect()
}

/// Device memory is that of the container's own processes, as the driver tells it by process.
fn usage(
    session: &SessionId,
    stats: &ContainerStats,
    devices: &[DeviceUsage],
) -> v1::ContainerUsage {
    let mut device_memory_bytes = BTreeMap::new();
    for device in devices {
        for process in device.processes.iter().filter(|p| stats.host_pids.contains(&p.pid)) {
            let Some(memory) = process.memory else { continue };
            *device_memory_bytes.entry(device.uuid.to_string()).or_insert(0) += memory.0;
        }
    }
    v1::ContainerUsage {
        session_id: session.to_string(),
        cpu_usage_ns: stats.cpu_usage_ns,
        memory_bytes: stats.memory_bytes,
        pids: u32::try_from(stats.pids).unwrap_or(u32::MAX),
        device_memory_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_domain::device::ProcessUsage;
    use fgpu_domain::units::MemoryBytes;

    #[test]
    fn device_memory_is_that_of_the_containers_own_processes() {
        let process =
            |pid, memory: Option<u64>| ProcessUsage { pid, memory: memory.map(MemoryBytes) };
        let device = |uuid: &str, processes| DeviceUsage {
            uuid: uuid.parse().unwrap(),
            memory_used: MemoryBytes(100),
            utilization_milli: None,
            temperature_celsius: None,
            power_milliwatts: None,
            processes,
        };
        let devices = [
            device("GPU-1", vec![process(7, Some(30)), process(8, Some(5)), process(9, Some(50))]),
            device("GPU-2", vec![process(7, None)]),
        ];
        let stats = ContainerStats { host_pids: vec![7, 8], pids: 2, ..ContainerStats::default() };

        let usage = usage(&"abcdef12".parse().unwrap(), &stats, &devices);

        assert_eq!(usage.device_memory_bytes, [("GPU-1".to_owned(), 35)].into());
        assert_eq!(usage.pids, 2);
    }
}
