//! The first word of an agent, checked.

use crate::leader::Term;
use crate::nodes::{LinkHandle, NodeCell};
use fgpu_domain::cluster::Input;
use fgpu_domain::ids::NodeName;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::{PROTOCOL_VERSION, convert, v1};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Numbers for links, so that an old one never removes a new one.
static NEXT_LINK: AtomicU64 = AtomicU64::new(1);

/// An agent that may talk on.
pub(super) struct Registered {
    pub(super) cell: Arc<NodeCell>,
    pub(super) link: LinkHandle,
    pub(super) agent_version: String,
    pub(super) channels: mpsc::Receiver<Box<v1::OpenChannel>>,
    pub(super) input: Input,
    /// Whether the store already knows this very agent.
    pub(super) known: bool,
}

/// Whether a manager of protocol `own` speaks with an agent of protocol `agent`: its own and the one
/// before.
fn accepts(agent: u32, own: u32) -> bool {
    let oldest = own.saturating_sub(1).max(1);
    (oldest..=own).contains(&agent)
}

/// Checks a registration and makes its link the node's.
pub(super) fn register(term: &Term, register: v1::Register) -> Result<Registered, CallError> {
    check_protocol(&register)?;
    check_cluster(term, &register)?;
    let name: NodeName = register.node.parse().map_err(|error: fgpu_domain::ids::IdError| {
        CallError::field("--node-name", &register.node, error.rule)
    })?;
    if register.agent_id.is_empty() || register.agent_id.len() > 128 {
        return Err(CallError::field("agent_id", &register.agent_id, "1 to 128 characters"));
    }
    let missing = || CallError::field("inventory", "", "an agent says what its node is");
    let inventory = register.inventory.ok_or_else(missing)?;
    let inventory = convert::inventory(inventory, &register.agent_version)?;
    let reports = register.sessions.unwrap_or_default().sessions;
    let reports = reports.into_iter().map(convert::report).collect::<Result<Vec<_>, _>>()?;
    let (sender, channels) = mpsc::channel(super::outbox::CHANNELS);
    let link = LinkHandle {
        id: NEXT_LINK.fetch_add(1, Ordering::Relaxed),
        agent_id: register.agent_id.clone(),
        channels: sender,
        cancel: term.ended.child_token(),
    };
    let monotonic = term.clock.monotonic();
    let suspect = term.config.timings.suspect;
    let cell = term.nodes.attach(&name, link.clone(), monotonic, suspect).map_err(|_| {
        let message = format!("node name {name} is taken by another agent that is connected");
        CallError::new(ErrorCode::NodeNameTaken, message)
            .with("node", &name)
            .hint("give this agent another `--node-name`, or stop the other one")
    })?;
    let known = term.engine.snapshot().nodes.get(&name).cloned();
    Ok(Registered {
        cell,
        link,
        known: known.is_some_and(|node| node.agent_id == register.agent_id),
        agent_version: register.agent_version,
        channels,
        input: Input::Register {
            name,
            agent_id: register.agent_id,
            inventory: Box::new(inventory),
            reports,
        },
    })
}

fn check_protocol(register: &v1::Register) -> Result<(), CallError> {
    if accepts(register.protocol, PROTOCOL_VERSION) {
        return Ok(());
    }
    let (theirs, who) = (register.protocol, &register.node);
    let step =
        if theirs > PROTOCOL_VERSION { "update the manager first" } else { "update the agent" };
    let message = format!(
        "the agent of {who} speaks protocol {theirs}, this manager {PROTOCOL_VERSION} and the one \
         before"
    );
    Err(CallError::new(ErrorCode::ProtocolMismatch, message)
        .with("agent_protocol", theirs)
        .with("manager_protocol", PROTOCOL_VERSION)
        .hint(step))
}

fn check_cluster(term: &Term, register: &v1::Register) -> Result<(), CallError> {
    let (theirs, ours) = (&register.cluster_id, &term.cluster_id);
    if theirs.is_empty() || theirs == ours.as_str() {
        return Ok(());
    }
    let message = format!("the agent belongs to cluster {theirs}, this is cluster {ours}");
    Err(CallError::new(ErrorCode::WrongCluster, message)
        .with("agent_cluster", theirs)
        .with("cluster", ours)
        .hint("point the agent at its own manager, or empty its state folder to let it join here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_speaks_its_own_protocol_and_the_one_before() {
        assert!(accepts(1, 1));
        assert!(!accepts(0, 1) && !accepts(2, 1));
        assert!(accepts(2, 3) && accepts(3, 3));
        assert!(!accepts(1, 3) && !accepts(4, 3));
    }
}
