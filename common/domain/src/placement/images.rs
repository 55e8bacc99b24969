//! Which nodes hold which images, as far as their agents have said.
//!
//! A hint and nothing more: among nodes in equal state one that holds the image is taken, so that
//! it never costs packing. Names are in full ([`crate::image::full_name`]) and shared by all nodes
//! that hold the image.

use super::state::StateId;
use super::view::View;
use crate::ids::NodeName;
use imbl::OrdMap;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Images remembered of one node.
pub const MOST_IMAGES: usize = 64;
/// Nodes looked at for one that holds an image.
const MOST_LOOKED_AT: usize = 256;

/// The images of one node, by full name, sorted.
pub type Held = Arc<[Arc<str>]>;

/// The images of all nodes. A clone is cheap enough to plan on.
#[derive(Debug, Clone, Default)]
pub(super) struct Images {
    by_node: OrdMap<NodeName, Held>,
    /// Positions of the nodes that hold an image.
    holders: Arc<HashMap<Arc<str>, BTreeSet<u32>>>,
}

impl Images {
    /// What each node holds.
    pub(super) fn by_node(&self) -> &OrdMap<NodeName, Held> {
        &self.by_node
    }

    fn set(&mut self, node: &NodeName, position: u32, names: impl Iterator<Item = String>) {
        self.forget(node, position);
        let holders = Arc::make_mut(&mut self.holders);
        let names: BTreeSet<String> = names.take(MOST_IMAGES).collect();
        let held: Held = names
            .into_iter()
            .map(|name| {
                let known = holders.get_key_value(name.as_str()).map(|(known, _)| known.clone());
                let name = known.unwrap_or_else(|| name.into());
                holders.entry(name.clone()).or_default().insert(position);
                name
            })
            .collect();
        if !held.is_empty() {
            self.by_node.insert(node.clone(), held);
        }
    }

    pub(super) fn forget(&mut self, node: &NodeName, position: u32) {
        let Some(held) = self.by_node.remove(node) else { return };
        let holders = Arc::make_mut(&mut self.holders);
        for name in held.iter() {
            if let Some(nodes) = holders.get_mut(name) {
                nodes.remove(&position);
                if nodes.is_empty() {
                    holders.remove(name);
                }
            }
        }
    }

    /// Works out anew where the holders are: positions have moved.
    pub(super) fn reposition(&mut self, position: impl Fn(&NodeName) -> Option<usize>) {
        if self.by_node.is_empty() {
            return;
        }
        let mut holders: HashMap<Arc<str>, BTreeSet<u32>> = HashMap::new();
        for (node, held) in &self.by_node {
            let Some(at) = position(node).and_then(|at| u32::try_from(at).ok()) else { continue };
            for name in held.iter() {
                holders.entry(name.clone()).or_default().insert(at);
            }
        }
        self.holders = Arc::new(holders);
    }
}

impl View {
    /// Notes which images a node holds, by full name; of more than [`MOST_IMAGES`] the first.
    /// Unknown nodes are left aside.
    pub fn set_images(&mut self, name: &NodeName, images: impl IntoIterator<Item = String>) {
        let Some(at) = self.position(name).ok().and_then(|at| u32::try_from(at).ok()) else {
            return;
        };
        self.images_mut().set(name, at, images.into_iter());
    }

    /// The images a node is known to hold.
    #[must_use]
    pub fn images_of(&self, name: &NodeName) -> &[Arc<str>] {
        self.images().by_node().get(name).map_or(&[], |held| held)
    }

    /// The images of all nodes that are known to hold any; a clone is cheap.
    #[must_use]
    pub fn all_images(&self) -> &OrdMap<NodeName, Held> {
        self.images().by_node()
    }

    /// Whether any node is known to hold the image of this full name.
    #[must_use]
    pub fn is_held(&self, image: &str) -> bool {
        self.images().holders.contains_key(image)
    }

    /// A node in the same state as the one at `position` that holds the image and is `allowed`;
    /// the first found, and none where the search would take long.
    pub(super) fn holder_beside(
        &self,
        position: u32,
        image: &str,
        allowed: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let holders = self.images().holders.get(image)?;
        if holders.contains(&position) {
            return Some(position);
        }
        let state_of = |at: u32| self.entries().get(at as usize).and_then(|entry| entry.state);
        let state: StateId = state_of(position)?;
        if holders.len() <= MOST_LOOKED_AT {
            return holders.iter().copied().find(|at| state_of(*at) == Some(state) && allowed(*at));
        }
        let nodes = self.states().nodes(state.shape as usize, state.at as usize);
        nodes.take(MOST_LOOKED_AT).find(|at| holders.contains(at) && allowed(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fgpu, name_of, node, place, view};
    use super::super::{Placer, Policy, Request};
    use super::*;

    fn asking(image: &str) -> Request {
        Request { image: Some(image.to_owned()), ..fgpu(1_000) }
    }

    fn hold(view: &mut View, node: &str, images: &[&str]) {
        view.set_images(&name_of(node), images.iter().map(|&image| image.to_owned()));
    }

    #[test]
    fn of_nodes_in_equal_state_one_that_holds_the_image_is_taken() {
        let mut view = view([node("a1", 1), node("b2", 1), node("c3", 1)]);
        hold(&mut view, "c3", &["x:1", "y:1"]);

        assert_eq!(place(&asking("x:1"), &view).node, name_of("c3"));
        assert_eq!(place(&asking("z:1"), &view).node, name_of("a1"), "nobody holds it");
        assert_eq!(place(&fgpu(1_000), &view).node, name_of("a1"), "it asks for none");
        let elsewhere = Request { avoid: [name_of("c3")].into(), ..asking("x:1") };
        assert_eq!(place(&elsewhere, &view).node, name_of("a1"), "what is avoided stays so");
        hold(&mut view, "c3", &["y:1"]);
        assert_eq!(place(&asking("x:1"), &view).node, name_of("a1"), "it was removed there");
    }

    #[test]
    fn an_image_never_costs_packing() {
        let mut view = view([node("a1", 2), node("b2", 2)]);
        let first = place(&fgpu(5_000), &view);
        view.allocate(&first.node, &super::super::Allocation::of(&fgpu(5_000), &first)).unwrap();
        hold(&mut view, "b2", &["x:1"]);

        let mut placer = Placer::new(Policy::BestFit, 0);
        let half = Request { image: Some("x:1".to_owned()), ..fgpu(5_000) };
        assert_eq!(placer.find(&half, &view).unwrap().grant.node, first.node);
    }

    #[test]
    fn what_is_held_follows_a_node_when_others_go() {
        let mut view = view([node("a1", 1), node("b2", 1), node("c3", 1)]);
        hold(&mut view, "c3", &["x:1"]);
        hold(&mut view, "a1", &["w:1"]);
        view.remove(&name_of("a1")).unwrap();

        assert_eq!(place(&asking("x:1"), &view).node, name_of("c3"));
        assert!(!view.is_held("w:1"));
        view.replace(node("c3", 1)).unwrap();
        assert_eq!(view.images_of(&name_of("c3")), [Arc::from("x:1")]);
        let many: Vec<String> = (0..200).map(|n| format!("{n:03}")).collect();
        view.set_images(&name_of("b2"), many);
        assert_eq!(view.images_of(&name_of("b2")).len(), MOST_IMAGES);
    }
}
