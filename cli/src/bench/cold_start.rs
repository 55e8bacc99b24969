//! `fgpu bench cold-start`: from a manager's start on a full store to its first answer.
//!
//! The records are written through the store, as a manager would have. Then the parts of a start are
//! measured in this process one by one, and last a real manager is started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use fgpu_domain::cluster::{Cluster, Input, Settings};
use fgpu_domain::ids::{NodeName, SessionId, UserName};
use fgpu_domain::node::{Inventory, Node};
use fgpu_domain::session::{Members, Phase, Report, ReportState, Session};
use fgpu_domain::time::UnixMillis;
use fgpu_domain::units::{CpuMilli, MemoryBytes};
use fgpu_manager::{ManagerConfig, load_records, open_store, seed_records};
use fgpu_wire::convert::{self, SpecDefaults};
use serde::Serialize;

use super::mix::Mix;
use super::stage::{Etcd, Manager, ManagerOptions, folder};
use super::{load, measure, node};
use crate::daemon;
use crate::failure::Failure;
use crate::output::{self, Format};

const PREFIX: &str = "/fgpu-bench/cold/";
/// One in so many sessions has ended.
const ENDED_EVERY: usize = 10;
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

type Records = (Vec<Arc<Session>>, Vec<Arc<Node>>);

/// `fgpu bench cold-start`
#[derive(Debug, Clone, Args)]
pub(crate) struct ColdStartArgs {
    /// Nodes in the store
    #[arg(long, value_name = "COUNT", default_value_t = 5_000)]
    nodes: usize,
    /// Devices of each node
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    devices: u32,
    /// Sessions in the store; one in ten has ended
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    sessions: usize,
    /// How often the start is measured; the best is reported
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    repeat: usize,
    /// Use this etcd instead of starting one
    #[arg(long, value_name = "URLS")]
    etcd_endpoints: Option<String>,
    /// How to print the figures: `table` for people, `json` for programs
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// How long everything took, milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
struct ColdStart {
    nodes: usize,
    sessions: usize,
    placed: usize,
    store_bytes: usize,
    /// From the start of the process to its first answer: the best, and all.
    serving_ms: u64,
    serving_all_ms: Vec<u64>,
    /// The parts, measured one by one in another process.
    range_ms: u64,
    range_and_decode_ms: u64,
    restore_and_check_ms: u64,
    check_ms: u64,
    manager_peak_kib: u64,
}

/// Runs `fgpu bench cold-start`.
pub(crate) async fn run(args: ColdStartArgs) -> Result<(), Failure> {
    if args.nodes == 0 || args.sessions == 0 || args.repeat == 0 {
        return Err(Failure::usage("--nodes, --sessions and --repeat are at least 1"));
    }
    let folder = folder()?;
    let etcd = match &args.etcd_endpoints {
        Some(endpoints) => Etcd::at(endpoints.clone()),
        None => Etcd::start(folder.path()).await?,
    };
    output::say("making the records");
    let (sessions, nodes) = records(&args)?;
    let config = config(&etcd)?;
    let store = open_store(&config).await.map_err(|error| Failure::of(&error))?;
    output::say("writing them");
    let written = seed_records(&*store, sessions.iter().map(|s| &**s), nodes.iter().map(|n| &**n));
    written.await.map_err(|error| Failure::of(&error))?;
    output::say("reading them, part by part");
    let mut result = parts(&*store).await?;
    result.placed = sessions.iter().filter(|session| session.phase.grant().is_some()).count();
    drop((store, sessions, nodes));
    let options = ManagerOptions::new(PREFIX)?;
    for _ in 0..args.repeat {
        let manager = Manager::start(folder.path(), &etcd, &options).await?;
        let took = millis(manager.came_up);
        output::say(format!("a manager serves after {took} ms"));
        result.serving_all_ms.push(took);
        let peak = measure::Usage::of(manager.pid()).peak_kib;
        result.manager_peak_kib = result.manager_peak_kib.max(peak);
        manager.stop().await?;
    }
    result.serving_ms = result.serving_all_ms.iter().copied().min().unwrap_or(0);
    match args.output {
        Format::Json => output::json(&result),
        Format::Table => output::text(result.table()),
    }
}

fn config(etcd: &Etcd) -> Result<ManagerConfig, Failure> {
    let flags = [
        ("--store-etcd".to_owned(), "store.etcd", etcd.endpoints.clone()),
        ("--store-etcd-prefix".to_owned(), "store.etcd_prefix", PREFIX.to_owned()),
    ];
    daemon::manager::load(None, &flags).map_err(|faults| daemon::faults(&faults))
}

/// A cluster as full as it gets with so many sessions, and some that have ended.
fn records(args: &ColdStartArgs) -> Result<Records, Failure> {
    let mut cluster = Cluster::new(Settings {
        allow_shared: true,
        ended_limit: usize::MAX,
        ..Settings::default()
    });
    let refused = |refusal: &dyn std::fmt::Display| {
        Failure::new(format!("the records contradict the rules: {refusal}"))
    };
    for number in 0..args.nodes {
        let (name, inventory) = registered(number, args.devices)?;
        let register = Input::Register {
            name,
            agent_id: format!("agent-{number:05}"),
            inventory: Box::new(inventory),
            reports: Vec::new(),
        };
        cluster.apply(register, NOW).map_err(|refusal| refused(&refusal))?;
    }
    let owner: UserName = "admin".parse().map_err(|error| refused(&error))?;
    let mix: Mix = "one=0,fraction=100,multi=0,gang=0".parse().map_err(Failure::new)?;
    let defaults = SpecDefaults { cpu: CpuMilli::cores(1), memory: MemoryBytes::gib(2) };
    for (number, container) in mix.generate(args.sessions, 1).iter().enumerate() {
        let spec = convert::session_spec(load::spec(container, number), defaults);
        let id = SessionId::new(format!("{:016x}", scattered(number)));
        let create = Input::Create {
            id: id.map_err(|error| refused(&error))?,
            spec: Box::new(spec.map_err(|error| refused(&error))?),
            owner: owner.clone(),
            request_id: format!("bench-1-{number}").parse().ok(),
            members: Members::One,
        };
        cluster.apply(create, NOW).map_err(|refusal| refused(&refusal))?;
    }
    cluster.schedule(NOW);
    run_and_end(&mut cluster).map_err(|refusal| refused(&refusal))?;
    Ok((
        cluster.sessions().values().cloned().collect(),
        cluster.nodes().values().cloned().collect(),
    ))
}

/// Ids are random in a real cluster: scattered over the keys, the same in every run.
fn scattered(number: usize) -> u64 {
    super::mix::Random::new(u64::try_from(number).unwrap_or(u64::MAX)).next()
}

fn registered(number: usize, devices: u32) -> Result<(NodeName, Inventory), Failure> {
    let register = node::register(number, devices);
    let failed = |text: String| Failure::new(text);
    let inventory = register.inventory.unwrap_or_default();
    let inventory = convert::inventory(inventory, &register.agent_version);
    let inventory = inventory.map_err(|error| failed(error.to_string()))?;
    let name = NodeName::new(register.node).map_err(|error| failed(error.to_string()))?;
    Ok((name, inventory))
}

/// Lets everything placed run, and some of it end.
fn run_and_end(cluster: &mut Cluster) -> Result<(), fgpu_domain::cluster::Refusal> {
    let placed: Vec<Arc<Session>> = cluster.sessions().values().cloned().collect();
    for (number, session) in placed.iter().enumerate() {
        let Phase::Scheduled { grant, .. } = &session.phase else { continue };
        let report = |state| Input::Reports {
            node: grant.node.clone(),
            reports: vec![Report {
                session: session.id.clone(),
                generation: session.generation,
                state,
                grant: None,
            }],
            full: false,
        };
        cluster.apply(report(ReportState::Running { at: NOW, ports: Vec::new() }), NOW)?;
        if number % ENDED_EVERY == 0 {
            let (code, message) = (String::new(), String::new());
            let gone = ReportState::Gone { exit_code: Some(0), code, message };
            cluster.apply(report(gone), NOW)?;
        }
    }
    Ok(())
}

/// The parts of a start, one by one.
async fn parts(store: &dyn fgpu_manager::Store) -> Result<ColdStart, Failure> {
    let begin = Instant::now();
    let range = store.range("").await.map_err(|error| Failure::of(&error))?;
    let range_ms = millis(begin.elapsed());
    let store_bytes = range.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
    drop(range);
    let begin = Instant::now();
    let loaded = load_records(store).await.map_err(|error| Failure::of(&error))?;
    let range_and_decode_ms = millis(begin.elapsed());
    let (sessions, nodes) = (loaded.records.sessions.len(), loaded.records.nodes.len());
    let settings = Settings { allow_shared: true, ..Settings::default() };
    let begin = Instant::now();
    let cluster = Cluster::restore(settings, loaded.records);
    let cluster = cluster.map_err(|error| Failure::of(&error))?;
    let restore_and_check_ms = millis(begin.elapsed());
    let begin = Instant::now();
    let broken = fgpu_domain::check::check(&cluster).err().unwrap_or_default().len();
    let check_ms = millis(begin.elapsed());
    if broken > 0 {
        return Err(Failure::new(format!("{broken} records contradict each other")));
    }
    Ok(ColdStart {
        nodes,
        sessions,
        store_bytes,
        range_ms,
        range_and_decode_ms,
        restore_and_check_ms,
        check_ms,
        ..ColdStart::default()
    })
}

impl ColdStart {
    fn table(&self) -> String {
        let ms = |value: u64| format!("{value} ms");
        let all: Vec<String> = self.serving_all_ms.iter().map(u64::to_string).collect();
        output::fields(&[
            ("nodes", self.nodes.to_string()),
            ("sessions", format!("{}, {} hold a slice", self.sessions, self.placed)),
            ("records", format!("{} MiB", self.store_bytes >> 20)),
            ("serving after", format!("{} ms (all: {})", self.serving_ms, all.join(", "))),
            ("range", ms(self.range_ms)),
            ("range and decode", ms(self.range_and_decode_ms)),
            ("restore and check", ms(self.restore_and_check_ms)),
            ("check alone", ms(self.check_ms)),
            ("manager memory, peak", format!("{} MiB", self.manager_peak_kib / 1024)),
        ])
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_domain::cluster::Records;

    #[test]
    fn the_records_are_a_cluster_that_a_manager_takes() {
        let args = ColdStartArgs {
            nodes: 4,
            devices: 2,
            sessions: 40,
            repeat: 1,
            etcd_endpoints: None,
            output: Format::Table,
        };
        let (sessions, nodes) = records(&args).unwrap();
        assert_eq!((sessions.len(), nodes.len()), (40, 4));
        let phases = |name| sessions.iter().filter(|s| s.phase.name() == name).count();
        assert!(phases("running") > 0 && phases("ended") > 0, "{sessions:?}");
        let sessions = sessions.iter().map(|session| Session::clone(session)).collect();
        let nodes = nodes.iter().map(|node| Node::clone(node)).collect();
        let settings = Settings { allow_shared: true, ..Settings::default() };
        let records = Records { sessions, nodes, ..Records::default() };
        assert!(Cluster::restore(settings, records).is_ok());
    }
}
