//! From what is wanted and what is there to what has to be done.

use super::placement::{Phase, Placement, gone};
use super::{Effect, Now, State};
use crate::admit::{Held, Verdict, admit};
use crate::ends::{self, End};
use crate::order::Order;
use fgpu_domain::reconcile::{Action, PlacementId, Seen, Want, plan};
use fgpu_domain::session::Progress;
use std::collections::BTreeMap;
use tokio::time::Instant;

impl State {
    /// Begins everything that leads to what the manager wants. Does nothing before it was heard.
    pub(in crate::supervisor) fn reconcile(&mut self, now: Now) -> Vec<Effect> {
        let Some(desired) = &self.desired else { return Vec::new() };
        let wanted: BTreeMap<PlacementId, Want> =
            desired.placements.iter().map(|(id, desired)| (id.clone(), desired.want)).collect();
        let seen: BTreeMap<PlacementId, Seen> = self
            .placements
            .iter()
            .filter_map(|(id, placement)| {
                let run = wanted.get(id) == Some(&Want::Run);
                Some((id.clone(), placement.seen(run)?))
            })
            .collect();
        let actions = plan(&wanted, &seen);
        actions.into_iter().filter_map(|(id, action)| self.act(&id, action, now)).collect()
    }

    fn act(&mut self, id: &PlacementId, action: Action, now: Now) -> Option<Effect> {
        match action {
            Action::Start => self.start(id, now),
            Action::Stop { grace_ms } => self.placements.get_mut(id)?.stop(id, grace_ms, None, now),
            // One that is gone is in every report; one never heard of has to get in.
            Action::ReportGone => {
                if !self.placements.contains_key(id) {
                    let placement = self.refused(id, End::never_ran(now.wall), now);
                    self.placements.insert(id.clone(), placement);
                }
                None
            }
            // What is not wanted any more may still be waited for: it is told first.
            Action::Forget => {
                let taken = |since: Instant| self.answered.is_some_and(|sent| sent > since);
                if let Phase::Gone { since, .. } = self.placements.get(id)?.phase
                    && taken(since)
                {
                    self.placements.remove(id);
                }
                None
            }
        }
    }

    fn start(&mut self, id: &PlacementId, now: Now) -> Option<Effect> {
        let order = match &self.desired.as_ref()?.placements.get(id)?.order {
            Ok(order) => order.clone(),
            Err(problem) => {
                let end = End::failed(ends::BAD_ORDER, problem.clone(), now.wall);
                self.placements.insert(id.clone(), Placement::unknown(end, now));
                return None;
            }
        };
        let (phase, effect) = match self.verdict(id, &order) {
            Verdict::Start => {
                (Phase::Starting { progress: Progress::Creating }, Some(Effect::Start(id.clone())))
            }
            Verdict::WaitFor(_) => (Phase::Waiting, None),
            Verdict::Refuse { code, message } => {
                (gone(End::failed(code, message, now.wall), now), None)
            }
        };
        self.placements.insert(id.clone(), Placement::new(&order, phase));
        effect
    }

    fn verdict(&self, id: &PlacementId, order: &Order) -> Verdict {
        let held: Vec<Held<'_>> = self
            .placements
            .iter()
            .filter(|(_, placement)| placement.holds())
            .filter_map(|(by, placement)| {
                let grant = placement.grant.as_ref()?;
                Some(Held { by, grant, leaving: placement.is_leaving() })
            })
            .collect();
        admit(id, &order.grant, &self.node, &self.devices, &held)
    }

    /// A placement that never was, with what is known of it.
    fn refused(&self, id: &PlacementId, end: End, now: Now) -> Placement {
        let wanted = self.desired.as_ref().and_then(|desired| desired.placements.get(id));
        match wanted.map(|wanted| &wanted.order) {
            Some(Ok(order)) => Placement::new(order, gone(end, now)),
            _ => Placement::unknown(end, now),
        }
    }
}
