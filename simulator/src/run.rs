//! The two ways to replay: a whole file, or pod by pod over a pair of streams.

use crate::cluster::{Cluster, Place};
use crate::error::SimulateError;
use crate::meter::{Meter, Report};
use crate::queue::{self, QueueOptions, QueueReport};
use crate::replay::{Header, Line, PodLine, Reader};
use crate::stopwatch::{Stopwatch, timing};
use fgpu_domain::placement::Policy;
use serde::Serialize;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What to replay and what to write.
#[derive(Debug, Clone)]
pub struct SimulateOptions {
    /// The replay.
    pub trace: PathBuf,
    /// How nodes are chosen.
    pub policy: Policy,
    /// What [`Policy::Random`] draws from; the others do not use it.
    pub seed: u64,
    /// Where to write the placement log, if anywhere.
    pub placements: Option<PathBuf>,
    /// Print the report as JSON instead of a table.
    pub json: bool,
    /// Measure how long decisions take.
    pub timing: bool,
    /// Where to draw what happened over time, if anywhere; only for a replay with time.
    pub plot: Option<PathBuf>,
    /// Keep projects and classes from the queue of a replay with time.
    pub plain_queue: bool,
    /// Keep no room for the first of the queue, and take no places for them.
    pub no_reservations: bool,
}

impl SimulateOptions {
    /// A replay of `trace` by `policy`, and nothing else asked for.
    #[must_use]
    pub fn new(trace: PathBuf, policy: Policy) -> Self {
        Self {
            trace,
            policy,
            seed: 0,
            placements: None,
            json: false,
            timing: false,
            plot: None,
            plain_queue: false,
            no_reservations: false,
        }
    }
}

/// What a replay came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Of version 1: how much of the cluster was given out.
    Filled(Box<Report>),
    /// Of version 2: who waited how long, and what was used.
    Queued(Box<QueueReport>),
}

impl Outcome {
    /// How much was given out, for a replay without time.
    #[must_use]
    pub fn filled(&self) -> Option<&Report> {
        match self {
            Self::Filled(report) => Some(report),
            Self::Queued(_) => None,
        }
    }

    /// What happened over time, for a replay with time.
    #[must_use]
    pub fn queued(&self) -> Option<&QueueReport> {
        match self {
            Self::Filled(_) => None,
            Self::Queued(report) => Some(report),
        }
    }

    fn print(&self, json: bool, out: &mut dyn Write) -> std::io::Result<()> {
        match (self, json) {
            (Self::Filled(report), true) => serde_json::to_writer_pretty(&mut *out, report)?,
            (Self::Queued(report), true) => serde_json::to_writer_pretty(&mut *out, report)?,
            (Self::Filled(report), false) => return out.write_all(report.table().as_bytes()),
            (Self::Queued(report), false) => return out.write_all(report.table().as_bytes()),
        }
        writeln!(out)
    }
}

/// One line of the placement log.
#[derive(Serialize)]
struct Answer<'a> {
    pod: &'a str,
    node: Option<&'a str>,
    gpus: &'a [u32],
}

/// Replays a file, writes the placement log or the plot, and prints the report to `out`.
///
/// `progress` is called after every pod with how many were answered and how many there are (0
/// where the replay does not say).
///
/// # Errors
/// [`SimulateError`] names the line that is wrong, or what could not be read or written.
pub fn run(
    options: &SimulateOptions,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Outcome, SimulateError> {
    let path = &options.trace;
    let file =
        File::open(path).map_err(|source| SimulateError::Open { path: path.clone(), source })?;
    let mut reader = Reader::new(BufReader::new(file));
    let header = reader.header_line()?;
    let outcome = if header.has_time() {
        Outcome::Queued(Box::new(queued(options, header, &mut reader, progress)?))
    } else {
        Outcome::Filled(Box::new(filled(options, header, reader, progress)?))
    };
    let written = outcome.print(options.json, out);
    written.map_err(|source| SimulateError::Write { what: "the report".to_owned(), source })?;
    Ok(outcome)
}

fn filled(
    options: &SimulateOptions,
    header: Header,
    reader: Reader<impl BufRead>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, SimulateError> {
    if options.plot.is_some() {
        return Err(SimulateError::NoTime);
    }
    let mut log = options.placements.as_deref().map(Log::create).transpose()?;
    let report = replay(options, header, reader, &mut log, progress)?;
    if let Some(log) = log {
        log.finish()?;
    }
    Ok(report)
}

fn queued(
    options: &SimulateOptions,
    header: Header,
    reader: &mut Reader<impl BufRead>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<QueueReport, SimulateError> {
    let refused = [("--placements", options.placements.is_some()), ("--timing", options.timing)];
    if let Some((flag, _)) = refused.into_iter().find(|(_, given)| *given) {
        return Err(SimulateError::OnlyWithoutTime { flag });
    }
    let how = QueueOptions {
        policy: options.policy,
        seed: options.seed,
        plain: options.plain_queue,
        no_reservations: options.no_reservations,
    };
    let report = queue::simulate(how, header.name, reader, progress)?;
    if let Some(path) = &options.plot {
        let what = format!("the plot {}", path.display());
        std::fs::write(path, report.plot())
            .map_err(|source| SimulateError::Write { what, source })?;
    }
    Ok(report)
}

/// Reads a replay from `input` and answers every pod with a line on `output` before the next is
/// read. The end of the input is the end of the run.
///
/// # Errors
/// [`SimulateError`] names the line that is wrong, or that the output was closed.
pub fn stdio(
    policy: Policy,
    seed: u64,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<(), SimulateError> {
    let mut reader = Reader::new(input);
    let mut cluster = Cluster::new(policy, seed);
    while let Some(line) = reader.next_line()? {
        match line {
            Line::Header(_) => {}
            Line::Project(_) | Line::Job(_) => return Err(SimulateError::Timed),
            Line::Node(node) => cluster.add(&node, reader.line())?,
            Line::Class(class) => cluster.expect(&class),
            Line::Pod(pod) => {
                let place = cluster.place(&pod)?;
                answer(&mut output, &cluster, &pod, place.as_ref())
                    .and_then(|()| output.flush())
                    .map_err(|source| SimulateError::Write { what: "an answer".to_owned(), source })?;
            }
        }
    }
    Ok(())
}

pub(crate) fn replay(
    options: &SimulateOptions,
    header: Header,
    mut reader: Reader<impl BufRead>,
    log: &mut Option<Log>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, SimulateError> {
    let mut cluster = Cluster::new(options.policy, options.seed);
    let (mut meter, mut laps) = (Meter::default(), Vec::new());
    let (total, mut done) = (header.pods.unwrap_or(0), 0);
    while let Some(line) = reader.next_line()? {
        match line {
            Line::Header(_) => {}
            Line::Project(_) | Line::Job(_) => return Err(SimulateError::Timed),
            Line::Node(node) => {
                cluster.add(&node, reader.line())?;
                meter.node(&node);
            }
            Line::Class(class) => cluster.expect(&class),
            Line::Pod(pod) => {
                let watch = options.timing.then(Stopwatch::start);
                let place = cluster.place(&pod)?;
                laps.extend(watch.map(|watch| watch.stop()));
                meter.pod(&pod, place.is_some());
                if let Some(log) = log {
                    log.write(&cluster, &pod, place.as_ref())?;
                }
                done += 1;
                progress(done, total);
            }
        }
    }
    reader.check_counts()?;
    if !meter.has_gpu() {
        return Err(SimulateError::NoGpu);
    }
    let mut report = meter.report(header.name, options.policy.to_string(), options.seed);
    report.timing = timing(&laps);
    Ok(report)
}

fn answer(
    output: &mut impl Write,
    cluster: &Cluster,
    pod: &PodLine,
    place: Option<&Place>,
) -> std::io::Result<()> {
    let node = place.and_then(|place| cluster.name_of(place));
    let gpus = place.map(|place| place.gpus.as_slice()).unwrap_or_default();
    serde_json::to_writer(&mut *output, &Answer { pod: &pod.name, node, gpus })?;
    output.write_all(b"\n")
}

/// The placement log while it is written.
pub(crate) struct Log {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Log {
    fn create(path: &Path) -> Result<Self, SimulateError> {
        let path = path.to_path_buf();
        match File::create(&path) {
            Ok(file) => Ok(Self { file: BufWriter::new(file), path }),
            Err(source) => Err(Self::failed(&path, source)),
        }
    }

    fn write(
        &mut self,
        cluster: &Cluster,
        pod: &PodLine,
        place: Option<&Place>,
    ) -> Result<(), SimulateError> {
        answer(&mut self.file, cluster, pod, place)
            .map_err(|source| Self::failed(&self.path, source))
    }

    fn finish(mut self) -> Result<(), SimulateError> {
        self.file.flush().map_err(|source| Self::failed(&self.path, source))
    }

    fn failed(path: &Path, source: std::io::Error) -> SimulateError {
        SimulateError::Write { what: format!("the placement log {}", path.display()), source }
    }
}
