//! Builders for the tests of plans.

use super::RunningSession;
use crate::ids::{DeviceUuid, NodeName, SessionId};
use crate::placement::testing::{LARGE, SMALL, partition};
pub(super) use crate::placement::testing::{name_of, node, node_of};
use crate::placement::{Allocation, NodeState, NodeView, Placer, Policy, Request, View};
use crate::slice::{GpuAmount, GpuRequest, Grant, Split};
use crate::time::UnixMillis;
use crate::units::{ComputeMilli, CpuMilli, Fgpu, MemoryBytes};
use proptest::prelude::*;
use std::num::NonZeroU32;

pub(super) fn labelled(mut node: NodeView, labels: &[(&str, &str)]) -> NodeView {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    node.labels.extend(labels);
    node
}

pub(super) fn device_of(node: &str, index: usize) -> DeviceUuid {
    DeviceUuid::new(format!("GPU-{node}-{index}")).unwrap()
}

pub(super) fn view(nodes: impl IntoIterator<Item = NodeView>) -> View {
    let mut view = View::new(Fgpu(100));
    for node in nodes {
        view.insert(node).unwrap();
    }
    view
}

/// One core, 1 GiB, and `amount` of GPU.
pub(super) fn gpu(amount: GpuAmount) -> Request {
    Request {
        cpu: CpuMilli::cores(1),
        memory: MemoryBytes::gib(1),
        gpu: Some(GpuRequest::new(amount)),
        ..Request::default()
    }
}

pub(super) fn fgpu(milli: u64) -> Request {
    gpu(GpuAmount::Fgpu(Fgpu(milli)))
}

pub(super) fn whole(count: u32) -> Request {
    gpu(GpuAmount::Whole(NonZeroU32::new(count).unwrap()))
}

/// Takes what `grant` gives `request`.
pub(super) fn take(view: &mut View, request: &Request, grant: &Grant) {
    view.allocate(&grant.node, &Allocation::of(request, grant)).unwrap();
}

const MODELS: [(&str, u64); 2] = [("H100", 80), ("A100", 40)];

/// Up to `most` nodes in racks and zones, empty.
pub(super) fn cluster(most: usize) -> impl Strategy<Value = View> {
    let node = (0_usize..2, 0_usize..5, 4_u64..40, 0_usize..3, 0_u8..10);
    proptest::collection::vec(node, 1..=most).prop_map(|nodes| {
        let node =
            |(at, (model, devices, cores, rack, odd)): (usize, (usize, usize, u64, usize, u8))| {
                let (model, memory) = MODELS[model];
                let mut node = node_of(&format!("n{at}"), model, memory, devices);
                (node.cpu_total, node.cpu_free) = (CpuMilli::cores(cores), CpuMilli::cores(cores));
                if odd > 0 {
                    let zone = if rack == 0 { "west" } else { "east" };
                    let rack = format!("r{rack}");
                    node = labelled(node, &[("rack", rack.as_str()), ("zone", zone)]);
                }
                match odd {
                    1 => node.enforcers.clear(),
                    2 => node.state = NodeState::Cordoned,
                    3 | 4 if devices > 0 => node = partition(node, &[&[SMALL, SMALL, LARGE]]),
                    _ => {}
                }
                node
            };
        view(nodes.into_iter().enumerate().map(node))
    })
}

/// A request that some node of [`cluster`] may hold.
pub(super) fn request() -> impl Strategy<Value = Request> {
    let amount = prop_oneof![
        5 => (1_u64..110).prop_map(|quanta| GpuAmount::Fgpu(Fgpu(quanta * 100))),
        1 => (100_u64..250).prop_map(|quanta| GpuAmount::Fgpu(Fgpu(quanta * 100))),
        2 => (1_u32..4).prop_map(|gpus| GpuAmount::Whole(NonZeroU32::new(gpus).unwrap())),
        1 => (1_u64..80_000).prop_map(|mib| GpuAmount::Direct {
            memory: Some(MemoryBytes::mib(mib)),
            compute: crate::slice::ComputeRequest::Share(ComputeMilli(100)),
        }),
    ];
    let split = proptest::option::weighted(0.1, prop_oneof![Just(Split::Even), Just(Split::Fill)]);
    let parts =
        (amount, split).prop_map(|(amount, split)| GpuRequest { split, ..GpuRequest::new(amount) });
    let instances = (prop_oneof![Just(SMALL), Just(LARGE)], 1_u32..3).prop_map(|(profile, n)| {
        GpuRequest::mig(profile.parse().unwrap(), NonZeroU32::new(n).unwrap())
    });
    let gpu = prop_oneof![8 => parts, 1 => instances];
    (0_u64..6, 0_u64..64, proptest::option::weighted(0.9, gpu)).prop_map(|(cores, gib, gpu)| {
        Request {
            cpu: CpuMilli::cores(cores),
            memory: MemoryBytes::gib(gib),
            gpu,
            ..Request::default()
        }
    })
}

/// A session to come, for [`crowd`].
#[derive(Debug, Clone)]
pub(super) struct Coming {
    pub(super) request: Request,
    members: usize,
    priority: i32,
    started_at: u64,
    ends_at: Option<u64>,
    preemptible: bool,
    min_run_over: bool,
}

/// Sessions with priorities from 0 to 3 that started before 1,000 and end after it, if ever.
pub(super) fn coming() -> impl Strategy<Value = Coming> {
    let size = prop_oneof![5 => Just(1_usize), 1 => 2_usize..4];
    let end = proptest::option::weighted(0.7, 1_001_u64..2_000);
    let most = proptest::bool::weighted(0.8);
    (request(), size, 0..4, 0_u64..1_000, end, most, most).prop_map(
        |(request, members, priority, started_at, ends_at, preemptible, min_run_over)| Coming {
            request,
            members,
            priority,
            started_at,
            ends_at,
            preemptible,
            min_run_over,
        },
    )
}

/// Starts what has room, one member after another.
pub(super) fn crowd(view: &mut View, coming: &[Coming]) -> Vec<RunningSession> {
    let mut placer = Placer::new(Policy::Spread, 0);
    let mut running = Vec::new();
    for (at, session) in coming.iter().enumerate() {
        let mut held = Vec::new();
        for _ in 0..session.members {
            let Some(placement) = placer.find(&session.request, view) else { break };
            take(view, &session.request, &placement.grant);
            let allocation = Allocation::of(&session.request, &placement.grant);
            held.push((placement.grant.node, allocation));
        }
        if !held.is_empty() {
            running.push(RunningSession { held, ..session.running(at) });
        }
    }
    running
}

impl Coming {
    fn running(&self, at: usize) -> RunningSession {
        RunningSession {
            id: session_id(at),
            held: Vec::new(),
            priority: self.priority,
            started_at: UnixMillis(self.started_at),
            ends_at: self.ends_at.map(UnixMillis),
            preemptible: self.preemptible,
            min_run_over: self.min_run_over,
            grace_ms: 0,
            stopping: false,
        }
    }
}

pub(super) fn session_id(at: usize) -> SessionId {
    SessionId::new(format!("session{at:04}")).unwrap()
}

/// Gives back all a session holds.
pub(super) fn end(view: &mut View, session: &RunningSession) {
    for (node, allocation) in &session.held {
        view.release(node, allocation).unwrap();
    }
}

/// Whether `request` fits on one node of a view, on as many devices as it would take anywhere.
pub(super) fn fits_on(request: &Request, node: &NodeName, view: &View) -> bool {
    let mut request = request.clone();
    let others = view.iter().map(|node| &node.name).filter(|name| *name != node);
    request.avoid.extend(others.cloned());
    Placer::new(Policy::BestFit, 0).find(&request, view).is_some()
}
