//! What nodes shall have, as it is sent: a session is encoded when its placement is made or what is
//! wanted of it changes, and never again.

use super::batch::Unit;
use crate::nodes::{DesiredEdit, DesiredEntry};
use fgpu_domain::cluster::{Cluster, wanted};
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::reconcile::Want;
use fgpu_domain::session::Session;
use fgpu_domain::slice::Grant;
use fgpu_wire::v1;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What changes, node by node.
pub(super) type Edits = BTreeMap<NodeName, Vec<DesiredEdit>>;

/// Builds entries from one state of a cluster.
pub(super) struct Entries<'a> {
    cluster: &'a Cluster,
    /// What all members of a gang are told alike, by the gang: worked out from all of them, so not
    /// for each of them anew.
    gangs: HashMap<SessionId, BTreeMap<String, String>>,
}

impl<'a> Entries<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, gangs: HashMap::new() }
    }

    /// Everything `node` shall have.
    pub(super) fn all(&mut self, node: &NodeName) -> Vec<DesiredEntry> {
        let mut entries = Vec::new();
        for session in self.cluster.sessions_on(node) {
            for (generation, grant, want) in wanted(session) {
                if grant.node == *node {
                    entries.push(self.entry(session, generation, grant, want));
                }
            }
        }
        entries
    }

    /// Adds what `unit` changes; the cluster is as it is after it, or after the units that follow.
    pub(super) fn add(&mut self, edits: &mut Edits, unit: &Unit) {
        for (before, after) in unit.changes.sessions() {
            let then = before.into_iter().flat_map(|session| wanted(session));
            let now = after.into_iter().flat_map(|session| wanted(session));
            if then.clone().eq(now.clone()) {
                continue;
            }
            for (generation, grant, _) in then {
                let same = |other: &(u64, &Grant, Want)| {
                    (other.0, &other.1.node) == (generation, &grant.node)
                };
                if let Some(before) = before.filter(|_| !now.clone().any(|other| same(&other))) {
                    let gone = DesiredEdit::Remove {
                        session: before.id.clone(),
                        generation,
                        known: unit.said_gone(&grant.node, &before.id, generation),
                    };
                    edits.entry(grant.node.clone()).or_default().push(gone);
                }
            }
            for (generation, grant, want) in now {
                if let Some(after) = after {
                    let put = DesiredEdit::Put(self.entry(after, generation, grant, want));
                    edits.entry(grant.node.clone()).or_default().push(put);
                }
            }
        }
    }

    fn entry(
        &mut self,
        session: &Arc<Session>,
        generation: u64,
        grant: &Grant,
        want: Want,
    ) -> DesiredEntry {
        let message = v1::DesiredSession {
            session_id: session.id.to_string(),
            generation,
            spec: Some((&*session.spec).into()),
            grant: Some(grant.into()),
            stop_grace_ms: match want {
                Want::Run => None,
                Want::Stop { grace_ms } => Some(grace_ms),
            },
            owner: session.owner.to_string(),
            group_environment: self.group_environment(session),
        };
        let encoded = message.encode_to_vec().into();
        DesiredEntry { session: session.id.clone(), generation, encoded }
    }

    /// As [`Cluster::group_environment`].
    fn group_environment(&mut self, session: &Arc<Session>) -> BTreeMap<String, String> {
        let mut own = session.group_environment();
        if let Some(gang) = session.group.as_ref().filter(|group| group.is_gang()) {
            let shared = self.gangs.entry(gang.id.clone()).or_insert_with(|| {
                let mut all = self.cluster.group_environment(session);
                all.retain(|name, _| !own.contains_key(name));
                all
            });
            own.extend(shared.clone());
        }
        own
    }
}
