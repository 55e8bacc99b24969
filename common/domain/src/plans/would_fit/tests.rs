use super::*;
use crate::placement::{NodeView, Placer};
use crate::plans::testing::{
    cluster, fgpu, gpu, labelled, name_of, node, request, take, view, whole,
};
use proptest::prelude::*;

fn refused(request: &Request, view: &View) -> Vec<String> {
    let refused = Placer::new(Policy::BestFit, 0).place(request, view).unwrap_err();
    would_fit(request, &refused, view).iter().map(ToString::to_string).collect()
}

fn nearly_full() -> NodeView {
    let mut node = node("a", 2);
    node.cpu_free = CpuMilli(2_570);
    node.memory_free = MemoryBytes::gib(20);
    node
}

#[test]
fn less_cpu_or_memory_is_named_with_the_most_that_fits() {
    let view = view([nearly_full()]);

    let cpu = Request { cpu: CpuMilli::cores(8), ..whole(1) };
    assert_eq!(refused(&cpu, &view), ["`--cpu 2.5` would start now on node a"]);
    let memory = Request { memory: MemoryBytes::gib(32), ..whole(1) };
    assert_eq!(refused(&memory, &view), ["`--memory 20GiB` would start now on node a"]);
    let both = Request { cpu: CpuMilli::cores(8), memory: MemoryBytes::gib(32), ..whole(1) };
    assert!(refused(&both, &view).is_empty());
}

#[test]
fn labels_in_the_way_are_named_the_fewest_first() {
    let view = view([labelled(node("a", 1), &[("zone", "west"), ("disk", "nvme")])]);
    let with = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Request { labels: labels.collect(), ..whole(1) }
    };

    let one = refused(&with(&[("disk", "nvme"), ("zone", "east")]), &view);
    assert_eq!(one, ["without `--node-label zone=east` it would start now on node a"]);
    let both = refused(&with(&[("disk", "hdd"), ("zone", "east")]), &view);
    assert_eq!(both, ["without `--node-label disk=hdd,zone=east` it would start now on node a"]);
}

#[test]
fn less_compute_is_named_where_memory_is_free() {
    let mut node = node("a", 1);
    node.devices[0].free.compute = ComputeMilli(250);
    node.devices[0].sessions = 1;
    let asked = gpu(GpuAmount::Direct {
        memory: Some(MemoryBytes::gib(20)),
        compute: ComputeRequest::Share(ComputeMilli(400)),
    });

    let named = refused(&asked, &view([node]));

    assert!(
        named.contains(&"`--gpu-compute 25%` would start now on node a".to_owned()),
        "{named:?}"
    );
}

#[test]
fn what_placement_found_comes_first_and_only_once() {
    let mut view = view([node("a", 2)]);
    for _ in 0..2 {
        let half = fgpu(6_000);
        let grant = Placer::new(Policy::Spread, 0).find(&half, &view).unwrap().grant;
        take(&mut view, &half, &grant);
    }

    let named = refused(&fgpu(8_000), &view);

    assert_eq!(
        named,
        [
            "`--devices 2 --split even` would start now on node a",
            "`--fgpu 4` would start now on node a"
        ]
    );
}

fn gang(members: usize, request: &Request) -> GangRequest {
    GangRequest { members: vec![request.clone(); members], ..GangRequest::default() }
}

#[test]
fn a_gang_is_told_how_many_members_and_how_large_ones_would_start() {
    let view = view([node("a", 2), node("b", 1)]);

    let named: Vec<String> =
        gang_would_fit(&gang(4, &fgpu(7_000)), &view).iter().map(ToString::to_string).collect();
    assert_eq!(
        named,
        ["3 members would start now on nodes a, b", "`--fgpu 5` each would start now on node a"]
    );
    let whole = gang_would_fit(&gang(4, &whole(1)), &view);
    assert!(matches!(whole.as_slice(), [WouldFit::Members { members: 3, .. }]), "{whole:?}");
}

#[test]
fn a_gang_is_told_of_nodes_where_it_failed() {
    let view = view([node("a", 1), node("b", 1)]);
    let avoiding = GangRequest { avoid: BTreeSet::from([name_of("b")]), ..gang(2, &whole(1)) };

    let named = gang_would_fit(&avoiding, &view);

    let all = BTreeSet::from([name_of("a"), name_of("b")]);
    assert_eq!(named[1], WouldFit::FailedNodes { nodes: all });
}

#[test]
fn nothing_is_named_for_a_gang_that_fits_or_never_will() {
    let view = view([node("a", 2)]);

    assert!(gang_would_fit(&gang(2, &whole(1)), &view).is_empty());
    assert!(gang_would_fit(&gang(2, &whole(3)), &view).is_empty());
}

proptest! {
    #[test]
    fn every_change_named_lets_the_request_start_and_no_larger_amount_does(
        mut view in cluster(4),
        load in proptest::collection::vec(request(), 0..25),
        mut asked in request(),
        rack in proptest::option::of(0_usize..3),
    ) {
        let mut placer = Placer::new(Policy::Spread, 0);
        for request in &load {
            if let Some(placement) = placer.find(request, &view) {
                take(&mut view, request, &placement.grant);
            }
        }
        asked.labels.extend(rack.map(|rack| ("rack".to_owned(), format!("r{rack}"))));
        let Err(refused) = placer.place(&asked, &view) else { return Ok(()) };
        let named = would_fit(&asked, &refused, &view);

        prop_assert_eq!(&named, &would_fit(&asked, &refused, &view));
        let barely = Request { cpu: CpuMilli(CPU_STEP), ..asked.clone() };
        if asked.cpu > CpuMilli(CPU_STEP) && starts(&barely, &view).is_some() {
            let less_cpu = |change: &WouldFit| matches!(change, WouldFit::Cpu { .. });
            prop_assert!(named.iter().any(less_cpu));
        }
        for change in named {
            let (changed, larger, node) = match change {
                WouldFit::Cpu { cpu, node } => {
                    let more = CpuMilli(cpu.0 + CPU_STEP);
                    let with = |cpu| Request { cpu, ..asked.clone() };
                    (with(cpu), (more < asked.cpu).then(|| with(more)), node)
                }
                WouldFit::Memory { memory, node } => {
                    let more = MemoryBytes(memory.0 + MIB);
                    let with = |memory| Request { memory, ..asked.clone() };
                    (with(memory), (more < asked.memory).then(|| with(more)), node)
                }
                WouldFit::NodeLabels { without, node } => {
                    let mut less = asked.clone();
                    less.labels.retain(|key, _| !without.contains_key(key));
                    (less, None, node)
                }
                WouldFit::GpuCompute { .. } | WouldFit::Hint(_) => continue,
                WouldFit::Members { .. }
                | WouldFit::MemberFgpu { .. }
                | WouldFit::FailedNodes { .. } => panic!("not for one request: {change:?}"),
            };
            prop_assert_eq!(starts(&changed, &view), Some(node));
            prop_assert!(larger.is_none_or(|larger| starts(&larger, &view).is_none()));
        }
    }

    #[test]
    fn every_change_named_lets_a_gang_start(
        view in cluster(4),
        asked in request(),
        members in 2_usize..12,
    ) {
        let gang = gang(members, &asked);
        let named = gang_would_fit(&gang, &view);
        if let Err(GangRefused::Now { fit, .. }) = place_gang(&gang, &view) {
            let fewer = |change: &WouldFit| {
                matches!(change, WouldFit::Members { members, .. } if *members == fit)
            };
            prop_assert_eq!(named.iter().any(fewer), fit > 0);
        }
        for change in named {
            match change {
                WouldFit::Members { members: fewer, nodes } => {
                    prop_assert!(fewer < members);
                    let members = vec![asked.clone(); fewer];
                    let less = GangRequest { members, ..gang.clone() };
                    prop_assert_eq!(starts_gang(&less, &view), Some(nodes));
                    let members = vec![asked.clone(); fewer + 1];
                    let more = GangRequest { members, ..gang.clone() };
                    prop_assert!(place_gang(&more, &view).is_err());
                }
                WouldFit::MemberFgpu { amount, nodes } => {
                    let mut less = gang.clone();
                    for member in &mut less.members {
                        member.gpu.as_mut().unwrap().amount = GpuAmount::Fgpu(amount);
                    }
                    prop_assert_eq!(starts_gang(&less, &view), Some(nodes));
                }
                other => panic!("not for this gang: {other:?}"),
            }
        }
    }
}
