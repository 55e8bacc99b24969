//! The one place where lines of a replay become inputs of the domain.
//!
//! What the domain does not know yet is refused here by [`unsupported`]; a field that it comes to
//! know moves from there into [`Bridge::create`] or [`Bridge::project`].

use crate::error::SimulateError;
use crate::models::Models;
use crate::replay::{GPU_MILLI, JobLine, NodeLine, ProjectLine};
use fgpu_domain::cluster::{Applied, Input, Settings};
use fgpu_domain::device::{Device, DeviceHealth, MigState};
use fgpu_domain::ids::{DeviceUuid, IdError, NodeName, SessionId, UserName};
use fgpu_domain::node::{Inventory, RuntimeFacts};
use fgpu_domain::placement::Policy;
use fgpu_domain::session::{Resources, SessionSpec};
use fgpu_domain::slice::{Isolation, UnitPolicy, UnitRule};
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};
use std::collections::BTreeMap;

/// The least CPU of a session, thousandths of a core.
const LEAST_CPU_MILLI: u64 = 10;
/// The least memory of a session.
const LEAST_MEMORY_MIB: u64 = 6;

/// Makes inputs.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    models: Models,
    /// Whether projects and classes are kept from the queue.
    plain: bool,
}

/// How the simulated cluster behaves: a device is one fGPU in steps of a thousandth.
pub(crate) fn settings(policy: Policy, seed: u64) -> Settings {
    let default = UnitRule::FgpuPerDevice(Fgpu(GPU_MILLI));
    Settings {
        units: UnitPolicy { default, by_model: BTreeMap::new(), quantum: Fgpu(1) },
        policy,
        seed,
        ..Settings::default()
    }
}

/// The sessions an input made, in the order of their index.
pub(crate) fn made(applied: &Applied) -> Vec<SessionId> {
    match applied {
        Applied::Session { session, .. } => vec![session.id.clone()],
        Applied::Node(_) | Applied::Removed | Applied::Nothing => Vec::new(),
    }
}

/// The position in the replay of a node that [`Bridge::register`] named.
pub(crate) fn number(node: &NodeName) -> Option<usize> {
    node.as_str().strip_prefix('n')?.parse().ok()
}

/// What of a pod the queue would have to know and does not.
fn unsupported(job: &JobLine, plain: bool) -> Option<&'static str> {
    if job.size > 1 {
        return Some("size");
    }
    match job {
        _ if plain => None,
        JobLine { class: Some(_), .. } => Some("class"),
        JobLine { project: Some(_), .. } => Some("project"),
        _ => None,
    }
}

impl Bridge {
    pub(crate) fn new(plain: bool) -> Self {
        Self { models: Models::default(), plain }
    }

    /// An agent that speaks for the first time; its node is named by its number.
    pub(crate) fn register(&mut self, number: usize, node: &NodeLine) -> Result<Input, IdError> {
        let name = NodeName::new(format!("n{number}"))?;
        let model = self.models.name(node.gpu_model.as_deref().unwrap_or_default());
        let devices = (0..node.num_gpu).map(|index| {
            let uuid = DeviceUuid::new(format!("n{number}-g{index}"))?;
            Ok(device(uuid, index, model.clone()))
        });
        let inventory = Inventory {
            address: String::new(),
            agent_version: String::new(),
            cpu: CpuMilli(node.cpu_milli),
            memory: MemoryBytes::mib(node.memory_mib),
            devices: devices.collect::<Result<_, IdError>>()?,
            runtime: RuntimeFacts {
                kind: "process".to_owned(),
                enforcers: vec![Isolation::Driver],
                ..RuntimeFacts::default()
            },
            labels: BTreeMap::new(),
            condition: String::new(),
        };
        let agent_id = name.to_string();
        Ok(Input::Register { name, agent_id, inventory: Box::new(inventory), reports: Vec::new() })
    }

    /// What tells the cluster of a project; nothing where projects are kept from the queue.
    pub(crate) fn project(&self, project: &ProjectLine) -> Result<Option<Input>, SimulateError> {
        if self.plain {
            return Ok(None);
        }
        let name = project.name.clone();
        Err(SimulateError::Unsupported { name, what: "projects, their weights and quotas" })
    }

    /// A person who creates what the pod asks for.
    pub(crate) fn create(&mut self, number: usize, job: &JobLine) -> Result<Input, SimulateError> {
        let name = &job.pod.name;
        if let Some(what) = unsupported(job, self.plain) {
            return Err(SimulateError::Unsupported { name: name.clone(), what });
        }
        let invalid = |source| SimulateError::PodName { pod: name.clone(), source };
        let resources = Resources {
            gpu: self.models.request(&job.pod),
            cpu: CpuMilli(job.pod.cpu_milli.max(LEAST_CPU_MILLI)),
            memory: MemoryBytes::mib(job.pod.memory_mib.max(LEAST_MEMORY_MIB)),
            shm: None,
        };
        let spec = SessionSpec {
            priority: job.priority,
            time_limit_ms: job.time_limit_ms,
            ..SessionSpec::new(vec!["run".to_owned()], resources)
        };
        Ok(Input::Create {
            id: SessionId::new(format!("s{number:09}")).map_err(invalid)?,
            spec: Box::new(spec),
            owner: UserName::new(job.user.as_deref().unwrap_or("anyone")).map_err(invalid)?,
            request_id: None,
        })
    }
}

fn device(uuid: DeviceUuid, index: u32, model: String) -> Device {
    Device {
        uuid,
        index,
        model,
        memory: MemoryBytes::mib(GPU_MILLI),
        multiprocessors: None,
        pci_bus_id: None,
        numa_node: None,
        nvlink_peers: Vec::new(),
        mig: MigState::Unsupported,
        health: DeviceHealth::Healthy,
        simulated: true,
    }
}
