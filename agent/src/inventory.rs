//! What the node is: devices with their health, and what the agent says about itself.
//!
//! [`DeviceWatch`] asks the accelerator again and again, off the async threads and one call at a
//! time: a driver that hangs leaves the last answer standing and says so in the node's condition.

use crate::config::AgentConfig;
use crate::ends;
use crate::facts::Machine;
use crate::supervisor::EngineFacts;
use fgpu_accelerator::{Accelerator, AcceleratorError, AcceleratorInfo};
use fgpu_domain::device::{Device, with_instances};
use fgpu_domain::node::{Inventory, RuntimeFacts};
use fgpu_runtime::{CgroupDriver, cgroup::CgroupVersion};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the health of devices is asked.
const HEALTH_EVERY: Duration = Duration::from_secs(5);
/// How often all is discovered anew.
const DISCOVER_EVERY: Duration = Duration::from_secs(60);
/// How long the accelerator may take before that is told.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is known of the devices.
#[derive(Debug, Clone)]
pub struct DeviceWatch {
    /// The devices, now and after every change.
    pub devices: watch::Receiver<Vec<Device>>,
    /// What is wrong with the accelerator as a whole; empty when nothing is.
    pub problem: watch::Receiver<String>,
    /// What is behind the accelerator.
    pub info: AcceleratorInfo,
}

/// The accelerator does not answer at all.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// It says why.
    #[error("the devices of this machine cannot be listed")]
    Accelerator(#[from] AcceleratorError),
    /// It says nothing.
    #[error("the devices of this machine were not listed within {} s: see `nvidia-smi` and `dmesg`", DEADLINE.as_secs())]
    TooSlow,
}

impl DeviceWatch {
    /// Discovers the devices and goes on watching them, until nobody reads any more.
    ///
    /// # Errors
    /// [`DiscoverError`] when the first discovery fails.
    pub async fn start(accelerator: Arc<dyn Accelerator>) -> Result<Self, DiscoverError> {
        let first = {
            let accelerator = accelerator.clone();
            tokio::task::spawn_blocking(move || Ok((accelerator.info(), accelerator.discover()?)))
        };
        let answer = tokio::time::timeout(DEADLINE, first).await;
        let (info, devices) = match answer {
            Ok(Ok(answer)) => answer.map_err(DiscoverError::Accelerator)?,
            Ok(Err(_)) | Err(_) => return Err(DiscoverError::TooSlow),
        };
        let (devices, found) = watch::channel(devices);
        let (problem, problems) = watch::channel(String::new());
        tokio::spawn(keep_watching(accelerator, devices, problem));
        Ok(Self { devices: found, problem: problems, info })
    }
}

async fn keep_watching(
    accelerator: Arc<dyn Accelerator>,
    devices: watch::Sender<Vec<Device>>,
    problem: watch::Sender<String>,
) {
    let mut ticks = interval(HEALTH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut discovered = Instant::now();
    while !devices.is_closed() {
        ticks.tick().await;
        let anew = discovered.elapsed() >= DISCOVER_EVERY;
        if anew {
            discovered = Instant::now();
        }
        let (asked, known) = (accelerator.clone(), devices.borrow().clone());
        let mut call = tokio::task::spawn_blocking(move || look(&*asked, known, anew));
        let answer = match tokio::time::timeout(DEADLINE, &mut call).await {
            Ok(answer) => answer,
            Err(_) => {
                let text = "the GPU driver does not answer: see `dmesg`".to_owned();
                problem.send_replace(text);
                tracing::error!("the GPU driver does not answer");
                // One call at a time: the next begins when this one has ended.
                call.await
            }
        };
        let (seen, text) = match answer {
            Ok(Ok(seen)) => (Some(seen), String::new()),
            Ok(Err(error)) => (None, ends::chain(&error)),
            Err(error) => (None, error.to_string()),
        };
        problem.send_if_modified(|old| replace(old, text));
        if let Some(seen) = seen {
            devices.send_if_modified(|old| replace(old, seen));
        }
    }
}

fn look(
    accelerator: &dyn Accelerator,
    mut known: Vec<Device>,
    anew: bool,
) -> Result<Vec<Device>, AcceleratorError> {
    if anew {
        return accelerator.discover();
    }
    for (uuid, health) in accelerator.health()? {
        if let Some(device) = known.iter_mut().find(|device| device.uuid == uuid) {
            device.health = health;
        }
    }
    Ok(known)
}

fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    if changed {
        *old = new;
    }
    changed
}

/// Puts together what the manager is told, now and whenever a part of it changes.
pub fn watch_inventory(
    config: &AgentConfig,
    machine: &Machine,
    kind: &'static str,
    devices: DeviceWatch,
    engine: watch::Receiver<EngineFacts>,
    condition: watch::Receiver<String>,
) -> (watch::Receiver<Arc<Inventory>>, JoinHandle<()>) {
    let (config, machine) = (config.clone(), machine.clone());
    let mut sources = Sources { config, machine, kind, devices, engine, condition };
    let (sender, receiver) = watch::channel(Arc::new(sources.inventory()));
    let task = tokio::spawn(async move {
        while sources.changed().await {
            let inventory = sources.inventory();
            sender.send_if_modified(|old| replace(old, Arc::new(inventory)));
            if sender.is_closed() {
                return;
            }
        }
    });
    (receiver, task)
}

struct Sources {
    config: AgentConfig,
    machine: Machine,
    kind: &'static str,
    devices: DeviceWatch,
    engine: watch::Receiver<EngineFacts>,
    condition: watch::Receiver<String>,
}

impl Sources {
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.devices.devices.changed() => changed.is_ok(),
            changed = self.devices.problem.changed() => changed.is_ok(),
            changed = self.engine.changed() => changed.is_ok(),
            changed = self.condition.changed() => changed.is_ok(),
        }
    }

    fn inventory(&mut self) -> Inventory {
        let devices = self.devices.devices.borrow_and_update().clone();
        let engine = self.engine.borrow_and_update().clone();
        let problems = [
            self.condition.borrow_and_update().clone(),
            self.devices.problem.borrow_and_update().clone(),
        ];
        let problems: Vec<String> =
            problems.into_iter().filter(|problem| !problem.is_empty()).collect();
        let condition = problems.join("; ");
        Inventory {
            address: self.config.advertise.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: self.config.cpu,
            memory: self.config.memory,
            runtime: self.runtime_facts(&engine, &devices),
            devices,
            labels: self.config.labels.clone(),
            condition,
        }
    }

    fn runtime_facts(&self, engine: &EngineFacts, devices: &[Device]) -> RuntimeFacts {
        let info = engine.info.as_deref();
        let driver = info.map_or("", |info| match info.cgroup_driver {
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
            CgroupDriver::None => "",
        });
        let version = info.and_then(|info| info.cgroup_version);
        let mounts = self.config.allowed_mounts.iter();
        RuntimeFacts {
            kind: self.kind.to_owned(),
            version: info.map_or_else(String::new, |info| info.version.clone()),
            cgroup_driver: driver.to_owned(),
            cgroup_version: match version {
                Some(CgroupVersion::V1) => "1".to_owned(),
                Some(CgroupVersion::V2) => "2".to_owned(),
                None => String::new(),
            },
            gpu_attach: engine
                .attach
                .resolve(self.config.gpu_attach, &with_instances(devices))
                .to_string(),
            // Nothing here keeps a part of a device to its limits yet.
            enforcers: Vec::new(),
            allow_shared: self.config.allow_shared,
            accelerator: self.devices.info.kind.to_owned(),
            driver_version: self.devices.info.driver_version.clone().unwrap_or_default(),
            allowed_mounts: mounts.map(|folder| folder.display().to_string()).collect(),
            os: self.machine.os.clone(),
            kernel: self.machine.kernel.clone(),
        }
    }
}
