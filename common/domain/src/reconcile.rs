//! What an agent has to do so that what runs on its node is what the manager wants there.
//!
//! Level-triggered: [`plan`] compares the whole desired state with everything observed and may be
//! asked any number of times; what is already so needs no action.

use crate::ids::SessionId;
use std::collections::BTreeMap;

/// A placement of a session: the session and which time it was placed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlacementId {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: u64,
}

/// What the manager wants of one placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// It shall run.
    Run,
    /// It shall stop, within this many milliseconds of grace.
    Stop {
        /// From the polite signal to the hard one.
        grace_ms: u64,
    },
}

/// What the agent sees of one placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Being started.
    Starting,
    /// Its container runs.
    Running,
    /// Being stopped.
    Stopping,
    /// Nothing of it runs; the end is known and kept until the manager has taken it.
    Gone,
}

/// What the agent has to do about one placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Prepare, create and start it.
    Start,
    /// Stop it politely, then hard; give up a start under way.
    Stop {
        /// From the polite signal to the hard one, milliseconds.
        grace_ms: u64,
    },
    /// Report that nothing of it runs.
    ReportGone,
    /// The manager has taken its end, or never wanted it: remove what is left and forget it.
    Forget,
}

/// Grace for containers of ours that the manager does not want, milliseconds.
pub const ORPHAN_GRACE_MS: u64 = 10_000;

/// The actions that lead from `seen` to `wanted`, in the order of the placements.
///
/// Stops come before starts: a new placement may need what an old one still holds.
#[must_use]
pub fn plan(
    wanted: &BTreeMap<PlacementId, Want>,
    seen: &BTreeMap<PlacementId, Seen>,
) -> Vec<(PlacementId, Action)> {
    let mut stops = Vec::new();
    let mut starts = Vec::new();
    for (id, seen) in seen {
        let action = match (wanted.get(id), seen) {
            (Some(Want::Run), Seen::Starting | Seen::Running | Seen::Stopping) => continue,
            (Some(Want::Stop { .. }) | None, Seen::Stopping) => continue,
            (Some(Want::Stop { grace_ms }), Seen::Starting | Seen::Running) => {
                Action::Stop { grace_ms: *grace_ms }
            }
            (Some(_), Seen::Gone) => Action::ReportGone,
            (None, Seen::Starting | Seen::Running) => Action::Stop { grace_ms: ORPHAN_GRACE_MS },
            (None, Seen::Gone) => Action::Forget,
        };
        stops.push((id.clone(), action));
    }
    for (id, want) in wanted {
        if seen.contains_key(id) {
            continue;
        }
        match want {
            Want::Run => starts.push((id.clone(), Action::Start)),
            Want::Stop { .. } => stops.push((id.clone(), Action::ReportGone)),
        }
    }
    stops.extend(starts);
    stops
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(session: &str, generation: u64) -> PlacementId {
        PlacementId { session: SessionId::new(session).unwrap(), generation }
    }

    fn one(want: Option<Want>, seen: Option<Seen>) -> Option<Action> {
        let id = id("aaaaaaaa", 1);
        let wanted = want.map(|want| (id.clone(), want)).into_iter().collect();
        let seen = seen.map(|seen| (id.clone(), seen)).into_iter().collect();
        plan(&wanted, &seen).pop().map(|(_, action)| action)
    }

    #[test]
    fn each_pair_of_wanted_and_seen_has_its_action() {
        let stop = Want::Stop { grace_ms: 5 };
        let orphan = Action::Stop { grace_ms: ORPHAN_GRACE_MS };
        let cases = [
            (Some(Want::Run), None, Some(Action::Start)),
            (Some(Want::Run), Some(Seen::Starting), None),
            (Some(Want::Run), Some(Seen::Running), None),
            (Some(Want::Run), Some(Seen::Stopping), None),
            (Some(Want::Run), Some(Seen::Gone), Some(Action::ReportGone)),
            (Some(stop), None, Some(Action::ReportGone)),
            (Some(stop), Some(Seen::Starting), Some(Action::Stop { grace_ms: 5 })),
            (Some(stop), Some(Seen::Running), Some(Action::Stop { grace_ms: 5 })),
            (Some(stop), Some(Seen::Stopping), None),
            (Some(stop), Some(Seen::Gone), Some(Action::ReportGone)),
            (None, Some(Seen::Starting), Some(orphan)),
            (None, Some(Seen::Running), Some(orphan)),
            (None, Some(Seen::Stopping), None),
            (None, Some(Seen::Gone), Some(Action::Forget)),
            (None, None, None),
        ];
        for (want, seen, action) in cases {
            assert_eq!(one(want, seen), action, "{want:?} {seen:?}");
        }
    }

    #[test]
    fn an_older_placement_of_the_same_session_is_stopped_before_the_new_one_starts() {
        let wanted = [(id("aaaaaaaa", 2), Want::Run)].into_iter().collect();
        let seen = [(id("aaaaaaaa", 1), Seen::Running)].into_iter().collect();

        let actions = plan(&wanted, &seen);

        assert_eq!(actions[0].0.generation, 1);
        assert!(matches!(actions[0].1, Action::Stop { .. }));
        assert_eq!(actions[1], (id("aaaaaaaa", 2), Action::Start));
    }

    fn apply(seen: &mut BTreeMap<PlacementId, Seen>, id: PlacementId, action: Action) {
        match action {
            Action::Start => seen.insert(id, Seen::Running),
            Action::Stop { .. } => seen.insert(id, Seen::Gone),
            Action::ReportGone => None,
            Action::Forget => seen.remove(&id),
        };
    }

    proptest! {
        #[test]
        fn acting_leads_to_what_is_wanted_and_then_nothing_is_left_to_do(
            wants in proptest::collection::btree_map(0_u64..6, any::<bool>(), 0..6),
            sees in proptest::collection::btree_map(0_u64..6, 0_u8..4, 0..6),
        ) {
            let wanted: BTreeMap<_, _> = wants
                .into_iter()
                .map(|(g, run)| (id("aaaaaaaa", g), if run { Want::Run } else { Want::Stop { grace_ms: 1 } }))
                .collect();
            let kinds = [Seen::Starting, Seen::Running, Seen::Stopping, Seen::Gone];
            let mut seen: BTreeMap<_, _> = sees
                .into_iter()
                .map(|(g, kind)| (id("aaaaaaaa", g), kinds[usize::from(kind)]))
                .collect();
            for _ in 0..3 {
                for (id, action) in plan(&wanted, &seen) {
                    apply(&mut seen, id, action);
                }
                // What is being started or stopped gets there.
                for state in seen.values_mut() {
                    *state = match *state {
                        Seen::Starting | Seen::Running => Seen::Running,
                        Seen::Stopping | Seen::Gone => Seen::Gone,
                    };
                }
            }
            for (id, state) in &seen {
                prop_assert!(wanted.contains_key(id), "{id:?} is {state:?} and not wanted");
            }
            prop_assert!(plan(&wanted, &seen).iter().all(|(_, a)| *a == Action::ReportGone));
        }
    }
}
