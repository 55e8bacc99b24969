//! Why a session waits, or where it is.

use super::judge::Hold;
use super::standings::Standings;
use super::waiting::unit_of;
use super::{Cluster, Refusal};
use crate::ids::{NodeName, SessionId, UserName};
use crate::placement::{Allocation, NoPlacement, Request};
use crate::plans::reservation::{Delay, Reservation};
use crate::plans::would_fit::{WouldFit, gang_would_fit, would_fit};
use crate::project::QuotaHit;
use crate::queue::{Candidate, Kind, Pass, Place, Queue};
use crate::session::{Attempt, Members, Phase, Session, SessionSpec};
use crate::slice::Grant;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// How many sessions ahead are named.
const NAMED_AHEAD: usize = 10;
/// How many nodes a summary names.
const NAMED_NODES: usize = 8;

/// Why a session waits, or where it is or would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// In one sentence.
    pub summary: String,
    /// Place in the queue from 1: how soon its turn comes if all before it start. `None` when it
    /// does not wait, or is held.
    pub queue_position: Option<usize>,
    /// Sessions ahead of it, nearest the head first; a gang by its first member.
    pub ahead: Vec<SessionId>,
    /// What keeps it out of the queue.
    pub hold: Option<Hold>,
    /// The quota it would break now.
    pub quota: Option<QuotaHit>,
    /// Where it is, or would go now; of several the first.
    pub grant: Option<Grant>,
    /// How many sessions were asked about: all members of a gang, and for a dry run of an array.
    pub members: u32,
    /// Where those that would start now would go, in their order.
    pub starts: Vec<Grant>,
    /// Why no node takes it now; of several, the first that finds no room beside the others.
    pub refused: Option<Box<NoPlacement>>,
    /// Whose room it would take where it would fit now.
    pub kept: Option<Delay>,
    /// Changes with which it would start now.
    pub would_fit: Vec<WouldFit>,
    /// The time and place it is promised while it waits. Without a time, sessions nobody knows the
    /// end of are in the way, and nodes are kept for it as soon as [`Reservation::binding`] says so.
    pub reservation: Option<Reservation>,
    /// Earlier placements.
    pub attempts: Vec<Attempt>,
}

/// Who asks for what.
struct Asked<'a> {
    unit: &'a SessionId,
    spec: &'a SessionSpec,
    owner: &'a UserName,
    members: Members,
    request: Request,
}

impl Asked<'_> {
    /// How many may hold a place at once.
    fn at_once(&self) -> u32 {
        match self.members {
            Members::One => 1,
            Members::Gang(size) => size.get(),
            Members::Array(range) => {
                range.at_once.map_or(range.len(), |most| most.get().min(range.len()))
            }
        }
    }

    fn is_gang(&self) -> bool {
        matches!(self.members, Members::Gang(_))
    }
}

/// What came of looking for places.
struct Found {
    grants: Vec<Grant>,
    quota: Option<QuotaHit>,
    refused: Option<Box<NoPlacement>>,
    kept: Option<Delay>,
}

impl Cluster {
    /// Why session `id` waits, or where it is.
    ///
    /// # Errors
    /// [`Refusal::SessionNotFound`].
    pub fn explain(&self, id: &SessionId) -> Result<Explanation, Refusal> {
        let session = self.get(id)?;
        let mut explanation = match &session.phase {
            Phase::Pending { .. } => {
                let gang = session.group.as_ref().filter(|group| group.is_gang());
                let size = gang.and_then(|group| NonZeroU32::new(group.size));
                let members = size.map_or(Members::One, Members::Gang);
                let (unit, owner) = (unit_of(session), &session.owner);
                let request = self.unit_request(&self.waiting_members(unit));
                let request = request.unwrap_or_else(|| self.request(&session.spec));
                let asked = Asked { unit, spec: &session.spec, owner, members, request };
                let hold = self.hold_of(session);
                let queue = &self.index.waiting.queue;
                let ahead =
                    if hold.is_none() { self.ahead(queue, unit_of(session)) } else { Vec::new() };
                let reservation = self.index.promises.of(unit_of(session)).cloned();
                Explanation { reservation, ..self.explain_waiting(&asked, ahead, hold) }
            }
            phase => Explanation {
                summary: placed_summary(session),
                queue_position: None,
                ahead: Vec::new(),
                hold: None,
                quota: None,
                grant: phase.grant().cloned(),
                members: 1,
                starts: Vec::new(),
                refused: None,
                kept: None,
                would_fit: Vec::new(),
                reservation: None,
                attempts: Vec::new(),
            },
        };
        explanation.attempts.clone_from(&session.attempts);
        Ok(explanation)
    }

    /// What a create of `spec` by `owner` would do now.
    ///
    /// # Errors
    /// The [`Refusal`] the create would get.
    pub fn dry_run(&self, spec: &SessionSpec, owner: &UserName) -> Result<Explanation, Refusal> {
        self.dry_run_members(spec, owner, Members::One)
    }

    /// What a create of an array or gang would do now, judged as a whole.
    ///
    /// # Errors
    /// The [`Refusal`] the create would get.
    pub fn dry_run_members(
        &self,
        spec: &SessionSpec,
        owner: &UserName,
        members: Members,
    ) -> Result<Explanation, Refusal> {
        self.check_create(spec, owner, members)?;
        let unit = SessionId::of_dry_run();
        let request = Request { image: self.held_image(spec), ..self.request(spec) };
        let asked = Asked { unit: &unit, spec, owner, members, request };
        let hold = self.hold_of_new(spec);
        let mut queue = self.index.waiting.queue.clone();
        let place = Place {
            priority: self.effective_priority(spec),
            project: spec.project(),
            user: owner.clone(),
            kind: queue.kind(Kind::of(spec, asked.members.at_once())),
            sequence: self.next_sequence,
        };
        queue.enter(unit.clone(), &place);
        let ahead = self.ahead(&queue, &unit);
        Ok(self.explain_waiting(&asked, ahead, hold))
    }

    /// Everything in the queue in the order of its turn, if each starts when it is its turn; a gang
    /// by its first member. What is held is not in it.
    #[must_use]
    pub fn waiting_in_order(&self) -> Vec<SessionId> {
        self.before(&self.index.waiting.queue, None)
    }

    /// The units whose turn comes before that of `unit`, if each starts when it is its turn.
    fn ahead(&self, queue: &Queue, unit: &SessionId) -> Vec<SessionId> {
        self.before(queue, Some(unit))
    }

    /// The units whose turn comes before that of one, or all.
    fn before(&self, queue: &Queue, unit: Option<&SessionId>) -> Vec<SessionId> {
        let mut before = Vec::new();
        self.walk(queue, |next| {
            let found = unit == Some(&next.unit);
            if !found {
                before.push(next.unit.clone());
            }
            !found
        });
        before
    }

    /// Shows every unit of a queue in the order of its turn, as if all before it had started, until
    /// `go_on` says no.
    pub(super) fn walk(&self, queue: &Queue, mut go_on: impl FnMut(&Candidate) -> bool) {
        let mut standings = Standings::new(self);
        for priority in queue.priorities() {
            let mut pass = Pass::all(queue, priority, &standings);
            while let Some(next) = pass.next(queue, &standings) {
                if !go_on(&next) {
                    return;
                }
                if let Some(session) = self.sessions.get(&next.unit) {
                    let gang = session.group.as_ref().filter(|group| group.is_gang());
                    let members = gang.map_or(1, |group| u64::from(group.size));
                    let held = self.least(&session.spec).times(members);
                    standings.count(&next.place.project, &next.place.user, held);
                }
                pass.took(&next, &standings);
            }
        }
    }

    fn explain_waiting(
        &self,
        asked: &Asked<'_>,
        ahead: Vec<SessionId>,
        hold: Option<Hold>,
    ) -> Explanation {
        let Found { mut grants, quota, refused, kept } = self.places_beside_heads(asked);
        let position = ahead.len() + 1;
        let all = usize::try_from(asked.at_once()).unwrap_or(usize::MAX);
        let fit = grants.len();
        // A gang starts as a whole or not at all.
        if hold.is_some() || kept.is_some() || (asked.is_gang() && (quota.is_some() || fit < all)) {
            grants.clear();
        }
        let summary = match &hold {
            Some(hold) => format!("held: {hold}"),
            None if grants.is_empty() => match &kept {
                Some(delay) => {
                    format!("place {position} in the queue: it would take room of others: {delay}")
                }
                None => {
                    let why = waits_for(asked, fit, quota.as_ref(), refused.as_deref());
                    format!("place {position} in the queue: {why}")
                }
            },
            None => starts(asked, &grants, quota.as_ref(), refused.as_deref()),
        };
        let would_fit = match &refused {
            Some(refused) if grants.is_empty() => self.would_fit(asked, fit, refused),
            _ => Vec::new(),
        };
        Explanation {
            summary,
            queue_position: hold.is_none().then_some(position),
            ahead: ahead.into_iter().take(NAMED_AHEAD).collect(),
            hold,
            quota,
            grant: grants.first().cloned(),
            members: asked.members.count(),
            starts: grants,
            refused,
            kept,
            would_fit,
            reservation: None,
            attempts: Vec::new(),
        }
    }

    /// Places that delay none of those room is kept for; where there are only others, whom they
    /// would delay.
    fn places_beside_heads(&self, asked: &Asked<'_>) -> Found {
        let all = usize::try_from(asked.at_once()).unwrap_or(usize::MAX);
        let starts = |found: &Found| match asked.is_gang() {
            true => found.grants.len() == all,
            false => !found.grants.is_empty(),
        };
        let found = self.places_now(asked, BTreeSet::new());
        let delay = self.delays(asked.unit, asked.spec, &found.grants);
        let Some(delay) = delay.filter(|_| starts(&found)) else { return found };
        let other = self.places_now(asked, self.kept_from(asked.unit, asked.spec));
        if starts(&other) { other } else { Found { kept: Some(delay), ..found } }
    }

    /// Places for as many members as may hold one at once, each beside those before it, until one
    /// finds none or meets a quota. Nothing is taken.
    fn places_now(&self, asked: &Asked<'_>, avoid: BTreeSet<NodeName>) -> Found {
        let (project, least) = (asked.spec.project(), self.least(asked.spec));
        let over = |members: u32| {
            self.quota_hit(&project, asked.owner, &least.times(u64::from(members)), true)
        };
        let all = asked.at_once();
        let first_over = if asked.is_gang() {
            Some(all)
        } else {
            (1..=all).find(|count| over(*count).is_some())
        };
        let quota = first_over.and_then(over);
        let tries = match first_over {
            Some(count) if !asked.is_gang() => count.saturating_sub(1).max(1),
            _ => all,
        };
        let mut request = asked.request.clone();
        request.avoid.extend(avoid);
        let count = usize::try_from(tries).unwrap_or(usize::MAX);
        let arranged = self.arranged(asked.spec, &request, count);
        let (mut grants, refused) = arranged.unwrap_or_else(|| self.place_beside(&request, tries));
        let fit = grants.len();
        if quota.is_some() && first_over == Some(1) {
            grants.clear();
        }
        // Of an array, what it meets first counts.
        let met_first = asked.is_gang() || refused.is_none() || fit == 0;
        Found { grants, quota: quota.filter(|_| met_first), refused, kept: None }
    }

    /// Places for `count` members, each beside those before it, and why the next has none.
    fn place_beside(
        &self,
        request: &Request,
        count: u32,
    ) -> (Vec<Grant>, Option<Box<NoPlacement>>) {
        let mut placer = self.placer.clone();
        // Only what is placed beside others needs a view of its own.
        let mut own = (count > 1).then(|| self.view.clone());
        let mut grants = Vec::new();
        for _ in 0..count {
            let grant = match placer.place(request, own.as_ref().unwrap_or(&self.view)) {
                Ok(placement) => placement.grant,
                Err(refused) => return (grants, Some(refused)),
            };
            if let Some(view) = &mut own {
                // What was found on this very view can be taken.
                let taken = view.allocate(&grant.node, &Allocation::of(request, &grant));
                debug_assert!(taken.is_ok(), "{taken:?}");
            }
            grants.push(grant);
        }
        (grants, None)
    }

    /// Changes with which what found no room would start now.
    fn would_fit(&self, asked: &Asked<'_>, fit: usize, refused: &NoPlacement) -> Vec<WouldFit> {
        let request = &asked.request;
        if asked.is_gang() && asked.at_once() > 1 && fit > 0 {
            let size = usize::try_from(asked.at_once()).unwrap_or(usize::MAX);
            return gang_would_fit(&self.gang(asked.spec, request, size), &self.view);
        }
        would_fit(request, refused, &self.view)
    }
}

/// What keeps everything that was asked for from starting.
fn waits_for(
    asked: &Asked<'_>,
    fit: usize,
    quota: Option<&QuotaHit>,
    refused: Option<&NoPlacement>,
) -> String {
    match (quota, refused) {
        (Some(quota), _) => quota.to_string(),
        (None, Some(refused)) if fit == 0 => refused.to_string(),
        (None, Some(refused)) => {
            format!("{fit} of {} members find room; for the next {refused}", asked.at_once())
        }
        (None, None) => "its turn has not come".to_owned(),
    }
}

/// What would start now and where, and what keeps the rest.
fn starts(
    asked: &Asked<'_>,
    grants: &[Grant],
    quota: Option<&QuotaHit>,
    refused: Option<&NoPlacement>,
) -> String {
    let nodes = nodes_of(grants);
    let (starts, all) = (grants.len(), asked.members.count());
    if asked.members == Members::One {
        return format!("would start now on {nodes}");
    }
    if u32::try_from(starts).is_ok_and(|starts| starts == all) {
        return format!("all {all} members would start now on {nodes}");
    }
    let rest = match (quota, refused) {
        (Some(quota), _) => quota.to_string(),
        (None, Some(refused)) => refused.to_string(),
        (None, None) => format!("{} may hold a place at once", asked.at_once()),
    };
    format!("{starts} of {all} members would start now on {nodes}; the others wait: {rest}")
}

/// `node a1`, or `nodes a1 (3), b2 (1)`.
fn nodes_of(grants: &[Grant]) -> String {
    let mut counts: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for grant in grants {
        *counts.entry(&grant.node).or_default() += 1;
    }
    if let ([only], 1) = (grants, counts.len()) {
        return format!("node {}", only.node);
    }
    let named: Vec<String> = counts
        .iter()
        .take(NAMED_NODES)
        .map(|(node, members)| format!("{node} ({members})"))
        .collect();
    let more = counts.len().saturating_sub(NAMED_NODES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let word = if counts.len() == 1 { "node" } else { "nodes" };
    format!("{word} {}{more}", named.join(", "))
}

fn placed_summary(session: &Session) -> String {
    match &session.phase {
        Phase::Ended(ended) if ended.message.is_empty() => ended.outcome.to_string(),
        Phase::Ended(ended) => format!("{}: {}", ended.outcome, ended.message),
        phase => match phase.grant() {
            Some(grant) => format!("{} on node {}", phase.name(), grant.node),
            None => phase.name().to_owned(),
        },
    }
}
