//! The labels that tie a container to its owner, its session and its order.

use std::collections::BTreeMap;

/// Labels of a container, sorted by name.
pub type Labels = BTreeMap<String, String>;

/// Label with the id of the cluster a container belongs to.
pub const LABEL_CLUSTER: &str = "io.fgpu.cluster";
/// Label with the id of the node a container belongs to.
pub const LABEL_NODE: &str = "io.fgpu.node";
/// Label with the session a container runs.
pub const LABEL_SESSION: &str = "io.fgpu.session";
/// Label with the generation of the order that made a container.
pub const LABEL_GENERATION: &str = "io.fgpu.generation";

/// Who a container belongs to: one node of one cluster.
///
/// Two nodes, or two clusters, may share an engine: neither sees the containers of the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Id of the cluster.
    pub cluster: String,
    /// Id of the node.
    pub node: String,
}

impl Owner {
    /// Says whether `labels` carry both ids of this owner.
    pub fn owns(&self, labels: &Labels) -> bool {
        labels.get(LABEL_CLUSTER) == Some(&self.cluster)
            && labels.get(LABEL_NODE) == Some(&self.node)
    }

    /// The labels a container is made with: `labels`, then ours over them, so that nobody can
    /// claim another owner or another session.
    pub fn stamp(&self, labels: &Labels, session: &str) -> Labels {
        let mut stamped = labels.clone();
        stamped.insert(LABEL_CLUSTER.to_owned(), self.cluster.clone());
        stamped.insert(LABEL_NODE.to_owned(), self.node.clone());
        stamped.insert(LABEL_SESSION.to_owned(), session.to_owned());
        stamped
    }

    /// The filters `label=value` that select the containers of this owner.
    pub(crate) fn filters(&self) -> Vec<String> {
        vec![format!("{LABEL_CLUSTER}={}", self.cluster), format!("{LABEL_NODE}={}", self.node)]
    }
}

/// The generation `labels` name, empty where they name none.
pub fn generation_of(labels: &Labels) -> &str {
    labels.get(LABEL_GENERATION).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { cluster: "c1".to_owned(), node: "n1".to_owned() }
    }

    #[test]
    fn a_container_is_owned_only_with_both_ids() {
        let stamped = owner().stamp(&Labels::new(), "s1");
        assert!(owner().owns(&stamped));
        for label in [LABEL_CLUSTER, LABEL_NODE] {
            let mut other = stamped.clone();
            other.insert(label.to_owned(), "else".to_owned());
            assert!(!owner().owns(&other), "{label}");
            other.remove(label);
            assert!(!owner().owns(&other), "{label}");
        }
    }

    #[test]
    fn labels_of_a_spec_cannot_claim_another_owner() {
        let mut asked = Labels::new();
        asked.insert(LABEL_NODE.to_owned(), "n2".to_owned());
        asked.insert(LABEL_SESSION.to_owned(), "s2".to_owned());

        let stamped = owner().stamp(&asked, "s1");

        assert!(owner().owns(&stamped));
        assert_eq!(stamped[LABEL_SESSION], "s1");
    }
}
