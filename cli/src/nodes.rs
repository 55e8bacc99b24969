//! `fgpu node …`: look at nodes and take them out of service.

use clap::{Args, Subcommand};
use fgpu_wire::v1::{
    self, CordonNodeRequest, DrainNodeRequest, GetNodeRequest, ListNodesRequest, RemoveNodeRequest,
    SetNodeLabelsRequest, UncordonNodeRequest,
};

use crate::connect::{ConnectArgs, Link, Repeat};
use crate::devices;
use crate::failure::Failure;
use crate::output::{self, Format, ListArgs, OutputArgs, Table};
use crate::parse;
use crate::progress::Progress;
use crate::sessions;
use crate::view::{self, DeviceView, NodeView};

/// `fgpu node …`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "ls")]
    List(NodeListArgs),
    /// Show one node in full, with its devices
    Get(NodeGetArgs),
    /// Stop new sessions on a node; what runs stays
    Cordon(NodeArgs),
    /// Allow new sessions on a node again
    Uncordon(NodeArgs),
    /// Cordon a node and stop or move what runs there
    Drain(DrainArgs),
    /// Set and remove labels
    Label(LabelArgs),
    /// Forget a node that is lost and holds nothing
    Rm(NodeArgs),
}

/// `fgpu node list`
#[derive(Debug, Args)]
pub(crate) struct NodeListArgs {
    /// Only those with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::pair)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu node get`
#[derive(Debug, Args)]
pub(crate) struct NodeGetArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Verbs that take one node.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu node drain`
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    name: String,
    /// Return as soon as the drain has begun
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu node label`
#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    name: String,
    /// `KEY=VALUE` sets a label, `KEY-` removes it
    #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = label)]
    labels: Vec<LabelChange>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// One change of the labels of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelChange {
    Set(String, String),
    Remove(String),
}

fn label(text: &str) -> Result<LabelChange, String> {
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() && !key.contains('=') => {
            Ok(LabelChange::Remove(key.to_owned()))
        }
        _ => parse::pair(text)
            .map(|(key, value)| LabelChange::Set(key, value))
            .map_err(|error| format!("{error}, or `KEY-` to remove it")),
    }
}

/// Runs `fgpu node …`.
pub(crate) async fn run(command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List(args) => list(args).await,
        NodeCommand::Get(args) => get(args).await,
        NodeCommand::Cordon(args) => {
            let request = CordonNodeRequest { name: args.name };
            let link = args.connect.link()?;
            let node = link
                .call(Repeat::Safe, async |c| c.nodes().cordon_node(request.clone()).await)
                .await?;
            output::say(format!("node {} takes no new sessions", node.name));
            Ok(())
        }
        NodeCommand::Uncordon(args) => {
            let request = UncordonNodeRequest { name: args.name };
            let link = args.connect.link()?;
            let node = link
                .call(Repeat::Safe, async |c| c.nodes().uncordon_node(request.clone()).await)
                .await?;
            output::say(format!("node {} takes new sessions again", node.name));
            Ok(())
        }
        NodeCommand::Drain(args) => drain(args).await,
        NodeCommand::Label(args) => set_labels(args).await,
        NodeCommand::Rm(args) => {
            let request = RemoveNodeRequest { name: args.name };
            let link = args.connect.link()?;
            let removed = link
                .call(Repeat::Never, async |c| c.nodes().remove_node(request.clone()).await)
                .await?;
            output::line(removed.name)
        }
    }
}

async fn list(args: NodeListArgs) -> Result<(), Failure> {
    let labels = args.labels.into_iter().collect();
    let nodes = fetch(&args.connect.link()?, ListNodesRequest { labels }).await?;
    let views: Vec<_> = nodes.into_iter().map(NodeView::from).collect();
    let now_ms = output::now_ms();
    args.list.print(&views, |view| view.name.clone(), |views| table(views, now_ms))
}

/// The nodes the manager knows.
pub(crate) async fn fetch(
    link: &Link,
    request: ListNodesRequest,
) -> Result<Vec<v1::Node>, Failure> {
    let answer =
        link.call(Repeat::Safe, async |c| c.nodes().list_nodes(request.clone()).await).await?;
    Ok(answer.nodes)
}

/// The nodes for people.
pub(crate) fn table(nodes: &[NodeView], now_ms: u64) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "DEVICES",
        "FREE FGPU",
        "CPU",
        "MEMORY",
        "SESSIONS",
        "RUNTIME",
        "ISOLATION",
        "SEEN",
    ]);
    for node in nodes {
        let free: u64 = cards(node).map(|device| device.free_fgpu_milli).sum();
        let all: u64 = cards(node).map(|device| device.capacity_fgpu_milli).sum();
        table.row([
            node.name.clone(),
            state(node),
            models(node),
            format!("{} of {}", number(free), number(all)),
            format!(
                "{} of {}",
                cores(node.cpu_milli.saturating_sub(node.cpu_allocated_milli)),
                cores(node.cpu_milli)
            ),
            format!(
                "{} of {}",
                view::gib(node.memory_bytes.saturating_sub(node.memory_allocated_bytes)),
                view::gib(node.memory_bytes)
            ),
            node.sessions.to_string(),
            node.runtime.kind.clone(),
            levels(node),
            match node.last_seen_ms {
                Some(at) => format!("{} ago", output::age_of(at, now_ms)),
                None => "never".to_owned(),
            },
        ]);
    }
    table
}

fn number(milli: u64) -> String {
    fgpu_domain::units::Fgpu(milli).to_string()
}

fn cores(milli: u64) -> String {
    fgpu_domain::units::CpuMilli(milli).to_string()
}

fn state(node: &NodeView) -> String {
    let state = node.state.clone().unwrap_or_else(|| "unknown".to_owned());
    match &node.condition {
        Some(condition) => format!("{state}: {condition}"),
        None => state,
    }
}

/// Devices, without their MIG instances, which are parts of them.
fn cards(node: &NodeView) -> impl Iterator<Item = &DeviceView> {
    node.devices.iter().filter(|device| device.mig_card.is_none())
}

/// `8 x H100-80GB (simulated)`
fn models(node: &NodeView) -> String {
    let mut counts: Vec<(String, u32)> = Vec::new();
    for device in cards(node) {
        let simulated = if device.simulated { " (simulated)" } else { "" };
        let model = format!("{}{simulated}", device.model);
        match counts.iter_mut().find(|(known, _)| *known == model) {
            Some((_, count)) => *count += 1,
            None => counts.push((model, 1)),
        }
    }
    let texts: Vec<_> =
        counts.into_iter().map(|(model, count)| format!("{count} x {model}")).collect();
    texts.join(", ")
}

/// What enforces a part of a device here; `shared` where nothing does.
fn levels(node: &NodeView) -> String {
    let shared = node.runtime.allow_shared.then(|| "shared".to_owned());
    let instances = node.devices.iter().any(|device| device.mig_card.is_some());
    let mig = instances.then(|| "mig".to_owned());
    let all: Vec<_> =
        mig.into_iter().chain(node.runtime.enforcers.iter().cloned()).chain(shared).collect();
    if all.is_empty() { "whole".to_owned() } else { all.join(", ") }
}

async fn get(args: NodeGetArgs) -> Result<(), Failure> {
    let request = GetNodeRequest { name: args.name };
    let link = args.connect.link()?;
    let node = link.call(Repeat::Safe, async |c| c.nodes().get_node(request.clone()).await).await?;
    let view = NodeView::from(node);
    match args.output.output {
        Format::Json => output::json(&view),
        Format::Table => output::text(detail(&view, output::now_ms())),
    }
}

fn detail(node: &NodeView, now_ms: u64) -> String {
    let runtime = &node.runtime;
    let free_cpu = node.cpu_milli.saturating_sub(node.cpu_allocated_milli);
    let free_memory = node.memory_bytes.saturating_sub(node.memory_allocated_bytes);
    let seen = node.last_seen_ms.map(|at| format!("{} ago", output::age_of(at, now_ms)));
    let accelerator = format!("{} {}", runtime.accelerator, runtime.driver_version);
    let text = output::fields(&[
        ("name", node.name.clone()),
        ("state", state(node)),
        ("seen", seen.unwrap_or_else(|| "never".to_owned())),
        ("address", node.address.clone()),
        ("agent", node.agent_version.clone()),
        ("system", format!("{}, {}", runtime.os, runtime.kernel)),
        ("runtime", format!("{} {}", runtime.kind, runtime.version).trim().to_owned()),
        ("images", node.images.join("\n")),
        ("cgroups", format!("{} {}", runtime.cgroup_version, runtime.cgroup_driver)),
        ("accelerator", accelerator.trim().to_owned()),
        ("gpu attach", runtime.gpu_attach.clone()),
        ("isolation", levels(node)),
        ("allowed mounts", runtime.allowed_mounts.join(", ")),
        ("labels", sessions::pairs(&node.labels)),
        ("cpu", format!("{} of {} cores free", cores(free_cpu), cores(node.cpu_milli))),
        ("memory", format!("{} of {} free", view::gib(free_memory), view::gib(node.memory_bytes))),
        ("sessions", node.sessions.to_string()),
    ]);
    match node.devices.is_empty() {
        true => text,
        false => format!("{text}\n{}", devices::table(&node.devices).render()),
    }
}

async fn drain(args: DrainArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let request = DrainNodeRequest { name: args.name.clone() };
    let mut node =
        link.call(Repeat::Safe, async |c| c.nodes().drain_node(request.clone()).await).await?;
    let mut progress = Progress::new(false);
    while !args.no_wait && node.sessions > 0 {
        let (name, left) = (&node.name, node.sessions);
        progress.state(&format!("draining node {name}: {left} sessions left"));
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let request = GetNodeRequest { name: args.name.clone() };
        node = link.call(Repeat::Safe, async |c| c.nodes().get_node(request.clone()).await).await?;
    }
    progress.clear();
    let left = node.sessions;
    output::say(match left {
        0 => format!("node {} is drained: nothing runs there, nothing new will", node.name),
        _ => format!("node {} is draining: {left} sessions left", node.name),
    });
    Ok(())
}

async fn set_labels(args: LabelArgs) -> Result<(), Failure> {
    let mut request = SetNodeLabelsRequest { name: args.name, ..SetNodeLabelsRequest::default() };
    for change in args.labels {
        match change {
            LabelChange::Set(key, value) => drop(request.set.insert(key, value)),
            LabelChange::Remove(key) => request.remove.push(key),
        }
    }
    let link = args.connect.link()?;
    let node =
        link.call(Repeat::Safe, async |c| c.nodes().set_node_labels(request.clone()).await).await?;
    output::say(format!("node {}: {}", node.name, sessions::pairs(&node.labels)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeView {
        let device = v1::Device {
            info: Some(v1::DeviceInfo {
                uuid: "SIM-1".into(),
                model: "H100-80GB".into(),
                memory_bytes: 80 << 30,
                simulated: true,
                ..v1::DeviceInfo::default()
            }),
            capacity_fgpu_milli: 10_000,
            allocatable_fgpu_milli: 7_500,
            ..v1::Device::default()
        };
        v1::Node {
            name: "a1".into(),
            state: v1::NodeState::Ready.into(),
            cpu_milli: 8_000,
            cpu_allocated_milli: 500,
            memory_bytes: 16 << 30,
            devices: vec![device.clone(), device],
            last_seen_ms: 1_000,
            runtime: Some(v1::NodeRuntime {
                kind: "process".into(),
                allow_shared: true,
                ..v1::NodeRuntime::default()
            }),
            ..v1::Node::default()
        }
        .into()
    }

    #[test]
    fn the_list_says_what_is_free_and_what_is_simulated() {
        assert_eq!(
            table(&[node()], 3_000).render(),
            "NAME  STATE  DEVICES                    FREE FGPU  CPU       MEMORY            SESSIONS  RUNTIME  ISOLATION  SEEN\n\
             a1    ready  2 x H100-80GB (simulated)  15 of 20   7.5 of 8  16 GiB of 16 GiB  0         process  shared     2s ago\n"
        );
    }

    #[test]
    fn instances_are_told_by_their_level_and_not_counted_beside_their_card() {
        let mut node = node();
        let mut instance = node.devices[0].clone();
        instance.mig_card = Some("SIM-1".to_owned());
        node.devices.push(instance);

        let listed = table(&[node], 3_000).render();

        assert!(listed.contains("2 x H100-80GB") && listed.contains("15 of 20"), "{listed}");
        assert!(listed.contains("mig, shared"), "{listed}");
    }

    #[test]
    fn a_label_is_set_or_removed() {
        assert_eq!(label("a=b"), Ok(LabelChange::Set("a".into(), "b".into())));
        assert_eq!(label("a-"), Ok(LabelChange::Remove("a".into())));
        assert_eq!(label("a=b-"), Ok(LabelChange::Set("a".into(), "b-".into())));
        assert!(label("a").is_err() && label("-").is_err());
    }
}
