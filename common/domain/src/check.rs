//! Every invariant of a cluster, checked from its records alone.
//!
//! Run after every step of the property tests and at every restore. The list is the one in the
//! project's architecture document.

use crate::cluster::{Cluster, HeldOnNode, counted};
use crate::ids::{DeviceUuid, NodeName, ProjectName, SessionId, SessionName, UserName};
use crate::node::Node;
use crate::project::Held;
use crate::session::{Phase, Session};
use crate::slice::{Demand, Grant};
use crate::units::{CpuMilli, MemoryBytes};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A broken invariant, with what breaks it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A device gives more than it has.
    #[error("device {device} of node {node} gives {} and {}, more than it has", .given.memory, .given.compute)]
    DeviceOvercommitted {
        /// The node.
        node: NodeName,
        /// The device.
        device: DeviceUuid,
        /// The sum of its slices.
        given: Demand,
    },
    /// A card is held as a whole and in MIG instances at once.
    #[error("card {card} of node {node} is held as a whole and in MIG instances at once")]
    CardTwice {
        /// The node.
        node: NodeName,
        /// The card.
        card: DeviceUuid,
    },
    /// A slice on a device its node does not have.
    #[error("session {session} holds a slice on device {device}, which node {node} does not have")]
    UnknownDevice {
        /// The session.
        session: SessionId,
        /// The node.
        node: NodeName,
        /// The device.
        device: DeviceUuid,
    },
    /// A session holds something on a node that is not there.
    #[error("session {session} holds a grant on node {node}, which does not exist")]
    UnknownNode {
        /// The session.
        session: SessionId,
        /// The node.
        node: NodeName,
    },
    /// One grant with two slices of one device.
    #[error("session {session} holds device {device} twice")]
    DeviceTwice {
        /// The session.
        session: SessionId,
        /// The device.
        device: DeviceUuid,
    },
    /// Two live sessions of one owner with one name.
    #[error("two live sessions of one owner are called {name}")]
    NameTwice {
        /// The name.
        name: SessionName,
    },
    /// A generation that was never given, or given twice.
    #[error("session {session} has generation {generation} out of order")]
    Generation {
        /// The session.
        session: SessionId,
        /// The generation.
        generation: u64,
    },
    /// What placement sees is not what the records say.
    #[error("what is free on node {node} is not what its records say")]
    ViewOutOfStep {
        /// The node.
        node: NodeName,
    },
    /// The queue does not hold exactly the sessions that wait.
    #[error("{queued} sessions are queued and {pending} wait")]
    Queue {
        /// In the queue.
        queued: usize,
        /// In phase pending.
        pending: usize,
    },
    /// A waiting session does not stand as its record says.
    #[error("session {session} does not stand in the queue as its record says")]
    Waiting {
        /// The session, or the first of its gang.
        session: SessionId,
    },
    /// A gang of which only some hold a place.
    #[error("of gang {gang} {placed} members have a place and {waiting} wait for one")]
    GangTorn {
        /// The gang, by its first member.
        gang: SessionId,
        /// Members that were placed and are not being stopped.
        placed: usize,
        /// Members in the queue.
        waiting: usize,
    },
    /// What a project is said to hold is not what its sessions hold.
    #[error("project {project} is said to hold something else than its sessions do")]
    Account {
        /// The project.
        project: ProjectName,
    },
    /// More CPU or memory promised than the node has.
    #[error("node {node} promises {cpu} cores and {memory} of memory, more than it has")]
    NodeOvercommitted {
        /// The node.
        node: NodeName,
        /// Promised cores.
        cpu: CpuMilli,
        /// Promised memory.
        memory: MemoryBytes,
    },
}

impl Broken {
    /// Whether this may come about without a fault of ours: hardware that shrinks under running
    /// sessions (a driver that reserves more, an agent that gives less). Nothing new is placed then.
    #[must_use]
    pub fn may_come_about(&self) -> bool {
        matches!(
            self,
            Self::DeviceOvercommitted { .. }
                | Self::NodeOvercommitted { .. }
                | Self::CardTwice { .. }
        )
    }
}

/// Checks every invariant.
///
/// # Errors
/// All that are broken.
pub fn check(cluster: &Cluster) -> Result<(), Vec<Broken>> {
    let mut broken = check_nodes(cluster);
    broken.append(&mut check_sessions(cluster));
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

/// Nothing is given twice, and what is known of every node is what the sessions on it say.
fn check_nodes(cluster: &Cluster) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut held: HashMap<&NodeName, HeldOnNode> = HashMap::with_capacity(cluster.nodes().len());
    for session in cluster.sessions().values() {
        for (_, grant) in session.takes() {
            check_devices(session, grant, &mut broken);
            held.entry(&grant.node).or_default().add(session, grant);
        }
    }
    let nothing = HeldOnNode::default();
    for node in cluster.nodes().values() {
        let held = held.remove(&node.name);
        let held = held.as_ref().unwrap_or(&nothing);
        check_node(cluster, node, held, &mut broken);
        check_cards(node, held, &mut broken);
        if !cluster.sees(node, held) {
            broken.push(Broken::ViewOutOfStep { node: node.name.clone() });
        }
    }
    // What is left is held on nodes that are not there.
    let mut left: Vec<(&NodeName, HeldOnNode)> = held.into_iter().collect();
    left.sort_unstable_by_key(|(node, _)| *node);
    for (node, held) in left {
        let sessions = held.sessions().cloned();
        broken.extend(sessions.map(|session| Broken::UnknownNode { session, node: node.clone() }));
    }
    broken
}

/// Sessions are what they may be, and what is derived from them agrees with them.
fn check_sessions(cluster: &Cluster) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut names = HashSet::new();
    let mut pending = 0;
    for session in cluster.sessions().values() {
        check_generations(session, &mut broken);
        if !matches!(session.phase, Phase::Ended(_))
            && let Some(name) = &session.spec.name
            && !names.insert((&session.owner, name))
        {
            broken.push(Broken::NameTwice { name: name.clone() });
        }
        pending += usize::from(matches!(session.phase, Phase::Pending { .. }));
    }
    check_accounts(cluster, &mut broken);
    check_gangs(cluster, &mut broken);
    if let Some(session) = cluster.misplaced_unit() {
        broken.push(Broken::Waiting { session });
    }
    let queued = cluster.queue_length();
    if queued != pending {
        broken.push(Broken::Queue { queued, pending });
    }
    broken
}

/// A grant has one slice of a device at most.
fn check_devices(session: &Session, grant: &Grant, broken: &mut Vec<Broken>) {
    for (position, slice) in grant.slices.iter().enumerate() {
        if grant.slices[..position].iter().any(|other| other.device == slice.device) {
            let (session, device) = (session.id.clone(), slice.device.clone());
            broken.push(Broken::DeviceTwice { session, device });
        }
    }
}

fn check_generations(session: &Session, broken: &mut Vec<Broken>) {
    for (position, (generation, _)) in session.held().enumerate() {
        let twice = session.held().take(position).any(|(other, _)| other == generation);
        if generation == 0 || generation > session.generation || twice {
            broken.push(Broken::Generation { session: session.id.clone(), generation });
        }
    }
}

fn check_node(cluster: &Cluster, node: &Node, held: &HeldOnNode, broken: &mut Vec<Broken>) {
    let name = &node.name;
    let (cpu, memory) = (held.cpu(), held.memory());
    if cpu > node.inventory.cpu || memory > node.inventory.memory {
        broken.push(Broken::NodeOvercommitted { node: name.clone(), cpu, memory });
    }
    for (device, given) in held.devices() {
        match node.units(device, &cluster.settings().units) {
            None => {
                let holds = |(_, grant): (u64, &Grant)| {
                    grant.node == *name && grant.slices.iter().any(|slice| slice.device == *device)
                };
                let mut sessions = cluster.sessions().values();
                let session = sessions.find(|session| session.takes().any(holds));
                broken.extend(session.map(|session| Broken::UnknownDevice {
                    session: session.id.clone(),
                    node: name.clone(),
                    device: device.clone(),
                }));
            }
            Some(units) => {
                if !given.fits(units.whole()) {
                    let (node, device) = (name.clone(), device.clone());
                    broken.push(Broken::DeviceOvercommitted { node, device, given });
                }
            }
        }
    }
}

/// A card is given as a whole, in slices, or in MIG instances: never both.
fn check_cards(node: &Node, held: &HeldOnNode, broken: &mut Vec<Broken>) {
    for card in &node.inventory.devices {
        let in_instances = card.instances().iter().any(|instance| held.holds(&instance.uuid));
        if in_instances && held.holds(&card.uuid) {
            broken.push(Broken::CardTwice { node: node.name.clone(), card: card.uuid.clone() });
        }
    }
}

/// What projects and users are said to hold is what their sessions hold.
fn check_accounts(cluster: &Cluster, broken: &mut Vec<Broken>) {
    let default = ProjectName::default();
    let mut projects: BTreeMap<&ProjectName, (Held, BTreeMap<&UserName, Held>)> = BTreeMap::new();
    for session in cluster.sessions().values() {
        let counted = counted(session);
        let project = session.spec.project.as_ref().unwrap_or(&default);
        let (total, users) = projects.entry(project).or_default();
        *total = total.plus(counted);
        let own = users.entry(&session.owner).or_default();
        *own = own.plus(counted);
    }
    for (project, (total, mut users)) in projects {
        users.retain(|_, held| *held != Held::default());
        let said = cluster.held_by_users(project).filter(|(_, held)| *held != Held::default());
        let said: BTreeMap<&UserName, Held> = said.collect();
        if cluster.held_by_project(project) != total || said != users {
            broken.push(Broken::Account { project: project.clone() });
        }
    }
}

/// A gang holds places as a whole or not at all, save for those that are being given back.
fn check_gangs(cluster: &Cluster, broken: &mut Vec<Broken>) {
    let mut gangs: BTreeMap<&SessionId, (usize, usize)> = BTreeMap::new();
    for session in cluster.sessions().values() {
        let Some(group) = session.group.as_ref().filter(|group| group.is_gang()) else { continue };
        let (placed, waiting) = gangs.entry(&group.id).or_default();
        match &session.phase {
            Phase::Pending { .. } => *waiting += 1,
            Phase::Scheduled { .. } | Phase::Starting { .. } | Phase::Running { .. } => {
                *placed += 1
            }
            Phase::Lost { .. } | Phase::Stopping { .. } | Phase::Ended(_) => {}
        }
    }
    for (gang, (placed, waiting)) in gangs {
        if placed > 0 && waiting > 0 {
            broken.push(Broken::GangTorn { gang: gang.clone(), placed, waiting });
        }
    }
}
