//! Reads a replay line by line and refuses what the format does not allow.

use crate::error::SimulateError;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::BufRead;

/// The version of the format that is read.
const VERSION: u64 = 1;
/// A whole GPU.
pub(crate) const GPU_MILLI: u64 = 1000;

/// The first line. Fields that only describe the replay are not kept.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Header {
    version: u64,
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) nodes: Option<u64>,
    pub(crate) pods: Option<u64>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeLine {
    pub(crate) name: String,
    pub(crate) cpu_milli: u64,
    pub(crate) memory_mib: u64,
    #[serde(default)]
    pub(crate) num_gpu: u32,
    pub(crate) gpu_model: Option<String>,
}

/// A kind of pod the cluster usually sees, and how often it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClassLine {
    pub(crate) cpu_milli: u64,
    pub(crate) num_gpu: u32,
    /// Of each GPU.
    #[serde(default)]
    pub(crate) gpu_milli: u64,
    #[serde(default)]
    pub(crate) gpu_spec: Vec<String>,
    /// How many pods of the original trace were of this kind.
    pub(crate) weight: u64,
}

/// A pod that arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodLine {
    pub(crate) name: String,
    pub(crate) cpu_milli: u64,
    pub(crate) memory_mib: u64,
    #[serde(default)]
    pub(crate) num_gpu: u32,
    /// Of each GPU.
    #[serde(default)]
    pub(crate) gpu_milli: u64,
    #[serde(default)]
    pub(crate) gpu_spec: Vec<String>,
}

/// A line that the simulation acts on.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    Header(Header),
    Node(NodeLine),
    Class(ClassLine),
    Pod(PodLine),
}

#[derive(Deserialize)]
struct Tagged {
    kind: String,
}

/// Where in the fixed order of kinds the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Start,
    Nodes,
    Classes,
    Pods,
}

/// Reads a replay; what it hands out obeys the format.
pub(crate) struct Reader<R> {
    input: R,
    line: u64,
    text: String,
    stage: Stage,
    said: (Option<u64>, Option<u64>),
    nodes: HashSet<String>,
    pods: HashSet<String>,
}

impl PodLine {
    /// GPU asked for over all devices, thousandths of a GPU.
    pub(crate) fn gpu_demand(&self) -> u64 {
        u64::from(self.num_gpu) * self.gpu_milli
    }
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        let (nodes, pods) = (HashSet::new(), HashSet::new());
        let said = (None, None);
        Self { input, line: 0, text: String::new(), stage: Stage::Start, said, nodes, pods }
    }

    /// The number of the line handed out last, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// The next line to act on; `None` at the end. Empty lines are passed over.
    pub(crate) fn next_line(&mut self) -> Result<Option<Line>, SimulateError> {
        loop {
            self.text.clear();
            self.line += 1;
            let line = self.line;
            let read = self.input.read_line(&mut self.text);
            if read.map_err(|source| SimulateError::Read { line, source })? == 0 {
                return if self.stage == Stage::Start {
                    Err(SimulateError::Empty)
                } else {
                    Ok(None)
                };
            }
            if self.text.trim().is_empty() {
                continue;
            }
            return self.parse().map(Some);
        }
    }

    /// Whether as many nodes and pods came as the first line says.
    ///
    /// # Errors
    /// [`SimulateError::Count`].
    pub(crate) fn check_counts(&self) -> Result<(), SimulateError> {
        self.check_nodes()?;
        check_count("pod", self.said.1, self.pods.len())
    }

    fn check_nodes(&self) -> Result<(), SimulateError> {
        check_count("node", self.said.0, self.nodes.len())
    }

    fn parse(&mut self) -> Result<Line, SimulateError> {
        let tagged: Tagged = self.json("replay")?;
        match tagged.kind.as_str() {
            "replay" => self.header(),
            "node" => self.node(),
            "class" => {
                self.advance(Stage::Classes, "class")?;
                self.json("class").map(Line::Class)
            }
            "pod" => self.pod(),
            _ => Err(SimulateError::UnknownKind { line: self.line, kind: tagged.kind }),
        }
    }

    fn header(&mut self) -> Result<Line, SimulateError> {
        if self.stage != Stage::Start {
            return Err(SimulateError::Order { line: self.line, kind: "replay" });
        }
        let header: Header = self.json("replay")?;
        if header.version != VERSION {
            let (line, version) = (self.line, header.version);
            return Err(SimulateError::UnknownVersion { line, version, known: VERSION });
        }
        self.stage = Stage::Nodes;
        self.said = (header.nodes, header.pods);
        Ok(Line::Header(header))
    }

    fn node(&mut self) -> Result<Line, SimulateError> {
        self.advance(Stage::Nodes, "node")?;
        let node: NodeLine = self.json("node")?;
        if !self.nodes.insert(node.name.clone()) {
            return Err(SimulateError::Duplicate {
                line: self.line,
                what: "node",
                name: node.name,
            });
        }
        Ok(Line::Node(node))
    }

    fn pod(&mut self) -> Result<Line, SimulateError> {
        self.advance(Stage::Pods, "pod")?;
        let pod: PodLine = self.json("pod")?;
        let rule = match (pod.num_gpu, pod.gpu_milli) {
            (0, 0) | (1.., 1..=GPU_MILLI) => None,
            (0, _) => Some("without a GPU it must be 0"),
            (1.., _) => Some("it must be 1 to 1000"),
        };
        if let Some(rule) = rule {
            let (line, gpus, milli) = (self.line, pod.num_gpu, pod.gpu_milli);
            return Err(SimulateError::PodGpu { line, pod: pod.name, gpus, milli, rule });
        }
        if !self.pods.insert(pod.name.clone()) {
            return Err(SimulateError::Duplicate { line: self.line, what: "pod", name: pod.name });
        }
        Ok(Line::Pod(pod))
    }

    /// Moves on to `stage`, unless the line stands before its turn or after it.
    fn advance(&mut self, stage: Stage, kind: &'static str) -> Result<(), SimulateError> {
        if self.stage == Stage::Start || self.stage > stage {
            return Err(SimulateError::Order { line: self.line, kind });
        }
        if self.stage == Stage::Nodes && stage > Stage::Nodes {
            self.check_nodes()?;
        }
        self.stage = stage;
        Ok(())
    }

    fn json<'a, T: Deserialize<'a>>(&'a self, what: &'static str) -> Result<T, SimulateError> {
        let line = self.line;
        serde_json::from_str(&self.text).map_err(|source| SimulateError::Json {
            line,
            what,
            source,
        })
    }
}

fn check_count(what: &'static str, said: Option<u64>, found: usize) -> Result<(), SimulateError> {
    let found = u64::try_from(found).unwrap_or(u64::MAX);
    match said {
        Some(said) if said != found => Err(SimulateError::Count { what, said, found }),
        _ => Ok(()),
    }
}
