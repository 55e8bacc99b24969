//! Creating, stopping and forgetting sessions.

use super::input::Applied;
use super::runtimes::{needs_command, needs_image};
use super::{Cluster, Refusal};
use crate::ids::{NodeName, RequestId, SessionId, UserName};
use crate::image::full_name;
use crate::node::Cordon;
use crate::placement::{NeverFits, Request, feasible_when_empty};
use crate::plans::gang::most_ever;
use crate::session::{Event, Group, Members, Phase, Session, SessionSpec, StopReason, field};
use crate::time::UnixMillis;
use std::sync::Arc;

impl Cluster {
    pub(super) fn create(
        &mut self,
        id: SessionId,
        spec: SessionSpec,
        owner: UserName,
        request_id: Option<RequestId>,
        members: Members,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        members.check()?;
        let found = request_id.clone().zip(self.by_request(&owner, request_id.as_ref()));
        if let Some((request, session)) = found {
            return self.created_before(request, session, &spec, members);
        }
        self.check_create(&spec, &owner, members)?;
        let mut sessions = Vec::new();
        let mut request_id = request_id;
        for (id, group, spec) in self.members(&id, &spec, &owner, members)? {
            self.placer.arrived(&self.request(&spec));
            sessions.push(self.put_session(Session {
                id,
                spec: Arc::new(spec),
                owner: owner.clone(),
                // The first stands for all.
                request_id: request_id.take(),
                created_at: now,
                sequence: self.next_sequence,
                generation: 0,
                group,
                placed_at: None,
                by_age: false,
                phase: Phase::Pending { since: now },
                stop_grace_ms: None,
                attempts: Vec::new(),
                moving: None,
                stopped_for: None,
                stranded: Vec::new(),
            }));
            // Taken even if the create is rolled back: a gap does not matter, a repetition would.
            self.next_sequence += 1;
        }
        Ok(created(sessions, false))
    }

    /// What a create with a known request id gets.
    fn created_before(
        &self,
        request: RequestId,
        first: &Arc<Session>,
        spec: &SessionSpec,
        members: Members,
    ) -> Result<Applied, Refusal> {
        let expected = members.groups(&first.id).ok().and_then(|groups| groups.into_iter().next());
        let group = expected.and_then(|(_, group)| group);
        let own = group.as_ref().map_or_else(|| Ok(spec.clone()), |group| spec.member(group))?;
        if *first.spec != own || first.group != group {
            return Err(Refusal::RequestIdReused { request, session: first.id.clone() });
        }
        Ok(created(self.group_of(first), true))
    }

    /// All members of the group `session` belongs to that are not forgotten, in the order of their
    /// index; itself without a group.
    pub(super) fn group_of(&self, session: &Arc<Session>) -> Vec<Arc<Session>> {
        let Some(group) = &session.group else { return vec![session.clone()] };
        let ids = (0..group.size).filter_map(|position| group.id.member(position).ok());
        ids.filter_map(|id| self.sessions.get(&id).cloned()).collect()
    }

    /// The sessions a create makes: id, group and specification of each.
    fn members(
        &self,
        id: &SessionId,
        spec: &SessionSpec,
        owner: &UserName,
        members: Members,
    ) -> Result<Vec<(SessionId, Option<Group>, SessionSpec)>, Refusal> {
        let groups = members
            .groups(id)
            .map_err(|error| field("--array", members.count(), &error.to_string()))?;
        let mut made = Vec::with_capacity(groups.len());
        for (id, group) in groups {
            let spec = group.as_ref().map_or_else(|| Ok(spec.clone()), |g| spec.member(g))?;
            self.check_name(&spec, owner)?;
            made.push((id, group, spec));
        }
        Ok(made)
    }

    fn check_name(&self, spec: &SessionSpec, owner: &UserName) -> Result<(), Refusal> {
        let Some(name) = &spec.name else { return Ok(()) };
        match self.index.by_name.get(&(owner.clone(), name.clone())) {
            Some(session) => {
                Err(Refusal::NameInUse { name: name.clone(), session: session.clone() })
            }
            None => Ok(()),
        }
    }

    fn by_request(
        &self,
        owner: &UserName,
        request_id: Option<&RequestId>,
    ) -> Option<&Arc<Session>> {
        let id = self.index.by_request.get(&(owner.clone(), request_id?.clone()))?;
        self.sessions.get(id)
    }

    /// Everything that refuses a create, without creating.
    pub(super) fn check_create(
        &self,
        spec: &SessionSpec,
        owner: &UserName,
        members: Members,
    ) -> Result<(), Refusal> {
        members.check()?;
        spec.check(&self.settings.units)?;
        spec.check_copies(members)?;
        spec.check_arrangement(members)?;
        if members == Members::One {
            self.check_name(spec, owner)?;
        }
        self.check_project(spec, owner)?;
        self.check_quota(spec, owner, members)?;
        self.check_after(spec, owner)?;
        if let Some(node) = &spec.node {
            self.check_node(node)?;
        }
        let request = self.request(spec);
        match feasible_when_empty(&request, &self.view) {
            // Nodes may still come: the session waits for them.
            Err(NeverFits::NoNodes) => {}
            Err(never) => return Err(Refusal::NeverFits(never)),
            Ok(_) => self.check_gang(&request, members)?,
        }
        self.check_runtimes(spec)
    }

    /// Refuses a gang that all nodes together could not hold even when empty.
    fn check_gang(&self, request: &Request, members: Members) -> Result<(), Refusal> {
        let Members::Gang(size) = members else { return Ok(()) };
        let size = size.get();
        match most_ever(request, &self.view, size) {
            Ok(most) if most < size => Err(Refusal::GangNeverFits { size, most }),
            Ok(_) => Ok(()),
            Err(never) => Err(Refusal::NeverFits(never)),
        }
    }

    fn check_node(&self, name: &NodeName) -> Result<(), Refusal> {
        let Some(node) = self.nodes.get(name) else {
            return Err(Refusal::NodeNotFound { node: name.clone() });
        };
        let state = match node.cordon {
            Cordon::Open => return Ok(()),
            Cordon::Cordoned => "cordoned",
            Cordon::Draining => "draining",
        };
        Err(Refusal::NodeCordoned { node: name.clone(), state })
    }

    /// Refuses what no runtime of the nodes it may go to can run.
    fn check_runtimes(&self, spec: &SessionSpec) -> Result<(), Refusal> {
        let runtimes = self.index.runtimes.open_to(spec);
        if runtimes.is_empty() {
            return Ok(());
        }
        if runtimes.iter().all(|runtime| needs_image(runtime, spec)) {
            return Err(Refusal::NoImage);
        }
        if runtimes.iter().all(|runtime| needs_command(runtime, spec)) {
            return Err(Refusal::NoCommand);
        }
        let nowhere = |source: &str| runtimes.iter().all(|runtime| !runtime.allows_mount(source));
        let refused = spec.mounts.iter().find(|mount| nowhere(&mount.source));
        match refused {
            Some(mount) => Err(Refusal::MountNotAllowed { path: mount.source.clone() }),
            None => Ok(()),
        }
    }

    /// What `spec` asks of placement.
    pub(super) fn request(&self, spec: &SessionSpec) -> Request {
        Request {
            cpu: spec.resources.cpu,
            memory: spec.resources.memory,
            gpu: spec.resources.gpu.clone(),
            node: spec.node.clone(),
            labels: spec.node_labels.clone(),
            isolation: spec.isolation,
            avoid: self.index.runtimes.unable(spec),
            shun: Default::default(),
            image: None,
        }
    }

    /// What the sessions of a unit, all asking for the same, ask of placement: nodes where one of
    /// them failed before only where no other has room.
    pub(super) fn unit_request(&self, members: &[Arc<Session>]) -> Option<Request> {
        let request = self.request(&members.first()?.spec);
        let shun = members.iter().flat_map(|member| member.avoided()).collect();
        let image = self.held_image(&members.first()?.spec);
        Some(Request { shun, image, ..request })
    }

    /// The full name of the image of a session, if any node is known to hold it.
    pub(super) fn held_image(&self, spec: &SessionSpec) -> Option<String> {
        if spec.image.is_empty() || self.view.all_images().is_empty() {
            return None;
        }
        Some(full_name(&spec.image)).filter(|image| self.view.is_held(image))
    }

    /// Stops a session; a gang as a whole.
    pub(super) fn stop(
        &mut self,
        id: &SessionId,
        reason: StopReason,
        grace_ms: Option<u64>,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        let session = self.get(id)?.clone();
        let gang = session.group.as_ref().is_some_and(Group::is_gang);
        let live = |member: &Session| !matches!(member.phase, Phase::Ended(_));
        if gang && live(&session) {
            let others = self.group_of(&session).into_iter().filter(|member| live(member));
            for other in others.filter(|member| member.id != *id).collect::<Vec<_>>() {
                self.stop_one(&other.id, reason, grace_ms, now)?;
            }
        }
        self.stop_one(id, reason, grace_ms, now)
    }

    pub(super) fn stop_one(
        &mut self,
        id: &SessionId,
        reason: StopReason,
        grace_ms: Option<u64>,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        let session = self.get(id)?;
        // A session that has ended, or is being stopped already, stays as it is.
        let Ok(phase) = session.phase.after(Event::Stop(reason), now) else {
            let (session, phase) = (id.clone(), session.phase.name());
            return Err(Refusal::WrongPhase { session, phase, rule: "it cannot be stopped" });
        };
        let live = !matches!(session.phase, Phase::Ended(_));
        let stop_grace_ms = grace_ms.filter(|_| live).or(session.stop_grace_ms);
        if phase == session.phase && stop_grace_ms == session.stop_grace_ms {
            return Ok(Applied::Session { session: session.clone(), existed: true });
        }
        let stopped = Session { phase, stop_grace_ms, ..Session::clone(session) };
        Ok(Applied::Session { session: self.put_session(stopped), existed: true })
    }

    pub(super) fn remove(&mut self, id: &SessionId) -> Result<Applied, Refusal> {
        let session = self.get(id)?;
        if !session.is_over() {
            let rule = if session.stranded.is_empty() {
                "only one that has ended can be removed; stop it first"
            } else {
                "a lost node may still run it; it can be removed once that node has spoken"
            };
            let (session, phase) = (id.clone(), session.phase.name());
            return Err(Refusal::WrongPhase { session, phase, rule });
        }
        self.delete_session(id);
        Ok(Applied::Removed)
    }

    pub(super) fn get(&self, id: &SessionId) -> Result<&Arc<Session>, Refusal> {
        let missing = || Refusal::SessionNotFound { session: id.to_string() };
        self.sessions.get(id).ok_or_else(missing)
    }
}

fn created(mut sessions: Vec<Arc<Session>>, existed: bool) -> Applied {
    match sessions.pop() {
        Some(session) if session.group.is_none() => Applied::Session { session, existed },
        last => {
            sessions.extend(last);
            Applied::Group { sessions, existed }
        }
    }
}
