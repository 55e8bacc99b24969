//! Random clusters and histories, checked against sums kept apart from the view.

use super::testing::{LARGE, SMALL, name_of, node_of, partition, view};
use super::*;
use crate::slice::{ComputeRequest, GpuAmount, GpuRequest, Grant, Isolation, Split};
use crate::units::{ComputeMilli, Fgpu};
use proptest::prelude::*;
use std::num::NonZeroU32;

const PROFILES: [&str; 2] = [SMALL, LARGE];

const MODELS: [(&str, u64); 3] = [("H100", 80), ("A100", 40), ("T4", 15)];

#[derive(Debug, Clone)]
pub(super) enum Step {
    Place(Request),
    Release(usize),
    State(usize, NodeState),
    Block(usize, usize, bool),
}

pub(super) fn cluster() -> impl Strategy<Value = View> {
    let node = (0_usize..3, 0_usize..5, 1_u64..40, 1_u64..64, any::<bool>(), any::<bool>());
    proptest::collection::vec(node, 1..6).prop_map(|nodes| {
        view(nodes.into_iter().enumerate().map(
            |(at, (model, devices, cores, gib, bare, shared))| {
                let (model, memory) = MODELS[model];
                let mut node = node_of(&format!("n{at}"), model, memory, devices);
                (node.cpu_total, node.cpu_free) = (CpuMilli::cores(cores), CpuMilli::cores(cores));
                node.memory_total = MemoryBytes::gib(gib);
                node.memory_free = node.memory_total;
                node.allow_shared = shared;
                node.labels.insert("rack".to_owned(), (at % 2).to_string());
                if bare {
                    node.enforcers.clear();
                }
                if let Some(odd) = node.devices.first_mut() {
                    // A second kind of device on the node.
                    let units = crate::slice::UnitPolicy::default()
                        .units_of(model, MemoryBytes::mib(memory * 1024 - 7));
                    (odd.units, odd.free) = (units, units.whole());
                }
                if at % 2 == 1 && devices > 0 {
                    node = partition(node, &[&[SMALL, SMALL, LARGE]]);
                }
                node
            },
        ))
    })
}

fn gpu() -> impl Strategy<Value = GpuRequest> {
    let instances =
        (0_usize..PROFILES.len(), 1_u32..4, proptest::option::weighted(0.2, 0_usize..3));
    let instances = instances.prop_map(|(profile, count, model)| GpuRequest {
        models: model.map(|model| MODELS[model].0.to_owned()).into_iter().collect(),
        ..GpuRequest::mig(PROFILES[profile].parse().unwrap(), NonZeroU32::new(count).unwrap())
    });
    prop_oneof![4 => of_devices(), 1 => instances]
}

fn of_devices() -> impl Strategy<Value = GpuRequest> {
    let amount = prop_oneof![
        4 => (1_u64..400).prop_map(|quanta| GpuAmount::Fgpu(Fgpu(quanta * 100))),
        1 => (1_u32..5).prop_map(|n| GpuAmount::Whole(NonZeroU32::new(n).unwrap())),
        2 => (1_u64..90_000, 0_u32..1_001).prop_map(|(mib, milli)| GpuAmount::Direct {
            memory: Some(MemoryBytes::mib(mib)),
            compute: match milli {
                0 => ComputeRequest::Shared,
                1..300 => ComputeRequest::Proportional,
                _ => ComputeRequest::Share(ComputeMilli(milli)),
            },
        }),
    ];
    let devices = proptest::option::weighted(0.2, 1_u32..5);
    let split = proptest::option::weighted(0.3, prop_oneof![Just(Split::Even), Just(Split::Fill)]);
    let model = proptest::option::weighted(0.2, 0_usize..3);
    (amount, devices, split, model).prop_map(|(amount, devices, split, model)| GpuRequest {
        amount,
        devices: match amount {
            GpuAmount::Whole(_) => None,
            _ => devices.and_then(NonZeroU32::new),
        },
        split,
        models: model.map(|model| MODELS[model].0.to_owned()).into_iter().collect(),
        mig: None,
    })
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    let isolation = proptest::option::weighted(
        0.3,
        prop_oneof![Just(Isolation::Whole), Just(Isolation::Driver), Just(Isolation::Shared)],
    );
    let node = proptest::option::weighted(0.1, 0_usize..6);
    let rack = proptest::option::weighted(0.2, 0_usize..3);
    let avoid = proptest::collection::btree_set(0_usize..6, 0..3);
    let narrowed = (node, rack, avoid);
    (0_u64..8, 0_u64..16, proptest::option::weighted(0.9, gpu()), isolation, narrowed).prop_map(
        |(cores, gib, gpu, isolation, (node, rack, avoid))| Request {
            cpu: CpuMilli::cores(cores),
            memory: MemoryBytes::gib(gib),
            gpu,
            isolation,
            node: node.map(|at| name_of(&format!("n{at}"))),
            labels: rack.map(|rack| ("rack".to_owned(), rack.to_string())).into_iter().collect(),
            avoid: avoid.into_iter().map(|at| name_of(&format!("n{at}"))).collect(),
            ..Request::default()
        },
    )
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![3 => Just(NodeState::Ready), 1 => Just(NodeState::Lost)];
    prop_oneof![
        8 => request().prop_map(Step::Place),
        3 => (0_usize..100).prop_map(Step::Release),
        1 => (0_usize..6, state).prop_map(|(at, state)| Step::State(at, state)),
        1 => (0_usize..6, 0_usize..5, any::<bool>()).prop_map(|(n, d, b)| Step::Block(n, d, b)),
    ]
}

/// What a run of steps leaves, and the answer to each.
pub(super) fn play(
    view: &mut View,
    policy: Policy,
    steps: &[Step],
) -> (Vec<(Request, Grant)>, Vec<String>) {
    let mut placer = Placer::new(policy, 11);
    let (mut running, mut answers) = (Vec::<(Request, Grant)>::new(), Vec::new());
    for step in steps {
        match step {
            Step::Place(request) => {
                placer.arrived(request);
                let answer = placer.place(request, view);
                if policy != Policy::Random {
                    let found = answer.as_ref().ok().map(|found| (found.score, &found.grant.node));
                    assert_eq!(found, placer.exhaustive(request, view), "{request:?}");
                }
                answers.push(format!("{answer:?}"));
                match answer {
                    Ok(placement) => {
                        check_grant(view, request, &placement.grant);
                        let allocation = Allocation::of(request, &placement.grant);
                        view.allocate(&placement.grant.node, &allocation).unwrap();
                        running.push((request.clone(), placement.grant));
                    }
                    Err(refused) => check_refusal(view, request, &refused),
                }
            }
            Step::Release(at) if !running.is_empty() => {
                let (request, grant) = running.swap_remove(at % running.len());
                view.release(&grant.node, &Allocation::of(&request, &grant)).unwrap();
            }
            Step::Release(_) => {}
            Step::State(at, state) => {
                // There may be no such node.
                let _ = view.set_state(&name_of(&format!("n{at}")), *state);
            }
            Step::Block(at, device, blocked) => {
                let name = name_of(&format!("n{at}"));
                let device = crate::ids::DeviceUuid::new(format!("GPU-n{at}-{device}")).unwrap();
                let _ =
                    view.set_blocked(&name, &device, blocked.then_some(DeviceBlock::MigEnabled));
            }
        }
        check_sums(view, &running);
    }
    (running, answers)
}

/// Exactly what was asked, on a node and devices that may take it, and split only where allowed.
fn check_grant(view: &View, request: &Request, grant: &Grant) {
    let node = view.get(&grant.node).unwrap();
    assert_eq!(node.state, NodeState::Ready);
    assert!(request.node.as_ref().is_none_or(|name| *name == grant.node));
    let Some(gpu) = &request.gpu else {
        assert!(grant.slices.is_empty());
        return;
    };
    let mut last = None;
    for slice in &grant.slices {
        let device = node.devices.iter().find(|device| device.uuid == slice.device).unwrap();
        assert!(device.blocked.is_none() && device.is_allowed(gpu));
        if device.mig.is_some() {
            assert_eq!(slice.demand(), device.units.whole(), "instances are given whole");
        }
        assert!(last < Some(device.index), "slices are ordered and on different devices");
        last = Some(device.index);
        if grant.isolation == Isolation::Whole {
            assert_eq!(device.sessions, 0);
        }
    }
    match gpu.amount {
        GpuAmount::Fgpu(asked) => {
            assert_eq!(grant.slices.iter().map(|slice| slice.fgpu).sum::<Fgpu>(), asked);
        }
        GpuAmount::Whole(count) => {
            assert_eq!(grant.slices.len(), count.get() as usize);
            assert_eq!(grant.isolation == Isolation::Mig, gpu.mig.is_some());
        }
        GpuAmount::Direct { memory, .. } => {
            let sum: MemoryBytes = grant.slices.iter().map(|slice| slice.memory).sum();
            assert_eq!(Some(sum), memory);
        }
    }
    if let (None, None, GpuAmount::Fgpu(asked)) = (gpu.devices, gpu.split, gpu.amount) {
        let one_holds = view
            .iter()
            .filter(|node| request.node.as_ref().is_none_or(|name| *name == node.name))
            .filter(|node| labelled(request, node))
            .filter(|node| node.cpu_total >= request.cpu && node.memory_total >= request.memory)
            .flat_map(|node| &node.devices)
            .any(|device| device.is_allowed(gpu) && device.units.capacity >= asked);
        assert!(!one_holds || grant.slices.len() == 1, "{gpu} was split: {grant:?}");
    }
}

fn check_refusal(view: &View, request: &Request, refused: &NoPlacement) {
    let explained: Vec<_> = refused.reasons.iter().map(|(node, _)| node).collect();
    let all: Vec<_> = view.iter().map(|node| &node.name).collect();
    assert_eq!(explained, all);
    assert_eq!(refused.summary.values().sum::<usize>(), view.len());
    if refused.impossible.is_none() {
        for (node, reason) in &refused.reasons {
            assert_ne!(*reason, Reason::NeverFits, "{node}: {request:?}");
        }
    }
    check_no_room_on_one_device(view, request);
    // On an empty cluster in full service the request would only be refused for good reason.
    let mut empty = View::new(view.quantum());
    for node in view.iter() {
        let mut node = node.clone();
        (node.cpu_free, node.memory_free) = (node.cpu_total, node.memory_total);
        node.state = NodeState::Ready;
        for device in &mut node.devices {
            (device.free, device.sessions, device.blocked) = (device.units.whole(), 0, None);
        }
        empty.insert(node).unwrap();
    }
    let shared = Request {
        isolation: Some(Isolation::Shared),
        avoid: Default::default(),
        ..request.clone()
    };
    let fits = Placer::new(Policy::BestFit, 0).find(&shared, &empty).is_some();
    assert_eq!(feasible_when_empty(request, view).is_ok(), fits, "{request:?}");
}

fn labelled(request: &Request, node: &NodeView) -> bool {
    request.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
}

/// A refused part of one device has no room on any device that could be used, looked at one by one.
fn check_no_room_on_one_device(view: &View, request: &Request) {
    let Some(gpu) = &request.gpu else { return };
    let GpuRequest { amount: GpuAmount::Fgpu(asked), devices: None, split: None, .. } = gpu else {
        return;
    };
    let enough_isolation = |node: &NodeView| match request.isolation {
        Some(Isolation::Whole) => false,
        Some(Isolation::Shared) => true,
        Some(_) => !node.enforcers.is_empty(),
        None => !node.enforcers.is_empty() || node.allow_shared,
    };
    let nodes = view.iter().filter(|node| {
        node.state == NodeState::Ready
            && request.node.as_ref().is_none_or(|name| *name == node.name)
            && node.cpu_free >= request.cpu
            && node.memory_free >= request.memory
            && !request.avoid.contains(&node.name)
            && labelled(request, node)
            && enough_isolation(node)
    });
    for device in nodes.flat_map(|node| &node.devices) {
        let quantum = device.units.memory_of(view.quantum());
        let room = device.blocked.is_none()
            && device.is_allowed(gpu)
            && device.units.capacity >= *asked
            && device.units.fgpu_in(device.free) >= *asked
            && (device.sessions == 0 || device.free.memory >= quantum);
        assert!(!room, "{request:?} was refused, {device:?} has room");
    }
}

/// What is free and what was granted make up each node and device.
fn check_sums(view: &View, running: &[(Request, Grant)]) {
    for node in view.iter() {
        let here = || running.iter().filter(|(_, grant)| grant.node == node.name);
        let cpu: CpuMilli = here().map(|(request, _)| request.cpu).sum();
        let memory: MemoryBytes = here().map(|(request, _)| request.memory).sum();
        assert_eq!(cpu.checked_add(node.cpu_free), Some(node.cpu_total));
        assert_eq!(memory.checked_add(node.memory_free), Some(node.memory_total));
        for device in &node.devices {
            let slices = || {
                let all = here().flat_map(|(_, grant)| &grant.slices);
                all.filter(|slice| slice.device == device.uuid)
            };
            let memory: MemoryBytes = slices().map(|slice| slice.memory).sum();
            let compute: ComputeMilli = slices().map(|slice| slice.compute).sum();
            assert_eq!(memory.checked_add(device.free.memory), Some(device.units.memory));
            assert_eq!(compute.checked_add(device.free.compute), Some(ComputeMilli::WHOLE));
            assert_eq!(slices().count(), device.sessions as usize);
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_granted_beyond_what_is_there_and_all_of_it_comes_back(
        mut view in cluster(),
        policy in proptest::sample::select(Policy::ALL.to_vec()),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut twin = view.clone();
        let empty: Vec<NodeView> = view.iter().cloned().collect();

        let (running, answers) = play(&mut view, policy, &steps);
        let (_, again) = play(&mut twin, policy, &steps);
        prop_assert_eq!(answers, again, "the same input gives the same answers");

        for (request, grant) in &running {
            view.release(&grant.node, &Allocation::of(request, grant)).unwrap();
        }
        for (node, before) in view.iter().zip(&empty) {
            prop_assert_eq!(node.cpu_free, before.cpu_free);
            prop_assert_eq!(node.memory_free, before.memory_free);
            for (device, before) in node.devices.iter().zip(&before.devices) {
                prop_assert_eq!((device.free, device.sessions), (before.free, before.sessions));
            }
        }
    }
}
