//! Gangs: placed as a whole, and what becomes of the others when something happens to one.

use super::Cluster;
use crate::ids::SessionId;
use crate::placement::{Allocation, Request};
use crate::session::{Group, Outcome, Phase, Session, StopReason};
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Cluster {
    /// A place for each of `count` members that ask for the same, or none: nothing is taken.
    pub(super) fn places(&mut self, request: &Request, count: usize) -> Option<Vec<Grant>> {
        let mut grants: Vec<Grant> = Vec::with_capacity(count);
        while let Some(placement) = self.placer.find(request, &self.view) {
            grants.push(placement.grant);
            if grants.len() == count || !self.take_last(request, &mut grants) {
                break;
            }
        }
        // All but the last of a whole gang were taken while the others were looked for. They are
        // given back: the records decide.
        let whole = grants.len() == count;
        let taken = grants.len() - usize::from(whole);
        for grant in grants.iter().take(taken).rev() {
            let given_back = self.view.release(&grant.node, &Allocation::of(request, grant));
            debug_assert!(given_back.is_ok(), "what was taken can be given back");
        }
        whole.then_some(grants)
    }

    /// Takes the last of `grants`, so that the next is looked for beside it.
    fn take_last(&mut self, request: &Request, grants: &mut Vec<Grant>) -> bool {
        let Some(last) = grants.last() else { return false };
        let taken = self.view.allocate(&last.node, &Allocation::of(request, last)).is_ok();
        if !taken {
            grants.pop();
        }
        taken
    }

    /// Takes back what was placed of a gang whose other members still wait: a write that did not
    /// get further. Agents were not told, since that happens after all is written.
    pub(super) fn mend_gangs(&mut self) {
        let in_gang = |session: &&Arc<Session>| session.group.as_ref().is_some_and(Group::is_gang);
        let torn = |session: &Arc<Session>| {
            let members = self.group_of(session);
            members.iter().any(|member| matches!(member.phase, Phase::Pending { .. }))
        };
        let placed: Vec<(Arc<Session>, UnixMillis)> = self
            .sessions
            .values()
            .filter(in_gang)
            .filter_map(|session| match &session.phase {
                Phase::Scheduled { since, .. } if torn(session) => Some((session.clone(), *since)),
                _ => None,
            })
            .collect();
        for (session, since) in placed {
            self.put_session(Session {
                phase: Phase::Pending { since },
                ..Session::clone(&session)
            });
        }
    }

    /// Whether a gang can still go on as a whole; true for what is in none.
    pub(super) fn gang_is_whole(&self, session: &Arc<Session>) -> bool {
        let Some(group) = session.group.as_ref().filter(|group| group.is_gang()) else {
            return true;
        };
        let members = self.group_of(session);
        u32::try_from(members.len()).is_ok_and(|there| there == group.size)
            && members.iter().all(|member| !matches!(member.phase, Phase::Ended(_)))
    }

    /// Lets the other members of a gang follow what happened to one: all end when it ended other
    /// than by completing, all are to be placed anew when it was.
    pub(super) fn gang_follows(&mut self, id: &SessionId, now: UnixMillis) {
        let Some(session) = self.sessions.get(id).cloned() else { return };
        if !session.group.as_ref().is_some_and(Group::is_gang) {
            return;
        }
        let reason = match &session.phase {
            Phase::Ended(ended) if ended.outcome != Outcome::Completed => StopReason::GangEnded,
            Phase::Pending { .. } => StopReason::Moved,
            Phase::Ended(_)
            | Phase::Scheduled { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Lost { .. } => return,
        };
        for member in self.group_of(&session) {
            let waits = matches!(member.phase, Phase::Pending { .. });
            let ended = matches!(member.phase, Phase::Ended(_));
            if member.id == *id || ended || (waits && reason == StopReason::Moved) {
                continue;
            }
            // Refused only where it has ended.
            let _ = self.stop_one(&member.id, reason, None, now);
        }
    }

    /// What the environment of a session says of its group: [`Session::group_environment`], and for
    /// a placed gang the addresses of its members in the order of their index.
    #[must_use]
    pub fn group_environment(&self, session: &Arc<Session>) -> BTreeMap<String, String> {
        let mut environment = session.group_environment();
        if !session.group.as_ref().is_some_and(Group::is_gang) {
            return environment;
        }
        let hosts: Vec<String> = self
            .group_of(session)
            .iter()
            .filter_map(|member| {
                let grant = member.phase.grant()?;
                Some(self.nodes.get(&grant.node)?.inventory.address.clone())
            })
            .collect();
        if let Some(head) = hosts.first() {
            environment.insert("FGPU_CLUSTER_HEAD".to_owned(), head.clone());
            environment.insert("FGPU_CLUSTER_HOSTS".to_owned(), hosts.join(","));
        }
        environment
    }
}
