//! The one place where lines of a replay become inputs of the domain.

use crate::error::SimulateError;
use crate::models::Models;
use crate::replay::{GPU_MILLI, JobLine, NodeLine, ProjectLine, QuotaPart};
use fgpu_domain::cluster::{Applied, Input, Settings};
use fgpu_domain::device::{Device, DeviceHealth, MigState};
use fgpu_domain::ids::{
    ClassName, DeviceUuid, IdError, NodeName, ProjectName, SessionId, UserName,
};
use fgpu_domain::node::{Inventory, RuntimeFacts};
use fgpu_domain::placement::Policy;
use fgpu_domain::project::{Project, Quota};
use fgpu_domain::session::{Members, Resources, SessionSpec};
use fgpu_domain::slice::{Isolation, UnitPolicy, UnitRule};
use fgpu_domain::time::UnixMillis;
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

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
        Applied::Group { sessions, .. } => {
            sessions.iter().map(|session| session.id.clone()).collect()
        }
        Applied::Node(_)
        | Applied::Project(_)
        | Applied::Class(_)
        | Applied::Removed
        | Applied::Nothing => Vec::new(),
    }
}

/// The position in the replay of a node that [`Bridge::register`] named.
pub(crate) fn number(node: &NodeName) -> Option<usize> {
    node.as_str().strip_prefix('n')?.parse().ok()
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
        let invalid = |source| SimulateError::ProjectName { project: project.name.clone(), source };
        let project = Project {
            name: ProjectName::new(project.name.clone()).map_err(invalid)?,
            weight: project.weight,
            quota: quota(&project.quota),
            user_quota: quota(&project.user_quota),
            users: BTreeMap::new(),
            members: BTreeSet::new(),
            created_at: UnixMillis(0),
        };
        Ok(Some(Input::PutProject { project: Box::new(project) }))
    }

    /// A person who creates what the pod asks for.
    pub(crate) fn create(&mut self, number: usize, job: &JobLine) -> Result<Input, SimulateError> {
        let name = &job.pod.name;
        let invalid = |source| SimulateError::PodName { pod: name.clone(), source };
        let resources = Resources {
            gpu: self.models.request(&job.pod),
            cpu: CpuMilli(job.pod.cpu_milli.max(LEAST_CPU_MILLI)),
            memory: MemoryBytes::mib(job.pod.memory_mib.max(LEAST_MEMORY_MIB)),
            shm: None,
        };
        let known = |text: &Option<String>| text.clone().filter(|_| !self.plain);
        let spec = SessionSpec {
            project: known(&job.project).map(ProjectName::new).transpose().map_err(invalid)?,
            class: known(&job.class).map(ClassName::new).transpose().map_err(invalid)?,
            priority: job.priority,
            time_limit_ms: job.time_limit_ms,
            ..SessionSpec::new(vec!["run".to_owned()], resources)
        };
        Ok(Input::Create {
            id: SessionId::new(format!("s{number:09}")).map_err(invalid)?,
            spec: Box::new(spec),
            owner: UserName::new(job.user.as_deref().unwrap_or("anyone")).map_err(invalid)?,
            request_id: None,
            members: match NonZeroU32::new(job.size) {
                Some(size) if size.get() > 1 => Members::Gang(size),
                _ => Members::One,
            },
        })
    }
}

fn quota(part: &QuotaPart) -> Quota {
    Quota {
        fgpu: part.gpu_milli.map(Fgpu),
        cpu: part.cpu_milli.map(CpuMilli),
        memory: part.memory_mib.map(MemoryBytes::mib),
        sessions: part.sessions,
        pending: part.pending,
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
