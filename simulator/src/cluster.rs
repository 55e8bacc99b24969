//! The cluster of a replay, in terms of placement.

use crate::error::SimulateError;
use crate::models::Models;
use crate::replay::{ClassLine, GPU_MILLI, NodeLine, PodLine};
use fgpu_domain::ids::{DeviceUuid, NodeName};
use fgpu_domain::placement::{
    Allocation, DeviceView, NodeState, NodeView, Placer, Policy, Request, View,
};
use fgpu_domain::slice::{DeviceUnits, Isolation};
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};
use std::collections::BTreeMap;

/// A cluster being filled.
pub(crate) struct Cluster {
    view: View,
    placer: Placer,
    /// Names in the replay, by the number in the name used here.
    names: Vec<String>,
    models: Models,
}

/// Where a pod went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Position of the node in the replay.
    node: usize,
    /// Indices of its GPUs, ascending.
    pub(crate) gpus: Vec<u32>,
}

/// What a pod took, and where.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    node: NodeName,
    allocation: Allocation,
}

impl Cluster {
    pub(crate) fn new(policy: Policy, seed: u64) -> Self {
        let view = View::new(Fgpu(1));
        let placer = Placer::new(policy, seed);
        Self { view, placer, names: Vec::new(), models: Models::default() }
    }

    /// Adds a node; `line` is where it stands, for errors.
    pub(crate) fn add(&mut self, node: &NodeLine, line: u64) -> Result<(), SimulateError> {
        let number = self.names.len();
        let name = |source| SimulateError::Name { line, node: node.name.clone(), source };
        let model = self.models.name(node.gpu_model.as_deref().unwrap_or_default());
        let devices = (0..node.num_gpu)
            .map(|index| {
                let uuid = DeviceUuid::new(format!("n{number}-g{index}"))?;
                Ok(device(uuid, index, model.clone()))
            })
            .collect::<Result<_, _>>()
            .map_err(name)?;
        let view = NodeView {
            name: NodeName::new(format!("n{number}")).map_err(name)?,
            state: NodeState::Ready,
            labels: BTreeMap::new(),
            cpu_total: CpuMilli(node.cpu_milli),
            cpu_free: CpuMilli(node.cpu_milli),
            memory_total: MemoryBytes::mib(node.memory_mib),
            memory_free: MemoryBytes::mib(node.memory_mib),
            devices,
            allow_shared: false,
            enforcers: vec![Isolation::Driver],
        };
        let refused = |source| {
            let (node, source) = (node.name.clone(), Box::new(source));
            SimulateError::Node { line, node, source }
        };
        self.view.insert(view).map_err(refused)?;
        self.names.push(node.name.clone());
        Ok(())
    }

    /// Places a pod and takes what it needs; `None` where no node has room.
    pub(crate) fn place(&mut self, pod: &PodLine) -> Result<Option<Place>, SimulateError> {
        let Some(taken) = self.take(pod)? else { return Ok(None) };
        let number = |text: &str, mark| text.rsplit(mark).next().and_then(|n| n.parse().ok());
        let slices = taken.allocation.slices.iter();
        let gpus = slices.filter_map(|slice| number(slice.device.as_str(), 'g')).collect();
        let node = taken.node.as_str()[1..].parse().unwrap_or(usize::MAX);
        Ok(Some(Place { node, gpus }))
    }

    /// As [`Cluster::place`], for giving it back one day.
    pub(crate) fn take(&mut self, pod: &PodLine) -> Result<Option<Taken>, SimulateError> {
        let request = self.request(pod);
        self.placer.arrived(&request);
        let Some(placement) = self.placer.find(&request, &self.view) else { return Ok(None) };
        let grant = placement.grant;
        let refused = |source| {
            let (pod, source) = (pod.name.clone(), Box::new(source));
            SimulateError::Refused { pod, source }
        };
        let allocation = Allocation::of(&request, &grant);
        self.view.allocate(&grant.node, &allocation).map_err(refused)?;
        Ok(Some(Taken { node: grant.node, allocation }))
    }

    /// Gives back what a pod took.
    pub(crate) fn give_back(&mut self, taken: &Taken) -> Result<(), SimulateError> {
        let refused = |source| SimulateError::GiveBack { source: Box::new(source) };
        self.view.release(&taken.node, &taken.allocation).map_err(refused)
    }

    /// The name of the node in the replay.
    pub(crate) fn name_of(&self, place: &Place) -> Option<&str> {
        self.names.get(place.node).map(String::as_str)
    }

    /// Tells the policy what the cluster usually sees.
    pub(crate) fn expect(&mut self, class: &ClassLine) {
        let pod = PodLine {
            name: String::new(),
            cpu_milli: class.cpu_milli,
            memory_mib: 0,
            num_gpu: class.num_gpu,
            gpu_milli: class.gpu_milli,
            gpu_spec: class.gpu_spec.clone(),
        };
        let request = self.request(&pod);
        self.placer.expect(&request, class.weight);
    }

    fn request(&mut self, pod: &PodLine) -> Request {
        Request {
            cpu: CpuMilli(pod.cpu_milli),
            memory: MemoryBytes::mib(pod.memory_mib),
            gpu: self.models.request(pod),
            ..Request::default()
        }
    }
}

fn device(uuid: DeviceUuid, index: u32, model: String) -> DeviceView {
    let memory = MemoryBytes::mib(GPU_MILLI);
    let units = DeviceUnits { capacity: Fgpu(GPU_MILLI), memory_per_fgpu: memory, memory };
    DeviceView {
        uuid,
        index,
        model,
        free: units.whole(),
        units,
        blocked: None,
        numa_node: None,
        nvlink_peers: Vec::new(),
        sessions: 0,
        mig: None,
    }
}
