//! Why a session waits, or where it is.

use super::judge::Hold;
use super::standings::Standings;
use super::waiting::unit_of;
use super::{Cluster, Refusal};
use crate::ids::{SessionId, UserName};
use crate::placement::{Allocation, NoPlacement, Request};
use crate::plans::reservation::Reservation;
use crate::project::QuotaHit;
use crate::queue::{Candidate, Kind, Pass, Place, Queue};
use crate::session::{Attempt, Members, Phase, Session, SessionSpec};
use crate::slice::Grant;

/// How many sessions ahead are named.
const NAMED_AHEAD: usize = 10;

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
    /// Where it is, or would go now; of a gang the first member.
    pub grant: Option<Grant>,
    /// Why no node takes it now; of a gang, the first member that finds no room beside the others.
    pub refused: Option<Box<NoPlacement>>,
    /// The time and place it is promised while it waits. Without a time, sessions nobody knows the
    /// end of are in the way, and nodes are kept for it as soon as [`Reservation::binding`] says so.
    pub reservation: Option<Reservation>,
    /// Earlier placements.
    pub attempts: Vec<Attempt>,
}

/// Who asks for what.
struct Asked<'a> {
    spec: &'a SessionSpec,
    owner: &'a UserName,
    /// Members placed together.
    members: u32,
    request: Request,
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
                let members = session.group.as_ref().filter(|group| group.is_gang());
                let members = members.map_or(1, |group| group.size);
                let waiting = self.waiting_members(unit_of(session));
                let request = self.unit_request(&waiting);
                let request = request.unwrap_or_else(|| self.request(&session.spec));
                let (spec, owner) = (&session.spec, &session.owner);
                let asked = Asked { spec, owner, members, request };
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
                refused: None,
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

    /// What a create of an array or gang would do now; of an array its first member.
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
        let members = members.at_once();
        let request = Request { image: self.held_image(spec), ..self.request(spec) };
        let asked = Asked { spec, owner, members, request };
        let hold = self.hold_of_new(spec);
        let mut queue = self.index.waiting.queue.clone();
        let place = Place {
            priority: self.effective_priority(spec),
            project: spec.project(),
            user: owner.clone(),
            kind: queue.kind(Kind::of(spec, members), self.request(spec)),
            sequence: self.next_sequence,
        };
        let Ok(unit) = SessionId::new("dryrun00") else { unreachable!("a valid session id") };
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
        let Asked { spec, owner, members, request } = asked;
        let least = self.least(spec).times(u64::from(*members));
        let quota = self.quota_hit(&spec.project(), owner, &least, true);
        let placed = self.place_now(request, *members);
        let position = ahead.len() + 1;
        let waits = |why: &dyn std::fmt::Display| format!("place {position} in the queue: {why}");
        let summary = match (&hold, &quota, &placed) {
            (Some(hold), ..) => format!("held: {hold}"),
            (None, Some(quota), _) => waits(quota),
            (None, None, Ok(grant)) => format!("would start now on node {}", grant.node),
            (None, None, Err((0, refused))) => waits(refused),
            (None, None, Err((fit, refused))) => {
                waits(&format!("{fit} of {members} members find room; for the next {refused}"))
            }
        };
        let starts = hold.is_none() && quota.is_none();
        let (grant, refused) = match placed {
            Ok(grant) => (Some(grant).filter(|_| starts), None),
            Err((_, refused)) => (None, Some(refused)),
        };
        Explanation {
            summary,
            queue_position: hold.is_none().then_some(position),
            ahead: ahead.into_iter().take(NAMED_AHEAD).collect(),
            hold,
            quota,
            grant,
            refused,
            reservation: None,
            attempts: Vec::new(),
        }
    }

    /// Where the first of `members` would go now; or how many of them find room, and why the next
    /// does not.
    fn place_now(&self, request: &Request, members: u32) -> Result<Grant, (u32, Box<NoPlacement>)> {
        let mut placer = self.placer.clone();
        let first = placer.place(request, &self.view).map_err(|refused| (0, refused))?.grant;
        if members == 1 {
            return Ok(first);
        }
        let mut view = self.view.clone();
        let mut last = first.clone();
        for fit in 1..members {
            // What was found on this very view can be taken.
            let taken = view.allocate(&last.node, &Allocation::of(request, &last));
            debug_assert!(taken.is_ok(), "{taken:?}");
            last = placer.place(request, &view).map_err(|refused| (fit, refused))?.grant;
        }
        Ok(first)
    }
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
