//! Reads a replay line by line and refuses what the format does not allow.

mod job;
mod lines;

pub(crate) use lines::{
    ClassLine, GPU_MILLI, Header, JobLine, NodeLine, PodLine, ProjectLine, QuotaPart,
};

use crate::error::SimulateError;
use job::JobFields;
use serde::Deserialize;
use std::collections::HashSet;
use std::io::BufRead;

/// The versions of the format that are read: without and with time.
const VERSIONS: [u64; 2] = [1, 2];

/// A line that the simulation acts on.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    Header(Header),
    Node(NodeLine),
    Project(ProjectLine),
    Class(ClassLine),
    /// Of version 1.
    Pod(PodLine),
    /// Of version 2.
    Job(Box<JobLine>),
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
    Projects,
    Classes,
    Pods,
}

/// Reads a replay; what it hands out obeys the format.
pub(crate) struct Reader<R> {
    input: R,
    line: u64,
    text: String,
    stage: Stage,
    version: u64,
    said: (Option<u64>, Option<u64>),
    nodes: HashSet<String>,
    projects: HashSet<String>,
    pods: HashSet<String>,
    /// When the last pod arrived.
    arrival_ms: u64,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            text: String::new(),
            stage: Stage::Start,
            version: 0,
            said: (None, None),
            nodes: HashSet::new(),
            projects: HashSet::new(),
            pods: HashSet::new(),
            arrival_ms: 0,
        }
    }

    /// The number of the line handed out last, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// The first line, with which every replay begins.
    pub(crate) fn header_line(&mut self) -> Result<Header, SimulateError> {
        match self.next_line()? {
            Some(Line::Header(header)) => Ok(header),
            _ => Err(SimulateError::Empty),
        }
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
            "project" if self.version != 1 => self.project(),
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
        if !VERSIONS.contains(&header.version) {
            let (line, version) = (self.line, header.version);
            return Err(SimulateError::UnknownVersion { line, version });
        }
        self.version = header.version;
        self.stage = Stage::Nodes;
        self.said = (header.nodes, header.pods);
        Ok(Line::Header(header))
    }

    fn node(&mut self) -> Result<Line, SimulateError> {
        self.advance(Stage::Nodes, "node")?;
        let node: NodeLine = self.json("node")?;
        if !self.nodes.insert(node.name.clone()) {
            return Err(self.duplicate("node", node.name));
        }
        Ok(Line::Node(node))
    }

    fn project(&mut self) -> Result<Line, SimulateError> {
        self.advance(Stage::Projects, "project")?;
        let project: ProjectLine = self.json("project")?;
        if !self.projects.insert(project.name.clone()) {
            return Err(self.duplicate("project", project.name));
        }
        if project.weight == 0 {
            let rule = "its weight is 0: it must be at least 1".to_owned();
            return Err(SimulateError::Rule { line: self.line, name: project.name, rule });
        }
        Ok(Line::Project(project))
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
            return Err(self.duplicate("pod", pod.name));
        }
        if self.version == 1 { Ok(Line::Pod(pod)) } else { self.job(pod) }
    }

    fn job(&mut self, pod: PodLine) -> Result<Line, SimulateError> {
        let fields: JobFields = self.json("pod")?;
        let (line, name) = (self.line, pod.name.clone());
        let broken = |rule| SimulateError::Rule { line, name: name.clone(), rule };
        let job = fields.job(pod, self.arrival_ms).map_err(broken)?;
        if let Some(project) = job.project.as_ref().filter(|name| !self.projects.contains(*name)) {
            return Err(broken(format!("no line of kind project has the name {project}")));
        }
        self.arrival_ms = job.arrival_ms;
        Ok(Line::Job(Box::new(job)))
    }

    fn duplicate(&self, what: &'static str, name: String) -> SimulateError {
        SimulateError::Duplicate { line: self.line, what, name }
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"kind":"replay","version":2}
{"kind":"node","name":"a","cpu_milli":1000,"memory_mib":1000,"num_gpu":1}
{"kind":"project","name":"one","weight":3,"quota":{"gpu_milli":5000},"user_quota":{"pending":2}}
"#;
    const POD: &str = r#"{"kind":"pod","name":"NAME","cpu_milli":1,"memory_mib":1,MORE}"#;

    fn pod(name: &str, more: &str) -> String {
        POD.replace("NAME", name).replace("MORE", more)
    }

    fn jobs(text: &str) -> Result<Vec<JobLine>, SimulateError> {
        let mut reader = Reader::new(text.as_bytes());
        let mut jobs = Vec::new();
        while let Some(line) = reader.next_line()? {
            if let Line::Job(job) = line {
                jobs.push(*job);
            }
        }
        Ok(jobs)
    }

    #[test]
    fn a_pod_of_version_2_has_its_times_in_milliseconds_or_seconds() {
        let first = r#""arrival_ms":1500,"duration_s":60,"time_limit_ms":70000,"priority":-5"#;
        let second = r#""class":"high","project":"one","user":"ann","size":4,"label":"x""#;
        let text = format!("{HEAD}{}\n{}\n", pod("p", first), pod("q", second));

        let jobs = jobs(&text).unwrap();

        let times = (jobs[0].arrival_ms, jobs[0].duration_ms, jobs[0].time_limit_ms);
        assert_eq!(times, (1_500, Some(60_000), Some(70_000)));
        assert_eq!((jobs[0].priority, jobs[0].size, jobs[0].held_ms()), (-5, 1, Some(60_000)));
        // One that does not say comes with the one in front of it.
        assert_eq!((jobs[1].arrival_ms, jobs[1].duration_ms), (1_500, None));
        assert_eq!((jobs[1].size, jobs[1].class.as_deref()), (4, Some("high")));
    }

    #[test]
    fn version_1_passes_over_what_only_version_2_knows() {
        let pod = pod("p", r#""arrival_ms":5,"arrival_s":"soon","size":0"#);
        let text = format!("{{\"kind\":\"replay\",\"version\":1}}\n{pod}\n");
        let mut reader = Reader::new(text.as_bytes());
        reader.next_line().unwrap();
        assert!(matches!(reader.next_line(), Ok(Some(Line::Pod(_)))));

        let project = format!("{{\"kind\":\"replay\",\"version\":1}}\n{}\n", &HEAD[30..]);
        let refused = jobs(&project).unwrap_err().to_string();
        assert!(refused.contains("unknown kind `project`"), "{refused}");
    }

    #[test]
    fn what_version_2_does_not_allow_is_refused_with_its_line() {
        let late = pod("a", r#""arrival_ms":9"#);
        let cases = [
            (pod("p", r#""arrival_ms":1,"arrival_s":1"#), "line 4: p: it has both arrival_ms and"),
            (format!("{late}\n{}", pod("p", r#""arrival_ms":8"#)), "line 5: p: it arrives at 8 ms"),
            (pod("p", r#""time_limit_s":0"#), "its time limit is 0"),
            (pod("p", r#""size":0"#), "its size is 0"),
            (pod("p", r#""project":"two""#), "no line of kind project has the name two"),
            (pod("p", r#""duration_ms":1.5"#), "line 4: not a pod line"),
            (pod("p", r#""duration_s":18446744073709551615"#), "its duration_s"),
            (r#"{"kind":"project","name":"one"}"#.to_owned(), "the project one was there before"),
            (r#"{"kind":"project","name":"two","weight":0}"#.to_owned(), "two: its weight is 0"),
            (
                r#"{"kind":"project","name":"two","quota":{"gpus":1}}"#.to_owned(),
                "not a project line",
            ),
            (format!("{late}\n{{\"kind\":\"project\",\"name\":\"two\"}}"), "a project line cannot"),
        ];
        for (lines, said) in cases {
            let refused = jobs(&format!("{HEAD}{lines}\n")).unwrap_err().to_string();
            assert!(refused.contains(said), "{lines}\ngave    {refused}\nwanted  {said}");
        }
    }
}
