//! Random clusters and gangs, checked by taking what was planned from the view itself.

use super::*;
use crate::plans::testing::{cluster, name_of, request, take};
use crate::slice::GpuAmount;
use proptest::prelude::*;

/// Fills a view with what fits of `load`.
fn loaded(mut view: View, load: &[Request]) -> View {
    let mut placer = Placer::new(Policy::Spread, 0);
    for request in load {
        if let Some(placement) = placer.find(request, &view) {
            take(&mut view, request, &placement.grant);
        }
    }
    view
}

fn members() -> impl Strategy<Value = Vec<Request>> {
    prop_oneof![
        (request(), 1_usize..10).prop_map(|(request, members)| vec![request; members]),
        proptest::collection::vec(request(), 1..6),
        (request(), request(), 1_usize..5)
            .prop_map(|(a, b, each)| [vec![a; each], vec![b; each]].concat()),
    ]
}

fn gang() -> impl Strategy<Value = GangRequest> {
    let spread = prop_oneof![
        3 => Just(Spread::Pack),
        1 => Just(Spread::Nodes),
        1 => Just(Spread::Label("rack".to_owned())),
    ];
    let names = || proptest::collection::btree_set((0_usize..8).prop_map(named), 0..3);
    (members(), spread, any::<bool>(), names(), names(), names()).prop_map(
        |(members, spread, topology, slow, avoid, holds)| GangRequest {
            members,
            spread,
            topology: match topology {
                true => vec!["rack".to_owned(), "zone".to_owned()],
                false => Vec::new(),
            },
            slow,
            avoid,
            holds,
            holds_bonus: 1,
        },
    )
}

fn named(at: usize) -> NodeName {
    name_of(&format!("n{at}"))
}

/// Places members one after another, wherever there is room; how many got a place.
fn one_by_one(gang: &GangRequest, view: &View) -> usize {
    let mut view = view.clone();
    let mut placer = Placer::new(Policy::BestFit, 0);
    let mut placed = 0;
    for request in &gang.members {
        let mut request = request.clone();
        request.avoid.extend(gang.avoid.iter().cloned());
        if let Some(placement) = placer.find(&request, &view) {
            take(&mut view, &request, &placement.grant);
            placed += 1;
        }
    }
    placed
}

fn equal_members(gang: &GangRequest) -> bool {
    gang.members.windows(2).all(|pair| pair[0] == pair[1])
}

/// Requests for which it does not matter which nodes are looked at together.
fn part_of_a_device() -> impl Strategy<Value = Request> {
    request().prop_map(|mut request| {
        if let Some(gpu) = &mut request.gpu {
            gpu.split = None;
            gpu.amount = match gpu.amount {
                GpuAmount::Fgpu(amount) => GpuAmount::Fgpu(amount.min(Fgpu::whole(10))),
                GpuAmount::Whole(_) | GpuAmount::Direct { .. } => GpuAmount::Fgpu(Fgpu(700)),
            };
        }
        request
    })
}

proptest! {
    #[test]
    fn a_gang_is_placed_whole_within_what_is_free_or_not_at_all(
        view in cluster(8),
        load in proptest::collection::vec(request(), 0..30),
        gang in gang(),
    ) {
        let view = loaded(view, &load);
        let before: Vec<NodeView> = view.iter().cloned().collect();
        let answer = place_gang(&gang, &view);

        prop_assert_eq!(&answer, &place_gang(&gang, &view.clone()), "same input, same plan");
        prop_assert!(view.iter().eq(before.iter()), "the view is only read");
        match answer {
            Ok(placed) => {
                prop_assert_eq!(placed.grants.len(), gang.members.len());
                let mut after = view.clone();
                for (node, allocation) in placed.allocations(&gang) {
                    prop_assert!(!gang.avoid.contains(&node));
                    prop_assert!(after.get(&node).unwrap().state == crate::placement::NodeState::Ready);
                    // Refused by the view itself when anything of it is not free.
                    after.allocate(&node, &allocation).unwrap();
                }
                prop_assert!(placed.slow.iter().all(|name| gang.slow.contains(name)));
            }
            Err(GangRefused::Now { members, fit, member, seated }) => {
                prop_assert_eq!(members, gang.members.len());
                prop_assert!(fit < members && fit == seated.len() && member < members);
                if equal_members(&gang) {
                    prop_assert!(one_by_one(&gang, &view) <= fit, "room was overlooked");
                }
            }
            Err(GangRefused::Never { member, cause }) => {
                prop_assert_eq!(
                    crate::placement::feasible_when_empty(&gang.members[member], &view),
                    Err(cause)
                );
            }
        }
    }

    #[test]
    fn equal_members_are_in_one_rack_and_on_fast_nodes_where_that_is_possible(
        view in cluster(8),
        load in proptest::collection::vec(request(), 0..20),
        one in part_of_a_device(),
        members in 1_usize..6,
        slow in proptest::collection::btree_set((0_usize..8).prop_map(named), 0..3),
    ) {
        let view = loaded(view, &load);
        let gang = GangRequest {
            members: vec![one.clone(); members],
            topology: vec!["rack".to_owned(), "zone".to_owned()],
            slow: slow.clone(),
            ..GangRequest::default()
        };
        let Ok(placed) = place_gang(&gang, &view) else { return Ok(()) };

        let within = |label: Option<(&str, &str)>| {
            let mut request = one.clone();
            request.labels.extend(label.map(|(key, value)| (key.to_owned(), value.to_owned())));
            let members = vec![request; members];
            let gang = GangRequest { members, avoid: slow.clone(), ..GangRequest::default() };
            one_by_one(&gang, &view) == placed.grants.len()
        };
        if within(None) {
            prop_assert!(placed.slow.is_empty(), "fast nodes hold it: {placed:?}");
            for rack in ["r0", "r1", "r2"] {
                prop_assert!(!within(Some(("rack", rack))) || placed.domains[0] == 1);
            }
            for zone in ["west", "east"] {
                prop_assert!(!within(Some(("zone", zone))) || placed.domains[1] == 1);
            }
        }
    }
}
