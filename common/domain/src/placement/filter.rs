//! Filter: what passes a node over before its devices are looked at.

use super::Request;
use super::entry::Entry;
use super::node::NodeState;
use super::reason::Reason;

/// What a node lacks; the numbers are filled in only when someone asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    WrongNode,
    State,
    Avoided,
    Label,
    Cpu,
    Memory,
}

/// The first thing that keeps `request` off the node, its devices left aside.
pub(super) fn miss(request: &Request, entry: &Entry) -> Option<Miss> {
    barred(request, entry).or_else(|| lacks(request, entry))
}

/// What keeps `request` off this very node, whatever is free there.
pub(super) fn barred(request: &Request, entry: &Entry) -> Option<Miss> {
    let node = &entry.node;
    if request.node.as_ref().is_some_and(|name| *name != node.name) {
        return Some(Miss::WrongNode);
    }
    if node.state != NodeState::Ready {
        return Some(Miss::State);
    }
    if request.avoid.contains(&node.name) {
        return Some(Miss::Avoided);
    }
    if request.labels.iter().any(|(key, value)| node.labels.get(key) != Some(value)) {
        return Some(Miss::Label);
    }
    None
}

/// What of CPU and memory is not free there.
pub(super) fn lacks(request: &Request, entry: &Entry) -> Option<Miss> {
    let node = &entry.node;
    if node.cpu_free < request.cpu {
        return Some(Miss::Cpu);
    }
    if node.memory_free < request.memory {
        return Some(Miss::Memory);
    }
    None
}

/// `miss` in numbers.
pub(super) fn reason(miss: Miss, request: &Request, entry: &Entry) -> Reason {
    let node = &entry.node;
    match miss {
        Miss::WrongNode => {
            Reason::WrongNode { wanted: request.node.clone().unwrap_or_else(|| node.name.clone()) }
        }
        Miss::State => match node.state {
            NodeState::Ready | NodeState::Cordoned => Reason::Cordoned,
            NodeState::Draining => Reason::Draining,
            NodeState::Suspect => Reason::Suspect,
            NodeState::Lost => Reason::Lost,
            NodeState::NeverSeen => Reason::NeverSeen,
            NodeState::HeldOff => Reason::HeldOff,
        },
        Miss::Avoided => Reason::Avoided,
        Miss::Label => label(request, entry),
        Miss::Cpu => {
            Reason::Cpu { wanted: request.cpu, free: node.cpu_free, total: node.cpu_total }
        }
        Miss::Memory => Reason::Memory {
            wanted: request.memory,
            free: node.memory_free,
            total: node.memory_total,
        },
    }
}

fn label(request: &Request, entry: &Entry) -> Reason {
    let labels = &entry.node.labels;
    let missing = request.labels.iter().find(|(key, value)| labels.get(*key) != Some(value));
    let (key, wanted) = missing.map(|(k, v)| (k.clone(), v.clone())).unwrap_or_default();
    let found = labels.get(&key).cloned();
    Reason::Label { key, wanted, found }
}
