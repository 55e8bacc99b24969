use super::testing::*;
use super::*;
use crate::slice::{ComputeRequest, GpuAmount, Isolation, SliceError};
use crate::units::{ComputeMilli, CpuMilli, Fgpu, MemoryBytes};

#[test]
fn a_request_that_fits_one_empty_device_waits_and_the_split_is_named() {
    let mut view = view([node("a1", 2)]);
    fill(&fgpu(6_000), &mut view);
    fill(&fgpu(6_000), &mut view);

    let refused = refuse(&fgpu(8_000), &view);

    assert_eq!(
        refused.reason("a1"),
        Some(&Reason::GpuMemory {
            wanted: MemoryBytes::gib(64),
            largest_free: MemoryBytes::gib(32)
        })
    );
    assert_eq!(refused.impossible, None);
    let hints: Vec<String> = refused.would_fit.iter().map(Hint::to_string).collect();
    assert_eq!(
        hints,
        [
            "`--devices 2 --split even` would start now on node a1",
            "`--fgpu 4` would start now on node a1"
        ]
    );
}

#[test]
fn without_an_enforcer_a_part_of_a_device_needs_leave() {
    let mut bare = node("a1", 1);
    bare.enforcers.clear();
    let view_of = |node: &NodeView| view([node.clone()]);
    let least = |isolation| Request { isolation: Some(isolation), ..fgpu(1_000) };

    let refused = refuse(&fgpu(1_000), &view_of(&bare));
    assert_eq!(
        refused.reason("a1").unwrap().to_string(),
        "needs isolation interposer or stronger, offers shared"
    );
    assert_eq!(refused.would_fit, [Hint::Shared { node: name_of("a1") }]);
    assert_eq!(place(&whole(1), &view_of(&bare)).isolation, Isolation::Whole);
    assert_eq!(place(&least(Isolation::Shared), &view_of(&bare)).isolation, Isolation::Shared);
    bare.allow_shared = true;
    assert_eq!(place(&fgpu(1_000), &view_of(&bare)).isolation, Isolation::Shared);
    assert!(refuse(&least(Isolation::Interposer), &view_of(&bare)).reasons.len() == 1);

    let enforced = view_of(&node("a1", 1));
    assert_eq!(place(&least(Isolation::Driver), &enforced).isolation, Isolation::Driver);
    assert_eq!(
        refuse(&least(Isolation::Whole), &enforced).reason("a1").unwrap().code(),
        "isolation"
    );
}

#[test]
fn memory_and_compute_of_a_device_are_refused_each_with_its_numbers() {
    let direct =
        |gib: u64, compute| gpu(GpuAmount::Direct { memory: Some(MemoryBytes::gib(gib)), compute });
    let share = |milli| ComputeRequest::Share(ComputeMilli(milli));
    let mut view = view([node("a1", 1)]);
    fill(&direct(8, share(700)), &mut view);

    let refused = refuse(&direct(8, share(400)), &view);
    assert_eq!(
        refused.reason("a1").unwrap().to_string(),
        "needs 40 % of GPU compute, the most free on one GPU is 30 %"
    );
    let refused = refuse(&direct(76, ComputeRequest::Shared), &view);
    assert_eq!(
        refused.reason("a1").unwrap().to_string(),
        "needs 76 GiB of GPU memory, the most free on one GPU is 72 GiB"
    );
    assert_eq!(
        refused.would_fit,
        [Hint::Memory { memory: MemoryBytes::gib(72), node: name_of("a1") }]
    );
    assert_eq!(place(&direct(72, ComputeRequest::Shared), &view).slices[0].compute.0, 0);
}

#[test]
fn blocked_devices_other_models_and_missing_gpus_are_told_apart() {
    let mut sick = node("a1", 1);
    sick.devices[0].blocked = Some(DeviceBlock::Unhealthy { reason: "Xid 79".to_owned() });
    let mut full = node("d4", 2);
    full.devices[0].blocked = Some(DeviceBlock::MigEnabled);
    let mut view = view([sick, node("b2", 0), node_of("c3", "NVIDIA L4", 24, 1), full]);
    fill(&on_node(fgpu(1_000), "d4"), &mut view);
    let mut request = whole(1);
    request.gpu.as_mut().unwrap().models = vec!["h100".to_owned()];

    let refused = refuse(&request, &view);

    let texts: Vec<String> =
        refused.reasons.iter().map(|(node, reason)| format!("{node}: {reason}")).collect();
    assert_eq!(
        texts,
        [
            "a1: none of its 1 GPUs takes anything new, the first is unhealthy: Xid 79",
            "b2: has no GPU",
            "c3: needs GPU model h100, has NVIDIA L4",
            "d4: needs 80 GiB of GPU memory, the most free on one GPU is 72 GiB",
        ]
    );
    assert_eq!(refused.closest.as_ref().unwrap().0, name_of("d4"));
    let hint = Hint::AnyModel { node: name_of("c3"), models: "NVIDIA L4".to_owned() };
    assert_eq!(refused.would_fit, [hint]);
}

#[test]
fn fewer_whole_devices_and_other_nodes_are_offered_where_they_would_start() {
    let mut view = view([node("a1", 4), node("b2", 8)]);
    fill(&on_node(fgpu(100), "b2"), &mut view);
    fill(&on_node(whole(3), "b2"), &mut view);
    fill(&on_node(fgpu(100), "a1"), &mut view);

    let refused = refuse(&whole(8), &view);
    assert_eq!(refused.reason("b2"), Some(&Reason::Devices { wanted: 8, with_room: 4 }));
    assert_eq!(refused.reason("a1"), Some(&Reason::Devices { wanted: 8, with_room: 4 }));
    assert_eq!(refused.would_fit, [Hint::Gpus { gpus: 4, node: name_of("b2") }]);

    let refused = refuse(&on_node(whole(4), "a1"), &view);
    assert_eq!(refused.would_fit[0], Hint::AnyNode { node: name_of("b2") });
}

#[test]
fn the_closest_node_is_the_one_that_lacks_the_least() {
    let mut view = view([node("a1", 1), node("b2", 1), node("c3", 1)]);
    fill(&on_node(fgpu(9_000), "a1"), &mut view);
    fill(&on_node(fgpu(3_000), "b2"), &mut view);
    view.set_state(&name_of("c3"), NodeState::Cordoned).unwrap();

    let refused = refuse(&fgpu(8_000), &view);

    assert_eq!(refused.closest.as_ref().unwrap().0, name_of("b2"));
    assert_eq!(
        refused.to_string(),
        "no node can take it now (cordoned on 1, gpu_memory on 2); closest is b2: needs 64 GiB of \
         GPU memory, the most free on one GPU is 56 GiB"
    );
}

#[test]
fn what_no_node_holds_even_when_empty_is_refused_with_the_most_there_is() {
    let mut view = view([node("a1", 2), node("b2", 0)]);
    let never = |request: &Request| feasible_when_empty(request, &view).unwrap_err().to_string();

    assert_eq!(feasible_when_empty(&fgpu(15_000), &view).unwrap().unwrap().counts, [2]);
    assert_eq!(feasible_when_empty(&cpu_only(64), &view), Ok(None));
    assert_eq!(
        never(&cpu_only(65)),
        "65 cores is more than any allowed node has: the most is 64 on a1"
    );
    let memory = Request { memory: MemoryBytes::gib(300), ..cpu_only(1) };
    assert!(never(&memory).contains("the most is 256 GiB on a1"));
    assert!(never(&fgpu(20_100)).contains("the most is 20 fGPU"));
    assert!(never(&fgpu(50)).contains("not a multiple of the quantum"));
    assert!(never(&on_node(cpu_only(1), "zz")).contains("node zz is not registered"));
    assert!(never(&on_node(fgpu(1_000), "b2")).contains("no device"));
    let mut model = fgpu(1_000);
    model.gpu.as_mut().unwrap().models = vec!["b200".to_owned()];
    assert!(never(&model).contains("no device matches the model b200"));
    let labels = Request { labels: [("a".to_owned(), "b".to_owned())].into(), ..cpu_only(1) };
    assert!(never(&labels).contains("no node allowed carries the labels a=b"));

    let mut large = node("c3", 0);
    (large.cpu_total, large.cpu_free) = (CpuMilli::cores(128), CpuMilli::cores(128));
    view.insert(large).unwrap();
    let both = Request { cpu: CpuMilli::cores(100), ..fgpu(1_000) };
    assert_eq!(
        feasible_when_empty(&both, &view).unwrap_err().to_string(),
        "no allowed node has 1 fGPU, 100 cores and 1 GiB of memory together, even when empty"
    );
    assert_eq!(feasible_when_empty(&both, &View::new(Fgpu(100))), Err(NeverFits::NoNodes));
}

#[test]
fn an_impossible_request_says_so_and_still_gives_every_node_a_reason() {
    let view = view([node("a1", 2), node("b2", 0)]);

    let refused = refuse(&fgpu(30_000), &view);
    assert!(matches!(refused.impossible, Some(SliceError::MoreThanAnyNode { .. })));
    assert_eq!(refused.reasons.len(), 2);
    let refused = refuse(&fgpu(50), &view);
    assert!(matches!(refused.impossible, Some(SliceError::Quantum { .. })));
    assert_eq!(refused.reason("a1"), Some(&Reason::NeverFits));
}
