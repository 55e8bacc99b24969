//! In which part of each level of the topology every node lies.

use super::{GangRequest, Spread};
use crate::placement::NodeView;
use std::collections::HashMap;

/// The parts of some nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Topology {
    levels: Vec<Level>,
    apart: Level,
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
    pub(super) fn new(nodes: &[&NodeView], gang: &GangRequest) -> Self {
        let apart = match &gang.spread {
            Spread::Label(label) => Level::new(nodes, label),
            Spread::Pack | Spread::Nodes => Level::default(),
        };
        let levels = gang.topology.iter().map(|label| Level::new(nodes, label)).collect();
        Self { levels, apart }
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
