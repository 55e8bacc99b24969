//! In which part of each level of the topology every node lies.

use super::{GangRequest, Spread};
use crate::placement::{LabelsOf, NodeView, View};
use std::collections::HashMap;
use std::sync::Arc;

/// The parts of some nodes.
#[derive(Debug, Clone, Default)]
pub(in crate::plans) struct Topology {
    levels: Arc<[Level]>,
    apart: Level,
}

/// What is close in a view that changes, worked out again only when labels have changed.
#[derive(Debug, Default)]
pub struct Closeness {
    of: Option<(LabelsOf, Vec<String>)>,
    levels: Arc<[Level]>,
}

impl Closeness {
    /// The nodes of `view` divided for `gang`.
    pub(super) fn of(&mut self, view: &View, nodes: &[&NodeView], gang: &GangRequest) -> Topology {
        let known =
            |(of, labels): &(LabelsOf, Vec<String>)| of.is(view) && *labels == gang.topology;
        if !self.of.as_ref().is_some_and(known) {
            self.of = Some((LabelsOf::new(view), gang.topology.clone()));
            self.levels = close(nodes, gang);
        }
        Topology { levels: self.levels.clone(), apart: apart(nodes, gang) }
    }
}

/// The nodes divided by one label.
#[derive(Debug, Clone, Default)]
pub(super) struct Level {
    /// By position of the node; one that does not carry the label is alone in its part.
    part: Vec<u32>,
    parts: usize,
    /// Whether any node carries the label: otherwise it divides nothing.
    carried: bool,
}

impl Topology {
    /// `nodes` divided by what says which are close, and by what members of `gang` are to be apart.
    pub(in crate::plans) fn new(nodes: &[&NodeView], gang: &GangRequest) -> Self {
        Self { levels: close(nodes, gang), apart: apart(nodes, gang) }
    }

    /// The levels that say what is close, the closest first.
    pub(super) fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The division by which members are to be apart.
    pub(super) fn apart(&self) -> &Level {
        &self.apart
    }
}

fn close(nodes: &[&NodeView], gang: &GangRequest) -> Arc<[Level]> {
    gang.topology.iter().map(|label| Level::new(nodes, label)).collect()
}

fn apart(nodes: &[&NodeView], gang: &GangRequest) -> Level {
    match &gang.spread {
        Spread::Label(label) => Level::new(nodes, label),
        Spread::Pack | Spread::Nodes => Level::default(),
    }
}

impl Level {
    fn new(nodes: &[&NodeView], label: &str) -> Self {
        let mut known: HashMap<&str, u32> = HashMap::new();
        let mut parts = 0;
        let mut another = || {
            parts += 1;
            parts - 1
        };
        let part = nodes.iter().map(|node| match node.labels.get(label) {
            Some(value) => *known.entry(value).or_insert_with(&mut another),
            None => another(),
        });
        let part = part.collect();
        let parts = usize::try_from(parts).unwrap_or(usize::MAX);
        Self { part, parts, carried: !known.is_empty() }
    }

    /// Whether it divides anything.
    pub(super) fn carried(&self) -> bool {
        self.carried
    }

    /// The part the node at this position is in.
    pub(super) fn part_of(&self, node: usize) -> u32 {
        self.part.get(node).copied().unwrap_or(u32::MAX)
    }

    /// Divides things by the part their node is in, in the order of their first.
    pub(super) fn divide<T: Copy>(&self, things: &[T], node: impl Fn(T) -> usize) -> Vec<Vec<T>> {
        let mut group_of: Vec<Option<usize>> = vec![None; self.parts];
        let mut groups: Vec<Vec<T>> = Vec::new();
        for thing in things {
            let part = usize::try_from(self.part_of(node(*thing))).unwrap_or(usize::MAX);
            match group_of.get(part).copied().flatten() {
                Some(group) => groups[group].push(*thing),
                None => {
                    if let Some(group) = group_of.get_mut(part) {
                        *group = Some(groups.len());
                    }
                    groups.push(vec![*thing]);
                }
            }
        }
        groups
    }
}
