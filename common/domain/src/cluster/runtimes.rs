//! Which nodes can run what, by the few kinds of runtime a cluster has instead of node by node.

use crate::ids::NodeName;
use crate::node::{Node, RuntimeFacts};
use crate::session::SessionSpec;
use std::collections::{BTreeMap, BTreeSet};

/// What of a runtime decides whether a session can run there: its kind, and where it may mount from.
type Class = (String, Vec<String>);

/// All nodes by the class of their runtime.
#[derive(Debug, Default)]
pub(super) struct Runtimes(BTreeMap<Class, Members>);

/// The nodes of one class.
#[derive(Debug)]
struct Members {
    /// Only what the class says is filled in.
    runtime: RuntimeFacts,
    nodes: BTreeSet<NodeName>,
}

impl Runtimes {
    pub(super) fn insert(&mut self, node: &Node) {
        let (kind, allowed_mounts) = class(node);
        let members = self.0.entry(class(node)).or_insert_with(|| Members {
            runtime: RuntimeFacts { kind, allowed_mounts, ..RuntimeFacts::default() },
            nodes: BTreeSet::new(),
        });
        members.nodes.insert(node.name.clone());
    }

    pub(super) fn remove(&mut self, node: &Node) {
        let class = class(node);
        let Some(members) = self.0.get_mut(&class) else { return };
        members.nodes.remove(&node.name);
        if members.nodes.is_empty() {
            self.0.remove(&class);
        }
    }

    /// Nodes whose runtime cannot run `spec`.
    pub(super) fn unable(&self, spec: &SessionSpec) -> BTreeSet<NodeName> {
        let unable = self.0.values().filter(|members| {
            needs_image(&members.runtime, spec)
                || needs_command(&members.runtime, spec)
                || spec.mounts.iter().any(|mount| !members.runtime.allows_mount(&mount.source))
        });
        unable.flat_map(|members| members.nodes.iter().cloned()).collect()
    }

    /// One of each kind of runtime `spec` may go to.
    pub(super) fn open_to(&self, spec: &SessionSpec) -> Vec<&RuntimeFacts> {
        let named =
            |members: &&Members| spec.node.as_ref().is_none_or(|name| members.nodes.contains(name));
        self.0.values().filter(named).map(|members| &members.runtime).collect()
    }
}

/// Whether a node still runs what it could run before.
pub(super) fn runs_the_same(before: &Node, now: &Node) -> bool {
    class(before) == class(now)
}

fn class(node: &Node) -> Class {
    let runtime = &node.inventory.runtime;
    (runtime.kind.clone(), runtime.allowed_mounts.clone())
}

pub(super) fn needs_image(runtime: &RuntimeFacts, spec: &SessionSpec) -> bool {
    spec.image.is_empty() && runtime.kind == "docker"
}

pub(super) fn needs_command(runtime: &RuntimeFacts, spec: &SessionSpec) -> bool {
    spec.command.is_empty() && spec.entrypoint.is_empty() && runtime.kind == "process"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Cordon, Inventory};
    use crate::session::{Mount, Resources};
    use crate::time::UnixMillis;
    use crate::units::{CpuMilli, MemoryBytes};

    fn node(name: &str, kind: &str, mounts: &[&str]) -> Node {
        let allowed_mounts = mounts.iter().map(|&mount| mount.to_owned()).collect();
        Node {
            name: name.parse().unwrap(),
            agent_id: String::new(),
            inventory: Inventory {
                address: String::new(),
                agent_version: String::new(),
                cpu: CpuMilli::cores(1),
                memory: MemoryBytes::gib(1),
                devices: Vec::new(),
                runtime: RuntimeFacts { kind: kind.into(), allowed_mounts, ..Default::default() },
                labels: BTreeMap::new(),
                condition: String::new(),
            },
            labels: BTreeMap::new(),
            cordon: Cordon::Open,
            cordoned_devices: BTreeSet::new(),
            registered_at: UnixMillis(0),
        }
    }

    fn unable(runtimes: &Runtimes, spec: &SessionSpec) -> String {
        let names: Vec<_> = runtimes.unable(spec).iter().map(ToString::to_string).collect();
        names.join(" ")
    }

    #[test]
    fn nodes_that_cannot_run_a_session_are_found_by_their_runtime() {
        let mut runtimes = Runtimes::default();
        let nodes = [node("d1", "docker", &["/data"]), node("p1", "process", &[])];
        nodes.iter().for_each(|node| runtimes.insert(node));
        let resources =
            Resources { gpu: None, cpu: CpuMilli(1), memory: MemoryBytes(1), shm: None };
        let mut spec = SessionSpec::new(Vec::new(), resources);
        assert_eq!(unable(&runtimes, &spec), "d1 p1", "neither image nor command");
        spec.image = "image".into();
        assert_eq!(unable(&runtimes, &spec), "p1", "no command");
        spec.command = vec!["true".into()];
        assert_eq!(unable(&runtimes, &spec), "");
        let (source, target) = ("/data/x".to_owned(), "/x".to_owned());
        spec.mounts.push(Mount { source, target, read_only: true });
        assert_eq!(unable(&runtimes, &spec), "p1", "it allows no mount");

        runtimes.remove(&nodes[1]);
        assert_eq!(unable(&runtimes, &spec), "");
        assert_eq!(runtimes.open_to(&spec).len(), 1);
    }
}
