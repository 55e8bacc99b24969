//! Requests that found no room anywhere, found again by a node that has changed.
//!
//! Such a request can only have got room on a node that changed since, so each change is asked
//! about that one node. What a request takes of a kind of node at least lies beside it as a row of
//! amounts; requests with similar rows lie in one block under the least of their amounts, so that
//! most are passed over by the block. The few that remain are tried on the node exactly. What lies
//! here costs next to nothing while the nodes that change have no room for it, however much it is.

use super::Request;
use super::entry::Entry;
use super::filter::barred;
use super::fit::{Fit, ShapeFit};
use super::kind::ways;
use super::node::NodeState;
use super::search::has_room;
use super::view::{Versions, View};
use crate::ids::NodeName;
use crate::slice::Part;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Requests in one block at most.
const BLOCK: usize = 16;

/// What is taken at least, or what there is: empty devices, devices, memory and compute of one
/// device, CPU, host memory, memory and compute over all devices. The first ones order the blocks.
type Amounts = [u64; 8];

/// Requests without room, each under a key of its owner's choice.
#[derive(Debug, Clone)]
pub(crate) struct Unmet<K> {
    needs: HashMap<K, Arc<Needs>>,
    /// By position of the shape.
    shapes: Vec<Blocks<K>>,
    /// Those that name their node.
    named: HashMap<NodeName, BTreeSet<K>>,
    /// How many ask for labels.
    labelled: usize,
    /// What the first of them was laid out for.
    versions: Versions,
}

/// A request as it lies on the hardware there is.
#[derive(Debug)]
struct Needs {
    request: Request,
    ways: Vec<Option<Fit>>,
    /// What it takes at least, by position of the shape; not of shapes that never hold it.
    least: Vec<(usize, Amounts)>,
}

/// Requests by what they take at least of one kind of node, in order.
#[derive(Debug, Clone)]
struct Blocks<K>(Vec<Block<K>>);

#[derive(Debug, Clone)]
struct Block<K> {
    /// The least of each amount.
    least: Amounts,
    members: Vec<(Amounts, K)>,
}

impl<K> Default for Unmet<K> {
    fn default() -> Self {
        Self {
            needs: HashMap::new(),
            shapes: Vec::new(),
            named: HashMap::new(),
            labelled: 0,
            versions: Versions::default(),
        }
    }
}

impl<K: Copy + Ord + Hash> Unmet<K> {
    /// Adds a request that has found no room in `view`.
    pub(crate) fn insert(&mut self, key: K, request: Request, view: &View) {
        self.remove(key);
        if self.needs.is_empty() {
            self.versions = view.versions();
        }
        self.labelled += usize::from(!request.labels.is_empty());
        let needs = Needs::new(request, view);
        if let Some(node) = &needs.request.node {
            self.named.entry(node.clone()).or_default().insert(key);
        } else {
            for (shape, least) in &needs.least {
                if self.shapes.len() <= *shape {
                    self.shapes.resize_with(shape + 1, || Blocks(Vec::new()));
                }
                self.shapes[*shape].insert((*least, key));
            }
        }
        self.needs.insert(key, Arc::new(needs));
    }

    /// Takes a request out; tells whether it was there.
    pub(crate) fn remove(&mut self, key: K) -> bool {
        let Some(needs) = self.needs.remove(&key) else { return false };
        self.labelled -= usize::from(!needs.request.labels.is_empty());
        if let Some(node) = &needs.request.node {
            if let Some(keys) = self.named.get_mut(node) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.named.remove(node);
                }
            }
            return true;
        }
        for (shape, least) in &needs.least {
            if let Some(blocks) = self.shapes.get_mut(*shape) {
                blocks.remove((*least, key));
            }
        }
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.needs.contains_key(&key)
    }

    /// Everything here, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.needs.keys().copied()
    }

    /// Whether the hardware of `view` is not what these requests were laid out for: any of them may
    /// have room now.
    pub(crate) fn is_outdated(&self, view: &View) -> bool {
        let (then, now) = (self.versions, view.versions());
        !self.needs.is_empty()
            && (then.hardware != now.hardware || (self.labelled > 0 && then.labels != now.labels))
    }

    /// The requests that a node has room for.
    pub(crate) fn met_on(&self, view: &View, name: &NodeName) -> Vec<K> {
        let Ok(at) = view.position(name) else { return Vec::new() };
        let entry = &view.entries()[at];
        if entry.node.state != NodeState::Ready {
            return Vec::new();
        }
        let there = room(entry);
        let within = self.shapes.get(entry.shape).into_iter().flat_map(|b| b.within(&there));
        let named = self.named.get(name).into_iter().flatten().copied();
        let met = |key: &K| self.needs.get(key).is_some_and(|needs| needs.are_met_on(entry));
        within.chain(named).filter(met).collect()
    }
}

impl Needs {
    fn new(request: Request, view: &View) -> Self {
        let ways: Vec<Option<Fit>> = ways(&request, view).into_iter().map(|way| way.fit).collect();
        let shapes = 0..view.shapes().list().len();
        let least = shapes.filter_map(|shape| {
            let of_ways = ways.iter().filter_map(|fit| least(&request, fit.as_ref(), shape));
            Some((shape, of_ways.reduce(lesser)?))
        });
        Self { least: least.collect(), request, ways }
    }

    fn are_met_on(&self, entry: &Entry) -> bool {
        let request = &self.request;
        barred(request, entry).is_none()
            && self.ways.iter().any(|fit| has_room(request, entry, fit.as_ref()))
    }
}

impl<K: Copy + Ord> Blocks<K> {
    fn insert(&mut self, member: (Amounts, K)) {
        let Self(blocks) = self;
        let at = blocks.partition_point(|block| block.first() <= Some(&member)).saturating_sub(1);
        let Some(block) = blocks.get_mut(at) else {
            blocks.push(Block { least: member.0, members: vec![member] });
            return;
        };
        let place = block.members.partition_point(|other| *other < member);
        block.members.insert(place, member);
        block.least = lesser(block.least, member.0);
        if block.members.len() > BLOCK {
            let upper = Block::new(block.members.split_off(BLOCK / 2));
            block.settle();
            blocks.insert(at + 1, upper);
        }
    }

    fn remove(&mut self, member: (Amounts, K)) {
        let Self(blocks) = self;
        let at = blocks.partition_point(|block| block.first() <= Some(&member)).saturating_sub(1);
        let Some(block) = blocks.get_mut(at) else { return };
        let Ok(place) = block.members.binary_search(&member) else { return };
        block.members.remove(place);
        if block.members.is_empty() {
            blocks.remove(at);
        } else {
            block.settle();
        }
    }

    /// Those that take no more than there is, as far as amounts tell.
    fn within<'a>(&'a self, there: &'a Amounts) -> impl Iterator<Item = K> + 'a {
        // The first amount orders the blocks before all others: beyond what there is of it, none
        // is within.
        let end = self.0.partition_point(|block| block.least[0] <= there[0]);
        let blocks = self.0[..end].iter().filter(|block| is_within(&block.least, there));
        let members = blocks.flat_map(|block| &block.members);
        members.filter(|(least, _)| is_within(least, there)).map(|(_, key)| *key)
    }
}

impl<K: Copy + Ord> Block<K> {
    fn new(members: Vec<(Amounts, K)>) -> Self {
        let mut block = Self { least: Amounts::default(), members };
        block.settle();
        block
    }

    fn first(&self) -> Option<&(Amounts, K)> {
        self.members.first()
    }

    fn settle(&mut self) {
        let amounts = self.members.iter().map(|(least, _)| *least);
        self.least = amounts.reduce(lesser).unwrap_or_default();
    }
}

/// What `request` takes at least of a node of a shape; `None` where such a node never holds it.
fn least(request: &Request, fit: Option<&Fit>, shape: usize) -> Option<Amounts> {
    let mut amounts = [0, 0, 0, 0, request.cpu.0, request.memory.0, 0, 0];
    let Some(fit) = fit else { return Some(amounts) };
    let fit = fit.on_shape(shape)?;
    for (at, part) in fit.parts.iter().enumerate() {
        let [memory, compute] = least_of_part(fit, at)?;
        amounts[0] += u64::from(matches!(part, Part::Whole));
        amounts[1] += 1;
        amounts[2] = amounts[2].max(memory);
        amounts[3] = amounts[3].max(compute);
        amounts[6] += memory;
        amounts[7] += compute;
    }
    Some(amounts)
}

/// The least memory and compute a part takes, over the kinds of device it may lie on.
fn least_of_part(fit: &ShapeFit, part: usize) -> Option<[u64; 2]> {
    let kinds = (0..fit.kinds()).map(|kind| fit.want(part, kind)).filter(|want| want.allowed);
    let takes = kinds.map(|want| [want.demand.memory.0, u64::from(want.demand.compute.0)]);
    takes.reduce(|[memory, compute], other| [memory.min(other[0]), compute.min(other[1])])
}

/// What a node has for a request: the counterpart of [`least`].
fn room(entry: &Entry) -> Amounts {
    let mut there = [0, 0, 0, 0, entry.node.cpu_free.0, entry.node.memory_free.0, 0, 0];
    for slot in entry.slots.iter().filter(|slot| slot.open) {
        let (memory, compute) = (slot.free.memory.0, u64::from(slot.free.compute.0));
        there[0] += u64::from(slot.empty);
        there[1] += 1;
        there[2] = there[2].max(memory);
        there[3] = there[3].max(compute);
        there[6] += memory;
        there[7] += compute;
    }
    there
}

fn is_within(least: &Amounts, there: &Amounts) -> bool {
    least.iter().zip(there).all(|(least, there)| least <= there)
}

fn lesser(one: Amounts, other: Amounts) -> Amounts {
    std::array::from_fn(|at| one[at].min(other[at]))
}
