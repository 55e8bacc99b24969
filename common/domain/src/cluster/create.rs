//! Creating, stopping and forgetting sessions.

use super::input::Applied;
use super::runtimes::{needs_command, needs_image};
use super::{Cluster, Refusal};
use crate::ids::{NodeName, RequestId, SessionId, UserName};
use crate::node::Cordon;
use crate::placement::{NeverFits, Request, feasible_when_empty};
use crate::session::{Event, Phase, Session, SessionSpec, StopReason};
use crate::time::UnixMillis;
use std::sync::Arc;

impl Cluster {
    pub(super) fn create(
        &mut self,
        id: SessionId,
        spec: SessionSpec,
        owner: UserName,
        request_id: Option<RequestId>,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        let found = request_id.clone().zip(self.by_request(&owner, request_id.as_ref()));
        if let Some((request, session)) = found {
            if *session.spec != spec {
                let session = session.id.clone();
                return Err(Refusal::RequestIdReused { request, session });
            }
            return Ok(Applied::Session { session: session.clone(), existed: true });
        }
        self.check_create(&spec, &owner)?;
        let session = self.put_session(Session {
            id,
            spec: Arc::new(spec),
            owner,
            request_id,
            created_at: now,
            sequence: self.next_sequence,
            generation: 0,
            phase: Phase::Pending { since: now },
            stop_grace_ms: None,
            attempts: Vec::new(),
            stranded: Vec::new(),
        });
        // Taken even if the create is rolled back: a gap does not matter, a repetition would.
        self.next_sequence += 1;
        Ok(Applied::Session { session, existed: false })
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
    pub(super) fn check_create(&self, spec: &SessionSpec, owner: &UserName) -> Result<(), Refusal> {
        spec.check(&self.settings.units)?;
        if let Some(name) = &spec.name
            && let Some(session) = self.index.by_name.get(&(owner.clone(), name.clone()))
        {
            return Err(Refusal::NameInUse { name: name.clone(), session: session.clone() });
        }
        if let Some(node) = &spec.node {
            self.check_node(node)?;
        }
        match feasible_when_empty(&self.request(spec), &self.view) {
            // Nodes may still come: the session waits for them.
            Ok(_) | Err(NeverFits::NoNodes) => {}
            Err(never) => return Err(Refusal::NeverFits(never)),
        }
        self.check_runtimes(spec)
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
        }
    }

    pub(super) fn stop(
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
