//! Requests without room, against a search that looks at one node only.

use super::tests_history::{cluster, play, request, step};
use super::*;
use proptest::prelude::*;

/// The keys of `requests` that only `node` is allowed to take, and takes.
fn taken(requests: &[(usize, &Request)], view: &View, node: &NodeName) -> BTreeSet<usize> {
    let others = view.iter().map(|other| &other.name).filter(|name| *name != node);
    let others: BTreeSet<NodeName> = others.cloned().collect();
    let mut placer = Placer::new(Policy::BestFit, 0);
    let takes = |(_, request): &&(usize, &Request)| {
        let avoid = request.avoid.union(&others).cloned().collect();
        placer.find(&Request { avoid, ..Request::clone(request) }, view).is_some()
    };
    requests.iter().filter(takes).map(|(key, _)| *key).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_node_finds_exactly_the_requests_it_has_room_for(
        mut view in cluster(),
        requests in proptest::collection::vec(request(), 1..200),
        removed in 2_usize..6,
        steps in proptest::collection::vec(step(), 0..40),
    ) {
        let mut unmet = Unmet::default();
        for (key, request) in requests.iter().enumerate() {
            unmet.insert(key, request.clone(), &view);
        }
        for key in (0..requests.len()).step_by(removed) {
            prop_assert!(unmet.remove(key) && !unmet.contains(key));
        }
        play(&mut view, Policy::BestFit, &steps);
        prop_assert!(!unmet.is_outdated(&view), "nothing of the hardware has changed");
        let left: Vec<(usize, &Request)> =
            requests.iter().enumerate().filter(|(key, _)| key % removed != 0).collect();
        let names: Vec<NodeName> = view.iter().map(|node| node.name.clone()).collect();
        for name in &names {
            let found: BTreeSet<usize> = unmet.met_on(&view, name).into_iter().collect();
            prop_assert_eq!(found, taken(&left, &view, name), "{}", name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_free_of_a_shape_is_the_sum_over_its_nodes_in_service(
        mut view in cluster(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        play(&mut view, Policy::BestFit, &steps);
        for shape in 0..view.shapes().list().len() {
            let nodes = view.entries().iter().filter(|it| it.state.is_some() && it.shape == shape);
            let sum = nodes.map(super::state::Supply::of).fold((0, 0), |sum, free| {
                (sum.0 + free.milli, sum.1 + free.cpu)
            });
            let kept = view.states().supply(shape);
            prop_assert_eq!((kept.milli, kept.cpu), sum);
        }
    }
}

#[test]
fn other_hardware_makes_what_was_laid_out_outdated_and_more_of_the_same_does_not() {
    let mut view = testing::view([testing::node("a", 1)]);
    let mut unmet = Unmet::default();
    assert!(!unmet.is_outdated(&view));
    unmet.insert(1, testing::gpu(crate::slice::GpuAmount::Fgpu(crate::units::Fgpu(20_000))), &view);
    view.insert(testing::node("b", 1)).unwrap();
    assert!(!unmet.is_outdated(&view));
    view.insert(testing::node("c", 2)).unwrap();
    assert!(unmet.is_outdated(&view), "only the new node could hold it");
    unmet.remove(1);
    assert!(!unmet.is_outdated(&view) && unmet.is_empty());
}
