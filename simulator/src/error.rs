//! Why a replay cannot be simulated.

use fgpu_domain::cluster::Refusal;
use fgpu_domain::ids::IdError;
use fgpu_domain::placement::ViewError;
use std::io;
use std::path::PathBuf;

/// Why a simulation stopped. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The replay could not be opened.
    #[error("could not open the replay {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The replay could not be read on.
    #[error("line {line}: could not be read")]
    Read {
        /// Where.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// A line is no JSON object, or a field is missing or of the wrong type.
    #[error("line {line}: not a {what} line")]
    Json {
        /// Where.
        line: u64,
        /// What was expected.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A kind of line this reader does not know.
    #[error(
        "line {line}: unknown kind `{kind}`: use replay, node, class or pod, and project from \
         version 2 on"
    )]
    UnknownKind {
        /// Where.
        line: u64,
        /// The kind.
        kind: String,
    },
    /// A version of the format this reader does not know.
    #[error("line {line}: version {version} of the format is unknown, this reader knows 1 and 2")]
    UnknownVersion {
        /// Where.
        line: u64,
        /// The version.
        version: u64,
    },
    /// A replay with time where nothing can wait.
    #[error("a replay of version 2 has time and cannot be answered pod by pod: use `--trace`")]
    Timed,
    /// Lines are out of order.
    #[error(
        "line {line}: a {kind} line cannot stand here: the order is replay, node, project, class, pod"
    )]
    Order {
        /// Where.
        line: u64,
        /// The kind of the line.
        kind: &'static str,
    },
    /// The file has no `replay` line.
    #[error("the replay is empty: it must begin with a line of kind `replay`")]
    Empty,
    /// A name is used twice.
    #[error("line {line}: the {what} {name} was there before")]
    Duplicate {
        /// Where.
        line: u64,
        /// Node, project or pod.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A pod or project is not as the format wants it.
    #[error("line {line}: {name}: {rule}")]
    Rule {
        /// Where.
        line: u64,
        /// The pod or project.
        name: String,
        /// What is wrong, and what to do.
        rule: String,
    },
    /// A pod asks for something the format does not allow.
    #[error("line {line}: pod {pod} asks for {milli} milli of each of {gpus} GPUs: {rule}")]
    PodGpu {
        /// Where.
        line: u64,
        /// The pod.
        pod: String,
        /// GPUs.
        gpus: u32,
        /// Of each.
        milli: u64,
        /// What is allowed.
        rule: &'static str,
    },
    /// There are more or fewer lines than the first one says.
    #[error("the replay says {said} {what} lines, {found} are there: is the file cut off?")]
    Count {
        /// Node, project or pod.
        what: &'static str,
        /// What the `replay` line says.
        said: u64,
        /// What is there.
        found: u64,
    },
    /// No node has a GPU, so there is nothing to measure.
    #[error("no node of the replay has a GPU")]
    NoGpu,
    /// A node cannot be represented.
    #[error("line {line}: node {node} cannot be simulated")]
    Node {
        /// Where.
        line: u64,
        /// The node.
        node: String,
        /// Why.
        source: Box<ViewError>,
    },
    /// A placement that the cluster refuses: the placement code is wrong.
    #[error("pod {pod} was placed where it does not fit")]
    Refused {
        /// The pod.
        pod: String,
        /// Why.
        source: Box<ViewError>,
    },
    /// A pod that the cluster does not take back: the placement code is wrong.
    #[error("what a pod had taken could not be given back")]
    GiveBack {
        /// Why.
        source: Box<ViewError>,
    },
    /// A name made here for a node or device is not valid.
    #[error("line {line}: no name for node {node}")]
    Name {
        /// Where.
        line: u64,
        /// The node.
        node: String,
        /// Why.
        source: IdError,
    },
    /// A project with a name that the domain does not accept.
    #[error("project {project} cannot be simulated")]
    ProjectName {
        /// The project.
        project: String,
        /// Why.
        source: IdError,
    },
    /// A pod with a user, project or class that the domain does not accept.
    #[error("pod {pod} cannot be simulated")]
    PodName {
        /// The pod.
        pod: String,
        /// Why.
        source: IdError,
    },
    /// An input that the cluster refuses: the simulation is wrong, or two nodes clash.
    #[error("the simulated cluster refused what its agents said")]
    Input {
        /// Why.
        source: Box<Refusal>,
    },
    /// What a replay with time has no use for.
    #[error("{flag} is for replays without time, and this one is of version 2")]
    OnlyWithoutTime {
        /// The flag.
        flag: &'static str,
    },
    /// A plot of something without time.
    #[error(
        "a replay of version 1 has no time, so there is nothing to plot: see `fgpu simulate generate --timed`"
    )]
    NoTime,
    /// The report, an answer or the placement log could not be written.
    #[error("could not write {what}")]
    Write {
        /// The report, an answer, or the path of the log.
        what: String,
        /// Why.
        source: io::Error,
    },
}
