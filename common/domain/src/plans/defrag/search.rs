//! The search for moves, on a copy of the view in which each is made as it is found.
//!
//! Devices without a slice are blocked in the copy, so that no move opens one. A step that fails
//! half way is taken back move by move.

use super::measure::{Fragmentation, measure};
use super::{DefragLimits, DefragStep, Freed, MovableSession, Move, gpu_memory};
use crate::ids::{DeviceUuid, NodeName};
use crate::placement::{
    Allocation, DeviceBlock, DeviceView, NodeState, NodeView, Placer, Policy, View,
};
use crate::slice::Demand;
use std::collections::{BTreeMap, BTreeSet};

/// Sessions tried, smallest first, when one is to make room for another.
const EXCHANGES: usize = 16;

type DeviceKey = (NodeName, DeviceUuid);

/// A plan in the making.
pub(super) struct Search<'a> {
    view: View,
    placer: Placer,
    sessions: Vec<Place<'a>>,
    /// Movable sessions by device, and by node.
    on_device: BTreeMap<DeviceKey, BTreeSet<usize>>,
    on_node: BTreeMap<NodeName, BTreeSet<usize>>,
    /// Devices that were not blocked to begin with.
    usable: BTreeMap<NodeName, BTreeSet<DeviceUuid>>,
    limits: DefragLimits,
    best: Fragmentation,
    steps: Vec<DefragStep>,
    /// Moves of the step at hand, each with its session.
    made: Vec<(usize, Move)>,
}

/// A session where it is in the copy.
struct Place<'a> {
    session: &'a MovableSession,
    node: NodeName,
    allocation: Allocation,
    moved: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        view: &View,
        movable: &'a [MovableSession],
        limits: DefragLimits,
        before: Fragmentation,
    ) -> Self {
        let place = |session: &'a MovableSession| Place {
            session,
            node: session.node.clone(),
            allocation: session.allocation.clone(),
            moved: false,
        };
        let mut search = Self {
            view: view.clone(),
            placer: Placer::new(Policy::BestFit, 0),
            sessions: movable.iter().map(place).collect(),
            on_device: BTreeMap::new(),
            on_node: BTreeMap::new(),
            usable: BTreeMap::new(),
            limits,
            best: before,
            steps: Vec::new(),
            made: Vec::new(),
        };
        for session in 0..search.sessions.len() {
            search.settle(session, true);
        }
        for node in view.iter() {
            let usable = node
                .devices
                .iter()
                .filter(|device| device.blocked.is_none() && device.mig.is_none());
            let usable = usable.map(|device| device.uuid.clone()).collect();
            search.usable.insert(node.name.clone(), usable);
            search.block_free_devices(&node.name, true);
        }
        search
    }

    /// Empties devices, the one with the least memory to move first.
    pub(super) fn free_devices(&mut self) {
        let devices = self.on_device.keys().filter(|device| self.is_usable(&device.0, &device.1));
        let mut order: Vec<(u64, DeviceKey)> =
            devices.filter_map(|key| Some((self.to_move(key)?, key.clone()))).collect();
        order.sort();
        for (_, key) in order {
            if self.limits.tries == 0 {
                return;
            }
            self.free_device(&key);
        }
    }

    fn free_device(&mut self, key: &DeviceKey) {
        // What was moved onto it since is not moved again.
        if self.to_move(key).is_none() {
            return;
        }
        let sessions = self.on_device.get(key).cloned().unwrap_or_default();
        self.block(key, true);
        if !self.relocate_all(&sessions) {
            self.block(key, false);
            return;
        }
        let (node, device) = key.clone();
        if !self.keep(Freed::Device { node, device }) {
            self.block(key, false);
        }
    }

    /// Empties nodes, the one with the least memory to move first, into others in use; free
    /// devices of those may be opened, as the node gives back no fewer.
    pub(super) fn free_nodes(&mut self) {
        let names: Vec<NodeName> = self.view.iter().map(|node| node.name.clone()).collect();
        for name in &names {
            if self.in_use(name) {
                self.block_free_devices(name, false);
            }
        }
        let mut order: Vec<(u64, &NodeName)> =
            names.iter().filter_map(|name| Some((self.to_move_from(name)?, name))).collect();
        order.sort();
        for (_, name) in order {
            if self.limits.tries == 0 {
                return;
            }
            self.free_node(name);
        }
    }

    fn free_node(&mut self, name: &NodeName) {
        if self.to_move_from(name).is_none() {
            return;
        }
        let sessions = self.on_node.get(name).cloned().unwrap_or_default();
        self.set_state(name, NodeState::Cordoned);
        let moved = self.relocate_all(&sessions);
        self.set_state(name, NodeState::Ready);
        if moved && self.keep(Freed::Node { node: name.clone() }) {
            self.block_free_devices(name, true);
        }
    }

    /// The steps, and the cluster after them.
    pub(super) fn finish(self) -> (Vec<DefragStep>, Fragmentation) {
        (self.steps, self.best)
    }

    /// Memory to move off a device, or `None` where moving cannot empty it.
    fn to_move(&self, key: &DeviceKey) -> Option<u64> {
        let node = self.view.get(&key.0).filter(|node| node.state == NodeState::Ready)?;
        let device = node.devices.iter().find(|device| device.uuid == key.1)?;
        self.memory_of(self.on_device.get(key)?, device.sessions)
    }

    /// The memory of sessions that have not moved and make up all `slices`.
    fn memory_of(&self, sessions: &BTreeSet<usize>, slices: u32) -> Option<u64> {
        let places = || sessions.iter().map(|at| &self.sessions[*at]);
        let all = u32::try_from(sessions.len()).is_ok_and(|sessions| sessions == slices);
        if !all || places().any(|place| place.moved) {
            return None;
        }
        Some(places().fold(0, |sum, place| sum.saturating_add(gpu_memory(&place.allocation).0)))
    }

    /// GPU memory to move off a node, or `None` where moving cannot empty it.
    fn to_move_from(&self, name: &NodeName) -> Option<u64> {
        let node = self.view.get(name).filter(|node| node.state == NodeState::Ready)?;
        let sessions = self.on_node.get(name).filter(|sessions| !sessions.is_empty())?;
        let places = || sessions.iter().map(|at| &self.sessions[*at]);
        let held = places().fold((node.cpu_free, node.memory_free), |(cpu, memory), place| {
            let held = &place.allocation;
            (cpu.saturating_add(held.cpu), memory.saturating_add(held.memory))
        });
        let all = held == (node.cpu_total, node.memory_total)
            && node.devices.iter().all(|device| {
                let here = self.on_device.get(&key(node, device)).map_or(0, BTreeSet::len);
                u32::try_from(here).is_ok_and(|here| here == device.sessions)
            });
        if !all || node.devices.is_empty() || places().any(|place| place.moved) {
            return None;
        }
        Some(places().fold(0, |sum, place| sum.saturating_add(gpu_memory(&place.allocation).0)))
    }

    /// Moves all of some sessions, largest first, or none of them.
    fn relocate_all(&mut self, sessions: &BTreeSet<usize>) -> bool {
        let mut order: Vec<usize> = sessions.iter().copied().collect();
        order.sort_by_key(|at| std::cmp::Reverse(gpu_memory(&self.sessions[*at].allocation)));
        for session in order {
            if !self.relocate(session) && !self.exchange(session) {
                self.undo_to(0);
                return false;
            }
        }
        true
    }

    /// Moves a session to where there is room.
    fn relocate(&mut self, session: usize) -> bool {
        let moves: usize = self.steps.iter().map(|step| step.moves.len()).sum();
        let place = &self.sessions[session];
        if self.limits.tries == 0 || moves + self.made.len() >= self.limits.moves || place.moved {
            return false;
        }
        self.limits.tries -= 1;
        let request = &place.session.request;
        let Some(found) = self.placer.find(request, &self.view) else { return false };
        let made = Move {
            session: place.session.id.clone(),
            from: place.node.clone(),
            gives_back: place.allocation.clone(),
            takes: Allocation::of(request, &found.grant),
            to: found.grant,
        };
        // The new place is taken while the old one is still held.
        if self.view.allocate(&made.to.node, &made.takes).is_err() {
            return false;
        }
        if self.view.release(&made.from, &made.gives_back).is_err() {
            // The session does not hold what it was said to.
            let _ = self.view.release(&made.to.node, &made.takes);
            return false;
        }
        self.put(session, made.to.node.clone(), made.takes.clone(), true);
        self.made.push((session, made));
        true
    }

    /// Moves another session out of the way of this one, and then this one.
    fn exchange(&mut self, session: usize) -> bool {
        // Looking through all sessions is work as well.
        self.limits.tries = self.limits.tries.saturating_sub(EXCHANGES);
        if self.limits.tries == 0 {
            return false;
        }
        for (other, device) in self.in_the_way(session) {
            let before = self.made.len();
            self.block(&device, true);
            let moved = self.relocate(other);
            self.block(&device, false);
            if moved && self.relocate(session) {
                return true;
            }
            self.undo_to(before);
        }
        false
    }

    /// Sessions without which one device would hold all of `session`, smallest first.
    fn in_the_way(&self, session: usize) -> Vec<(usize, DeviceKey)> {
        let wanted = &self.sessions[session].allocation;
        let [wanted] = wanted.slices.as_slice() else { return Vec::new() };
        let mut found: Vec<(u64, usize, DeviceKey)> = Vec::new();
        for (other, place) in self.sessions.iter().enumerate() {
            let [slice] = place.allocation.slices.as_slice() else { continue };
            let smaller = slice.memory < wanted.memory;
            let device = (place.node.clone(), slice.device.clone());
            let free = self.free_on(&device).map(|free| free.saturating_add(slice.demand()));
            let room = free.is_some_and(|free| wanted.demand().fits(free));
            if other != session && !place.moved && smaller && room {
                found.push((slice.memory.0, other, device));
            }
        }
        found.sort();
        found.into_iter().take(EXCHANGES).map(|(_, other, device)| (other, device)).collect()
    }

    /// What is free on a device that takes something new.
    fn free_on(&self, (node, device): &DeviceKey) -> Option<Demand> {
        let devices = &self.view.get(node)?.devices;
        let device = devices.iter().find(|other| other.uuid == *device)?;
        device.blocked.is_none().then_some(device.free)
    }

    /// Keeps the moves made as a step if they gain something and nothing gets worse; else takes
    /// them back.
    fn keep(&mut self, frees: Freed) -> bool {
        let now = self.measure();
        let gains = match &frees {
            Freed::Device { .. } => now.free_devices > self.best.free_devices,
            Freed::Node { .. } => now.free_nodes > self.best.free_nodes,
        };
        if !gains || !now.no_worse_than(&self.best) {
            self.undo_to(0);
            return false;
        }
        self.best = now;
        let moves = std::mem::take(&mut self.made).into_iter().map(|(_, made)| made).collect();
        self.steps.push(DefragStep { moves, frees });
        true
    }

    fn undo_to(&mut self, before: usize) {
        while self.made.len() > before {
            let Some((session, made)) = self.made.pop() else { return };
            // In reverse order each old place is free again and each new one held.
            let _ = self.view.allocate(&made.from, &made.gives_back);
            let _ = self.view.release(&made.to.node, &made.takes);
            self.put(session, made.from, made.gives_back, false);
        }
    }

    fn put(&mut self, session: usize, node: NodeName, allocation: Allocation, moved: bool) {
        self.settle(session, false);
        let place = &mut self.sessions[session];
        (place.node, place.allocation, place.moved) = (node, allocation, moved);
        self.settle(session, true);
    }

    /// Enters a session into the lists by device and node, or takes it out.
    fn settle(&mut self, session: usize, enter: bool) {
        let place = &self.sessions[session];
        let devices = place.allocation.slices.iter();
        for device in devices.map(|slice| (place.node.clone(), slice.device.clone())) {
            set(self.on_device.entry(device).or_default(), session, enter);
        }
        set(self.on_node.entry(place.node.clone()).or_default(), session, enter);
    }

    /// The copy measured as if nothing were blocked for the search.
    fn measure(&self) -> Fragmentation {
        measure(&self.view, |node, device| self.is_usable(&node.name, &device.uuid))
    }

    fn is_usable(&self, node: &NodeName, device: &DeviceUuid) -> bool {
        self.usable.get(node).is_some_and(|devices| devices.contains(device))
    }

    fn in_use(&self, name: &NodeName) -> bool {
        let node = self.view.get(name);
        node.is_some_and(|node| {
            node.cpu_free < node.cpu_total
                || node.memory_free < node.memory_total
                || node.devices.iter().any(|device| device.sessions > 0)
        })
    }

    fn block_free_devices(&mut self, name: &NodeName, blocked: bool) {
        let devices = self.view.get(name).map(|node| {
            let free = node.devices.iter().filter(|device| device.sessions == 0);
            free.map(|device| key(node, device)).collect::<Vec<_>>()
        });
        for device in devices.into_iter().flatten() {
            self.block(&device, blocked);
        }
    }

    /// Blocks a device for the search, or opens it again; others stay as they are.
    fn block(&mut self, device: &DeviceKey, blocked: bool) {
        if self.is_usable(&device.0, &device.1) {
            let block = blocked.then_some(DeviceBlock::Cordoned);
            // Both exist: they come from this very view.
            let _ = self.view.set_blocked(&device.0, &device.1, block);
        }
    }

    fn set_state(&mut self, name: &NodeName, state: NodeState) {
        // It exists: the name comes from this very view.
        let _ = self.view.set_state(name, state);
    }
}

fn key(node: &NodeView, device: &DeviceView) -> DeviceKey {
    (node.name.clone(), device.uuid.clone())
}

fn set(sessions: &mut BTreeSet<usize>, session: usize, enter: bool) {
    if enter {
        sessions.insert(session);
    } else {
        sessions.remove(&session);
    }
}
