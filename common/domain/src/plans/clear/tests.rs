use super::*;
use crate::plans::gang::{GangRequest, classes};
use crate::plans::testing::{cluster, coming, crowd, request};
use proptest::prelude::*;

proptest! {
    #[test]
    fn looking_closely_at_few_nodes_spares_the_same_levels(
        mut view in cluster(8),
        coming in proptest::collection::vec(coming(), 0..40),
        blocked in request(),
    ) {
        let running = crowd(&mut view, &coming);
        let occupants = running.iter().map(|session| Occupant {
            held: &session.held,
            level: session.priority,
            lost: u128::from(session.started_at.0),
            share: 1,
        });
        let occupants: Vec<Occupant<'_>> = occupants.collect();
        let gang = GangRequest::one(blocked);
        let Ok(classes) = classes(&gang, &view) else { return Ok(()) };
        let highest = |in_question: usize| {
            let clearing = Clearing::new(&view, &gang, &classes, &occupants);
            let cleared = Clearing { in_question, ..clearing }.clear()?;
            Ok(cleared.gone.iter().map(|at| occupants[*at].level).max())
        };

        let all: Result<Option<i32>, usize> = highest(view.len());
        for few in 0..3 {
            prop_assert_eq!(highest(few), all);
        }
    }
}
