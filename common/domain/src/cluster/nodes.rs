//! Nodes that come, change, fall silent and go.

use super::input::Applied;
use super::{Cluster, Refusal};
use crate::device::{Device, DeviceHealth, MigInstance, MigState};
use crate::ids::{DeviceUuid, NodeName, SessionId};
use crate::image::full_name;
use crate::node::{Cordon, Inventory, Liveness, Node};
use crate::session::{Attempt, Event, OnLost, Phase, Report, Session, StopReason, Stranded};
use crate::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Cluster {
    pub(super) fn register(
        &mut self,
        name: NodeName,
        agent_id: String,
        inventory: Inventory,
        reports: Vec<Report>,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        let known = self.nodes.get(&name).cloned();
        if let Some(known) = &known
            && known.agent_id != agent_id
            && matches!(self.liveness(&name), Liveness::Live | Liveness::Suspect)
        {
            return Err(Refusal::NodeNameTaken { node: name });
        }
        self.check_devices(&name, &inventory)?;
        let node = match known {
            Some(known) => Node {
                inventory: self.keep_held_devices(&known, inventory),
                agent_id,
                ..Node::clone(&known)
            },
            None => Node {
                name: name.clone(),
                agent_id,
                inventory,
                labels: BTreeMap::new(),
                cordon: Cordon::Open,
                cordoned_devices: BTreeSet::new(),
                registered_at: now,
            },
        };
        self.put_node_if_changed(node);
        self.put_liveness(&name, Liveness::Live);
        self.observe(&name, reports, true, now)?;
        self.node(&name).map(|node| Applied::Node(node.clone()))
    }

    pub(super) fn update_inventory(
        &mut self,
        name: &NodeName,
        inventory: Inventory,
    ) -> Result<Applied, Refusal> {
        let known = self.node(name)?.clone();
        self.check_devices(name, &inventory)?;
        let inventory = self.keep_held_devices(&known, inventory);
        let node = self.put_node_if_changed(Node { inventory, ..Node::clone(&known) });
        Ok(Applied::Node(node))
    }

    fn put_node_if_changed(&mut self, node: Node) -> Arc<Node> {
        match self.nodes.get(&node.name) {
            Some(same) if **same == node => same.clone(),
            _ => self.put_node(node),
        }
    }

    /// A device belongs to one node.
    fn check_devices(&self, name: &NodeName, inventory: &Inventory) -> Result<(), Refusal> {
        for device in &inventory.devices {
            let owners = self.index.by_device.get(&device.uuid).into_iter().flatten();
            let other = owners
                .filter(|other| *other != name)
                .find(|other| self.liveness(other) == Liveness::Live);
            if let Some(other) = other {
                return Err(Refusal::DeviceTaken {
                    device: device.uuid.clone(),
                    node: name.clone(),
                    other: other.clone(),
                });
            }
        }
        Ok(())
    }

    /// A device, or a MIG instance, that is no longer reported but still holds slices stays, as
    /// unhealthy: what is held on it must not be forgotten.
    fn keep_held_devices(&self, known: &Node, mut inventory: Inventory) -> Inventory {
        let held = self.held_devices(&known.name);
        for card in &mut inventory.devices {
            let before = known.device(&card.uuid).map(Device::instances).unwrap_or_default();
            keep_held_instances(card, before, &held);
        }
        let missing = known.inventory.devices.iter().filter(|device| {
            let own = device.instances().iter().map(|instance| &instance.uuid);
            own.chain([&device.uuid]).any(|uuid| held.contains(uuid))
                && !inventory.devices.iter().any(|reported| reported.uuid == device.uuid)
        });
        let mut kept: Vec<Device> = missing.cloned().collect();
        for device in &mut kept {
            device.health = gone();
            while inventory.devices.iter().any(|other| other.index == device.index) {
                device.index += 1;
            }
            inventory.devices.push(device.clone());
        }
        inventory
    }

    /// Everything slices are held on at a node.
    fn held_devices(&self, name: &NodeName) -> BTreeSet<&DeviceUuid> {
        self.sessions_on(name)
            .flat_map(|session| session.takes())
            .filter(|(_, grant)| grant.node == *name)
            .flat_map(|(_, grant)| grant.slices.iter().map(|slice| &slice.device))
            .collect()
    }

    /// Opens cards that are no longer partitioned once nothing is held on their instances.
    pub(super) fn open_left_cards(&mut self) {
        if self.index.leaving.is_empty() {
            return;
        }
        let nodes: Vec<Arc<Node>> =
            self.index.leaving.iter().filter_map(|name| self.nodes.get(name).cloned()).collect();
        for node in nodes {
            let held = self.held_devices(&node.name);
            let mut inventory = node.inventory.clone();
            for card in &mut inventory.devices {
                let MigState::Leaving { instances } = &mut card.mig else { continue };
                instances.retain(|instance| held.contains(&instance.uuid));
                if instances.is_empty() {
                    card.mig = MigState::Disabled;
                }
            }
            self.put_node_if_changed(Node { inventory, ..Node::clone(&node) });
        }
    }

    pub(super) fn node(&self, name: &NodeName) -> Result<&Arc<Node>, Refusal> {
        self.nodes.get(name).ok_or_else(|| Refusal::NodeNotFound { node: name.clone() })
    }

    pub(super) fn set_liveness(
        &mut self,
        name: &NodeName,
        liveness: Liveness,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        self.node(name)?;
        if self.liveness(name) != liveness {
            self.put_liveness(name, liveness);
        }
        if liveness == Liveness::Lost {
            for id in self.ids_on(name) {
                self.lose(&id, name, now);
            }
        }
        Ok(Applied::Nothing)
    }

    /// What happens to a session whose node is lost, as it asked.
    fn lose(&mut self, id: &SessionId, node: &NodeName, now: UnixMillis) {
        let Some(session) = self.sessions.get(id).cloned() else { return };
        if session.phase.grant().is_none_or(|grant| grant.node != *node) {
            return;
        }
        let stopping =
            matches!(session.phase, Phase::Stopping { .. } | Phase::Lost { stopping: Some(_), .. });
        let event = match session.spec.on_lost {
            OnLost::Replace if !stopping && self.gang_is_whole(&session) => Event::Requeued,
            OnLost::Replace if !stopping => {
                Event::Abandoned { message: format!("node {node} was lost") }
            }
            OnLost::Wait | OnLost::Replace => Event::NodeLost,
            OnLost::Fail => Event::Abandoned { message: format!("node {node} was lost") },
        };
        let gives_up = !matches!(event, Event::NodeLost);
        let Ok(phase) = session.phase.after(event, now) else { return };
        if phase == session.phase {
            return;
        }
        let mut next = Session { phase, ..Session::clone(&session) };
        if gives_up && let Some(grant) = session.phase.grant().cloned() {
            if matches!(next.phase, Phase::Pending { .. }) {
                next.remember(Attempt {
                    generation: session.generation,
                    grant: grant.clone(),
                    placed_at: session.placed_at,
                    at: now,
                    reason: format!("node {node} was lost"),
                    node_fault: true,
                });
            }
            next.stranded.push(Stranded { generation: session.generation, grant, since: now });
        }
        self.put_session(next);
        self.gang_follows(id, now);
    }

    /// Takes in which images a node holds. Never stored: every manager is told anew.
    pub(super) fn note_images(
        &mut self,
        name: &NodeName,
        full: bool,
        added: Vec<String>,
        removed: &[String],
    ) -> Result<Applied, Refusal> {
        self.node(name)?;
        let removed: BTreeSet<String> = removed.iter().map(|image| full_name(image)).collect();
        let known = if full { &[] } else { self.view.images_of(name) };
        let kept = known.iter().filter(|image| !removed.contains(&***image));
        // What is new first: of more than are remembered, what was added last is the best hint.
        let added = added.iter().map(|image| full_name(image));
        let images: Vec<String> = added.chain(kept.map(|image| image.to_string())).collect();
        self.view.set_images(name, images);
        Ok(Applied::Nothing)
    }

    pub(super) fn set_cordon(
        &mut self,
        name: &NodeName,
        cordon: Cordon,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        let node = Node { cordon, ..Node::clone(self.node(name)?) };
        let node = self.put_node_if_changed(node);
        if cordon == Cordon::Open {
            // Whoever lets sessions in again knows better.
            self.forget_trouble(name);
        }
        if cordon == Cordon::Draining {
            for id in self.ids_on(name) {
                let here = self.get(&id)?.phase.grant().is_some_and(|grant| grant.node == *name);
                if here {
                    self.stop(&id, StopReason::Drained, None, now)?;
                }
            }
        }
        Ok(Applied::Node(node))
    }

    pub(super) fn set_labels(
        &mut self,
        name: &NodeName,
        set: BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<Applied, Refusal> {
        let mut node = Node::clone(self.node(name)?);
        node.labels.retain(|key, _| !remove.contains(key));
        node.labels.extend(set);
        Ok(Applied::Node(self.put_node_if_changed(node)))
    }

    pub(super) fn cordon_device(
        &mut self,
        device: &DeviceUuid,
        cordoned: bool,
    ) -> Result<Applied, Refusal> {
        let owner = self.index.by_device.get(device).and_then(|owners| owners.first());
        let Some(owner) = owner.and_then(|owner| self.nodes.get(owner)) else {
            return Err(Refusal::DeviceNotFound { device: device.clone() });
        };
        let mut node = Node::clone(owner);
        if cordoned {
            node.cordoned_devices.insert(device.clone());
        } else {
            node.cordoned_devices.remove(device);
        }
        Ok(Applied::Node(self.put_node_if_changed(node)))
    }

    pub(super) fn remove_node(&mut self, name: &NodeName) -> Result<Applied, Refusal> {
        self.node(name)?;
        let in_use = |why: String| Err(Refusal::NodeInUse { node: name.clone(), why });
        let held = self.ids_on(name).len();
        if held > 0 {
            return in_use(format!("{held} sessions hold something on it"));
        }
        if matches!(self.liveness(name), Liveness::Live | Liveness::Suspect) {
            return in_use("its agent is connected".to_owned());
        }
        self.delete_node(name);
        Ok(Applied::Removed)
    }

    pub(super) fn ids_on(&self, name: &NodeName) -> Vec<SessionId> {
        self.sessions_on(name).map(|session| session.id.clone()).collect()
    }
}

/// The instances of `before` that are held and no longer reported stay on their card.
fn keep_held_instances(card: &mut Device, before: &[MigInstance], held: &BTreeSet<&DeviceUuid>) {
    let missing = before.iter().filter(|instance| {
        held.contains(&instance.uuid)
            && !card.instances().iter().any(|reported| reported.uuid == instance.uuid)
    });
    let mut kept: Vec<MigInstance> = missing.cloned().collect();
    if kept.is_empty() {
        return;
    }
    kept.iter_mut().for_each(|instance| instance.health = gone());
    match &mut card.mig {
        MigState::Enabled { instances } | MigState::Leaving { instances } => instances.extend(kept),
        MigState::Unsupported | MigState::Disabled => {
            card.mig = MigState::Leaving { instances: kept };
        }
    }
}

fn gone() -> DeviceHealth {
    DeviceHealth::Unhealthy { reason: "its agent no longer reports it".to_owned() }
}
