//! Nodes.

use super::{Caller, errors, map};
use crate::engine::Snapshot;
use fgpu_domain::cluster::{Applied, Input, Trouble};
use fgpu_domain::ids::{IdError, NodeName};
use fgpu_domain::node::Cordon;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use fgpu_wire::v1::node_service_server::NodeService;
use std::collections::{BTreeMap, HashMap};
use tonic::{Request, Response, Status};

pub(super) struct Nodes;

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn get_node(
        &self,
        request: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let caller = Caller::of(&request)?;
        let name = node_name(&request.into_inner().name)?;
        let mut node = one(&caller, &caller.term.engine.snapshot(), &name)?;
        let known = caller.term.engine.read(move |cluster| {
            let images = cluster.view().images_of(&name).iter().map(ToString::to_string);
            (cluster.trouble(&name).map(ToString::to_string), images.collect::<Vec<_>>())
        });
        // Without the engine what is known beside the records is left out.
        let (trouble, images) = known.await.unwrap_or_default();
        node.images = images;
        node.condition = together(node.condition, trouble);
        Ok(Response::new(node))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let wanted = request.into_inner().labels;
        let snapshot = caller.term.engine.snapshot();
        let mut map = map::NodeMap::new(&caller, &snapshot);
        let matching = snapshot.nodes.values().filter(|node| {
            let labels = node.effective_labels();
            wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        let mut nodes: Vec<v1::Node> = matching.map(|node| map.node(node)).collect();
        let known = caller.term.engine.read(|cluster| {
            let text =
                |(name, trouble): (&NodeName, &Trouble)| (name.to_string(), trouble.to_string());
            cluster.troubles().map(text).collect::<HashMap<_, _>>()
        });
        let mut troubles = known.await.unwrap_or_default();
        for node in &mut nodes {
            node.condition =
                together(std::mem::take(&mut node.condition), troubles.remove(&node.name));
        }
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn cordon_node(
        &self,
        request: Request<v1::CordonNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let caller = Caller::of(&request)?;
        cordon(&caller, &request.into_inner().name, Cordon::Cordoned).await
    }

    async fn uncordon_node(
        &self,
        request: Request<v1::UncordonNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let caller = Caller::of(&request)?;
        cordon(&caller, &request.into_inner().name, Cordon::Open).await
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let caller = Caller::of(&request)?;
        cordon(&caller, &request.into_inner().name, Cordon::Draining).await
    }

    async fn set_node_labels(
        &self,
        request: Request<v1::SetNodeLabelsRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let caller = Caller::of(&request)?;
        let v1::SetNodeLabelsRequest { name, set, remove } = request.into_inner();
        check_labels(&set)?;
        if let Some(both) = remove.iter().find(|key| set.contains_key(*key)) {
            return Err(CallError::field("label", both, "either set or removed, not both").into());
        }
        let node = node_name(&name)?;
        change(&caller, Input::Labels { node: node.clone(), set, remove }, &node).await
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let node = node_name(&request.into_inner().name)?;
        let engine = &caller.term.engine;
        let removed = engine.submit(Input::RemoveNode { node: node.clone() }).await;
        removed.map_err(errors::from_engine)?;
        let snapshot = engine.snapshot();
        caller.term.nodes.retain(|name| snapshot.nodes.contains_key(name));
        Ok(Response::new(v1::RemoveNodeResponse { name: node.to_string() }))
    }
}

async fn cordon(caller: &Caller, name: &str, cordon: Cordon) -> Result<Response<v1::Node>, Status> {
    let node = node_name(name)?;
    change(caller, Input::Cordon { node: node.clone(), cordon }, &node).await
}

async fn change(
    caller: &Caller,
    input: Input,
    name: &NodeName,
) -> Result<Response<v1::Node>, Status> {
    let engine = &caller.term.engine;
    match engine.submit(input).await.map_err(errors::from_engine)? {
        Applied::Node(_)
        | Applied::Session { .. }
        | Applied::Group { .. }
        | Applied::Project(_)
        | Applied::Class(_)
        | Applied::Removed
        | Applied::Nothing => Ok(Response::new(one(caller, &engine.snapshot(), name)?)),
    }
}

fn one(caller: &Caller, snapshot: &Snapshot, name: &NodeName) -> Result<v1::Node, CallError> {
    let missing = || {
        CallError::new(ErrorCode::NodeNotFound, format!("there is no node `{name}`"))
            .with("node", name)
            .hint("see `fgpu node list`")
    };
    let node = snapshot.nodes.get(name).ok_or_else(missing)?;
    Ok(map::NodeMap::new(caller, snapshot).node(node))
}

/// What the agent says is wrong, and what sessions met.
fn together(condition: String, trouble: Option<String>) -> String {
    match trouble {
        Some(trouble) if condition.is_empty() => trouble,
        Some(trouble) => format!("{condition}; {trouble}"),
        None => condition,
    }
}

pub(super) fn node_name(name: &str) -> Result<NodeName, CallError> {
    name.parse().map_err(|error: IdError| CallError::field("node", &error.value, error.rule))
}

/// Labels as Kubernetes has them, so that both can carry the same.
fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), CallError> {
    let fine = |text: &str, also: &[u8]| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
    };
    for (key, value) in labels {
        if key.is_empty() || key.len() > 63 || !fine(key, b"-_./") {
            let rule = "a key is 1 to 63 letters, digits, `-`, `_`, `.` or `/`";
            return Err(CallError::field("label", key, rule));
        }
        if value.len() > 63 || !fine(value, b"-_.") {
            let rule = "a value is up to 63 letters, digits, `-`, `_` or `.`";
            return Err(CallError::field("label", format!("{key}={value}"), rule));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_outside_the_rule_are_named() {
        let check = |key: &str, value: &str| {
            check_labels(&[(key.to_owned(), value.to_owned())].into_iter().collect())
        };
        assert!(check("rack", "r1").is_ok() && check("fgpu.io/zone", "").is_ok());
        for (key, value) in [("", "x"), ("a b", "x"), ("a", "x y"), ("a", &"v".repeat(64))] {
            assert!(check(key, value).is_err(), "{key}={value}");
        }
    }
}
