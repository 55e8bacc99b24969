//! What nodes shall have, as it is sent: a session is encoded when its placement is made or what is
//! wanted of it changes, and never again.

use super::batch::Unit;
use crate::nodes::{DesiredEdit, DesiredEntry};
use fgpu_domain::cluster::{Cluster, wanted};
use fgpu_domain::ids::NodeName;
use fgpu_domain::reconcile::Want;
use fgpu_domain::session::Session;
use fgpu_domain::slice::Grant;
use fgpu_wire::v1;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What changes, node by node.
pub(super) type Edits = BTreeMap<NodeName, Vec<DesiredEdit>>;

/// Everything `node` shall have.
pub(super) fn all(cluster: &Cluster, node: &NodeName) -> Vec<DesiredEntry> {
    let mut entries = Vec::new();
    for session in cluster.sessions_on(node) {
        for (generation, grant, want) in wanted(session) {
            if grant.node == *node {
                entries.push(entry(cluster, session, generation, grant, want));
            }
        }
    }
    entries
}

/// Adds what `unit` changes; `cluster` is as it is after it, or after the units that follow it.
pub(super) fn add(edits: &mut Edits, cluster: &Cluster, unit: &Unit) {
    for (before, after) in unit.sessions() {
        let then = before.into_iter().flat_map(|session| wanted(session));
        let now = after.into_iter().flat_map(|session| wanted(session));
        if then.clone().eq(now.clone()) {
            continue;
        }
        for (generation, grant, _) in then {
            let same =
                |other: &(u64, &Grant, Want)| (other.0, &other.1.node) == (generation, &grant.node);
            if let Some(before) = before.filter(|_| !now.clone().any(|other| same(&other))) {
                let gone = DesiredEdit::Remove(before.id.clone(), generation);
                edits.entry(grant.node.clone()).or_default().push(gone);
            }
        }
        for (generation, grant, want) in now {
            if let Some(after) = after {
                let put = DesiredEdit::Put(entry(cluster, after, generation, grant, want));
                edits.entry(grant.node.clone()).or_default().push(put);
            }
        }
    }
}

fn entry(
    cluster: &Cluster,
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
        group_environment: cluster.group_environment(session),
    };
    let encoded = message.encode_to_vec().into();
    DesiredEntry { session: session.id.clone(), generation, encoded }
}
