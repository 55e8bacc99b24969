use super::*;
use crate::check::check;
use crate::device::{Device, DeviceHealth, MigState};
use crate::node::{Cordon, Inventory, RuntimeFacts};
use crate::reconcile::Want;
use crate::session::{
    Members, OnDisconnect, OnLost, Outcome, Phase, Progress, Report, ReportState, Resources,
    SessionSpec, StopReason,
};
use crate::slice::{GpuAmount, GpuRequest};
use crate::units::Fgpu;
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(super) const T0: UnixMillis = UnixMillis(1_000_000);

pub(super) fn settings() -> Settings {
    Settings { allow_shared: true, ..Settings::default() }
}

pub(super) fn node_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(super) fn session_id(number: usize) -> SessionId {
    SessionId::new(format!("sess{number:06}")).unwrap()
}

pub(super) fn device(node: &str, index: u32) -> Device {
    Device {
        uuid: format!("GPU-{node}-{index}").parse().unwrap(),
        index,
        model: "H100".into(),
        memory: MemoryBytes::gib(80),
        multiprocessors: Some(132),
        pci_bus_id: None,
        numa_node: None,
        nvlink_peers: Vec::new(),
        mig: MigState::Disabled,
        health: DeviceHealth::Healthy,
        simulated: true,
    }
}

pub(super) fn inventory(node: &str, devices: u32) -> Inventory {
    Inventory {
        address: "127.0.0.1".into(),
        agent_version: "0".into(),
        cpu: CpuMilli::cores(64),
        memory: MemoryBytes::gib(256),
        devices: (0..devices).map(|index| device(node, index)).collect(),
        runtime: RuntimeFacts { kind: "process".into(), ..RuntimeFacts::default() },
        labels: BTreeMap::new(),
        condition: String::new(),
    }
}

pub(super) fn register(cluster: &mut Cluster, node: &str, devices: u32, reports: Vec<Report>) {
    let input = Input::Register {
        name: node_name(node),
        agent_id: format!("agent-{node}"),
        inventory: Box::new(inventory(node, devices)),
        reports,
    };
    cluster.apply(input, T0).unwrap();
}

pub(super) fn cluster(nodes: &[(&str, u32)]) -> Cluster {
    let mut cluster = Cluster::new(settings());
    for (node, devices) in nodes {
        register(&mut cluster, node, *devices, Vec::new());
    }
    cluster
}

pub(super) fn spec(fgpu_milli: u64) -> SessionSpec {
    let gpu = (fgpu_milli > 0).then(|| GpuRequest::new(GpuAmount::Fgpu(Fgpu(fgpu_milli))));
    let resources =
        Resources { gpu, cpu: CpuMilli::cores(1), memory: MemoryBytes::gib(1), shm: None };
    SessionSpec::new(vec!["true".into()], resources)
}

pub(super) fn try_create(
    cluster: &mut Cluster,
    number: usize,
    spec: SessionSpec,
    request: Option<&str>,
) -> Result<Applied, Refusal> {
    let input = Input::Create {
        id: session_id(number),
        spec: Box::new(spec),
        owner: "me".parse().unwrap(),
        request_id: request.map(|request| request.parse().unwrap()),
        members: Members::One,
    };
    cluster.apply(input, T0)
}

pub(super) fn create(cluster: &mut Cluster, number: usize, spec: SessionSpec) -> SessionId {
    try_create(cluster, number, spec, None).unwrap();
    cluster.schedule(T0);
    session_id(number)
}

pub(super) fn report(cluster: &mut Cluster, node: &str, id: &SessionId, state: ReportState) {
    let generation = cluster.session(id).unwrap().generation;
    report_generation(cluster, node, id, generation, state);
}

pub(super) fn report_generation(
    cluster: &mut Cluster,
    node: &str,
    id: &SessionId,
    generation: u64,
    state: ReportState,
) {
    let report = Report { session: id.clone(), generation, state, grant: None };
    let input = Input::Reports { node: node_name(node), reports: vec![report], full: false };
    cluster.apply(input, T0).unwrap();
    cluster.schedule(T0);
}

pub(super) fn running() -> ReportState {
    ReportState::Running { at: T0, ports: Vec::new() }
}

pub(super) fn gone(exit_code: i32) -> ReportState {
    ReportState::Gone { exit_code: Some(exit_code), code: String::new(), message: String::new() }
}

pub(super) fn phase<'a>(cluster: &'a Cluster, id: &SessionId) -> &'a Phase {
    &cluster.session(id).unwrap().phase
}

pub(super) fn liveness(cluster: &mut Cluster, node: &str, liveness: Liveness) {
    cluster.apply(Input::Liveness { node: node_name(node), liveness }, T0).unwrap();
    cluster.schedule(T0);
}

pub(super) fn outcome(cluster: &Cluster, id: &SessionId) -> Outcome {
    match phase(cluster, id) {
        Phase::Ended(ended) => ended.outcome,
        other => panic!("not ended: {other:?}"),
    }
}

pub(super) fn free(cluster: &Cluster, node: &str) -> Vec<u64> {
    let view = cluster.view().get(&node_name(node)).unwrap();
    view.devices.iter().map(|device| device.units.fgpu_in(device.free).0).collect()
}

#[test]
fn a_session_goes_from_waiting_to_its_end_and_gives_everything_back() {
    let mut cluster = cluster(&[("a1", 1)]);
    let id = create(&mut cluster, 1, spec(10_000));
    assert_eq!(phase(&cluster, &id).name(), "scheduled");
    assert_eq!(free(&cluster, "a1"), [0]);

    report(&mut cluster, "a1", &id, ReportState::Preparing(Progress::Creating));
    report(&mut cluster, "a1", &id, running());
    assert_eq!(phase(&cluster, &id).name(), "running");

    report(&mut cluster, "a1", &id, gone(0));
    assert_eq!(outcome(&cluster, &id), Outcome::Completed);
    assert_eq!(free(&cluster, "a1"), [10_000]);
    assert_eq!(cluster.desired(&node_name("a1")), []);
}

#[test]
fn what_waits_starts_only_when_the_agent_reports_the_other_gone() {
    let mut cluster = cluster(&[("a1", 1)]);
    let first = create(&mut cluster, 1, spec(10_000));
    let second = create(&mut cluster, 2, spec(10_000));
    report(&mut cluster, "a1", &first, running());

    let stop = Input::Stop { id: first.clone(), reason: StopReason::Requested, grace_ms: None };
    cluster.apply(stop, T0).unwrap();
    cluster.schedule(T0);
    assert_eq!(phase(&cluster, &second).name(), "pending");

    report(&mut cluster, "a1", &first, gone(143));
    assert_eq!(outcome(&cluster, &first), Outcome::Cancelled);
    assert_eq!(phase(&cluster, &second).name(), "scheduled");
}

#[test]
fn higher_priority_goes_first_and_then_age() {
    let mut cluster = cluster(&[("a1", 1)]);
    let holder = create(&mut cluster, 1, spec(10_000));
    let old = create(&mut cluster, 2, spec(10_000));
    let urgent = create(&mut cluster, 3, SessionSpec { priority: 5, ..spec(10_000) });
    assert_eq!(cluster.explain(&old).unwrap().queue_position, Some(2));

    report(&mut cluster, "a1", &holder, gone(0));
    assert_eq!(phase(&cluster, &urgent).name(), "scheduled");
    report(&mut cluster, "a1", &urgent, gone(0));
    assert_eq!(phase(&cluster, &old).name(), "scheduled");
}

#[test]
fn the_same_request_id_gives_the_same_session() {
    let mut cluster = cluster(&[("a1", 1)]);
    try_create(&mut cluster, 1, spec(1_000), Some("request-1")).unwrap();
    let again = try_create(&mut cluster, 2, spec(1_000), Some("request-1")).unwrap();
    assert!(
        matches!(again, Applied::Session { existed: true, session } if session.id == session_id(1))
    );

    let other = try_create(&mut cluster, 3, spec(2_000), Some("request-1")).unwrap_err();
    assert_eq!(other.code(), "REQUEST_ID_REUSED");
    assert_eq!(cluster.sessions().len(), 1);
}

#[test]
fn bad_creates_are_refused_with_their_code_and_change_nothing() {
    let mut cluster = cluster(&[("a1", 2)]);
    let cordon = Input::Cordon { node: node_name("a1"), cordon: Cordon::Cordoned };
    cluster.apply(cordon, T0).unwrap();
    cluster.take_changes();
    let named = |name: &str| SessionSpec { name: Some(name.parse().unwrap()), ..spec(0) };
    try_create(&mut cluster, 1, named("job"), None).unwrap();
    cluster.take_changes();

    let on = |node: &str| SessionSpec { node: Some(node_name(node)), ..spec(1_000) };
    let cases = [
        (spec(7_930), "INVALID_ARGUMENT"),
        (spec(30_000), "UNSATISFIABLE"),
        (named("job"), "NAME_IN_USE"),
        (on("b2"), "NODE_NOT_FOUND"),
        (on("a1"), "NODE_CORDONED"),
        (SessionSpec { command: Vec::new(), ..spec(0) }, "INVALID_ARGUMENT"),
    ];
    for (spec, code) in cases {
        let refused = try_create(&mut cluster, 2, spec, None).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(cluster.take_changes().is_empty());
    }
}

#[test]
fn a_name_is_free_again_once_its_session_has_ended() {
    let mut cluster = cluster(&[("a1", 1)]);
    let named = SessionSpec { name: Some("job".parse().unwrap()), ..spec(0) };
    let first = create(&mut cluster, 1, named.clone());
    assert_eq!(cluster.find("job", None), Ok(first.clone()));
    report(&mut cluster, "a1", &first, gone(0));

    let second = create(&mut cluster, 2, named);
    assert_eq!(cluster.find("job", None), Ok(second));
    assert_eq!(cluster.find("sess000001", None), Ok(first));
    assert_eq!(cluster.find("sess", None).unwrap_err().code(), "AMBIGUOUS_SESSION");
}

#[test]
fn a_lost_node_is_waited_for_unless_the_session_says_otherwise() {
    let fenced = |on_lost| SessionSpec {
        on_disconnect: OnDisconnect::Stop,
        on_lost,
        node_labels: BTreeMap::new(),
        ..spec(10_000)
    };
    let mut cluster = cluster(&[("a1", 3)]);
    let waits = create(&mut cluster, 1, spec(10_000));
    let fails = create(&mut cluster, 2, fenced(OnLost::Fail));
    let moves = create(&mut cluster, 3, fenced(OnLost::Replace));
    for id in [&waits, &fails, &moves] {
        report(&mut cluster, "a1", id, running());
    }
    register(&mut cluster, "b2", 1, Vec::new());

    liveness(&mut cluster, "a1", Liveness::Suspect);
    assert_eq!(phase(&cluster, &waits).name(), "running");
    liveness(&mut cluster, "a1", Liveness::Lost);

    assert_eq!(phase(&cluster, &waits).name(), "lost");
    assert_eq!(outcome(&cluster, &fails), Outcome::Failed);
    assert_eq!(phase(&cluster, &moves).name(), "scheduled");
    assert_eq!(phase(&cluster, &moves).grant().unwrap().node, node_name("b2"));
    assert_eq!(free(&cluster, "a1"), [0, 0, 0], "nothing is free until the node speaks");
    check(&cluster).unwrap();

    let still =
        |id: &SessionId, state| Report { session: id.clone(), generation: 1, state, grant: None };
    let reports =
        vec![still(&waits, running()), still(&fails, gone(137)), still(&moves, gone(137))];
    register(&mut cluster, "a1", 3, reports);
    assert_eq!(phase(&cluster, &waits).name(), "running");
    assert_eq!(free(&cluster, "a1").iter().sum::<u64>(), 20_000);
    assert!(cluster.session(&moves).unwrap().stranded.is_empty());
    check(&cluster).unwrap();
}

#[test]
fn a_full_report_without_a_running_session_ends_it() {
    let mut cluster = cluster(&[("a1", 1)]);
    let id = create(&mut cluster, 1, spec(10_000));
    register(&mut cluster, "a1", 1, Vec::new());
    assert_eq!(phase(&cluster, &id).name(), "scheduled", "the agent may not have heard of it");

    report(&mut cluster, "a1", &id, running());
    register(&mut cluster, "a1", 1, Vec::new());
    assert_eq!(outcome(&cluster, &id), Outcome::Failed);
}

#[test]
fn word_of_an_older_placement_does_not_touch_the_newer_one() {
    let spec =
        SessionSpec { on_disconnect: OnDisconnect::Stop, on_lost: OnLost::Replace, ..spec(10_000) };
    let mut cluster = cluster(&[("a1", 1)]);
    let id = create(&mut cluster, 1, spec);
    report(&mut cluster, "a1", &id, running());
    register(&mut cluster, "b2", 1, Vec::new());
    liveness(&mut cluster, "a1", Liveness::Lost);
    report(&mut cluster, "b2", &id, running());

    report_generation(&mut cluster, "a1", &id, 1, running());
    assert_eq!(cluster.desired(&node_name("a1"))[0].want, Want::Stop { grace_ms: 10_000 });
    report_generation(&mut cluster, "a1", &id, 1, gone(137));

    assert_eq!(phase(&cluster, &id).name(), "running");
    assert_eq!(phase(&cluster, &id).grant().unwrap().node, node_name("b2"));
    assert_eq!(cluster.desired(&node_name("a1")), []);
}

#[test]
fn draining_stops_sessions_and_moves_those_that_may() {
    let movable =
        SessionSpec { on_disconnect: OnDisconnect::Stop, on_lost: OnLost::Replace, ..spec(1_000) };
    let mut cluster = cluster(&[("a1", 1)]);
    let stays = create(&mut cluster, 1, spec(1_000));
    let moves = create(&mut cluster, 2, movable);
    register(&mut cluster, "b2", 1, Vec::new());
    let drain = Input::Cordon { node: node_name("a1"), cordon: Cordon::Draining };
    cluster.apply(drain, T0).unwrap();

    for id in [&stays, &moves] {
        assert_eq!(phase(&cluster, id).name(), "stopping");
        report(&mut cluster, "a1", id, gone(143));
    }
    assert_eq!(outcome(&cluster, &stays), Outcome::Evicted);
    assert_eq!(phase(&cluster, &moves).grant().unwrap().node, node_name("b2"));
    assert_eq!(cluster.session(&moves).unwrap().attempts.len(), 1);
}

#[test]
fn time_limits_and_start_timeouts_stop_and_retention_forgets() {
    let mut cluster = cluster(&[("a1", 2)]);
    let limited = create(&mut cluster, 1, SessionSpec { time_limit_ms: Some(500), ..spec(1_000) });
    let stuck = create(&mut cluster, 2, spec(1_000));
    report(&mut cluster, "a1", &limited, running());
    assert_eq!(cluster.next_deadline(), Some(T0.plus(500)));

    cluster.tick(T0.plus(499));
    assert_eq!(phase(&cluster, &limited).name(), "running");
    cluster.tick(T0.plus(500));
    assert_eq!(phase(&cluster, &limited).name(), "stopping");
    let start_timeout = settings().start_timeout_ms;
    cluster.tick(T0.plus(start_timeout));
    assert_eq!(phase(&cluster, &stuck).name(), "stopping");

    report(&mut cluster, "a1", &limited, gone(143));
    assert_eq!(outcome(&cluster, &limited), Outcome::Evicted);
    cluster.tick(T0.plus(settings().ended_retention_ms));
    assert!(cluster.session(&limited).is_none());
    assert!(cluster.session(&stuck).is_some(), "it still holds its slice");
}

#[test]
fn ended_sessions_beyond_the_limit_are_due_at_once() {
    let mut cluster = Cluster::new(Settings { ended_limit: 1, ..settings() });
    register(&mut cluster, "a1", 2, Vec::new());
    let ids = [1, 2].map(|number| create(&mut cluster, number, spec(1_000)));
    report(&mut cluster, "a1", &ids[0], gone(0));
    // What is held is written down first; the start that may time out comes later.
    let history = T0.plus(5 * 60 * 1000);
    assert_eq!(cluster.next_deadline(), Some(history));

    report(&mut cluster, "a1", &ids[1], gone(0));
    assert_eq!(cluster.next_deadline(), Some(T0));
    cluster.tick(T0);

    assert_eq!(cluster.sessions().len(), 1);
    assert_eq!(cluster.next_deadline(), Some(history));
    cluster.tick(history);
    assert_eq!(cluster.next_deadline(), Some(T0.plus(settings().ended_retention_ms)));
}

#[test]
fn what_a_lost_node_may_still_run_is_not_forgotten_and_sets_no_deadline() {
    let spec =
        SessionSpec { on_disconnect: OnDisconnect::Stop, on_lost: OnLost::Fail, ..spec(1_000) };
    let mut cluster = cluster(&[("a1", 1)]);
    let id = create(&mut cluster, 1, spec);
    report(&mut cluster, "a1", &id, running());
    liveness(&mut cluster, "a1", Liveness::Lost);
    assert_eq!(outcome(&cluster, &id), Outcome::Failed);

    cluster.tick(T0.plus(2 * settings().ended_retention_ms));
    assert!(cluster.session(&id).is_some());
    assert_eq!(cluster.next_deadline(), cluster.index.accounts.checkpoint, "history alone");

    report_generation(&mut cluster, "a1", &id, 1, gone(137));
    cluster.tick(T0.plus(2 * settings().ended_retention_ms));
    assert!(cluster.session(&id).is_none());
}

#[test]
fn a_name_is_taken_over_only_from_a_silent_agent() {
    let mut cluster = cluster(&[("a1", 1)]);
    let other = || Input::Register {
        name: node_name("a1"),
        agent_id: "another".into(),
        inventory: Box::new(inventory("a1", 1)),
        reports: Vec::new(),
    };
    assert_eq!(cluster.apply(other(), T0).unwrap_err().code(), "NODE_NAME_TAKEN");
    liveness(&mut cluster, "a1", Liveness::Lost);
    assert!(cluster.apply(other(), T0).is_ok());
}

#[test]
fn a_device_that_vanishes_under_a_slice_is_kept_as_unhealthy() {
    let mut cluster = cluster(&[("a1", 2)]);
    let id = create(&mut cluster, 1, spec(10_000));
    report(&mut cluster, "a1", &id, running());
    let held = phase(&cluster, &id).grant().unwrap().slices[0].device.clone();
    let mut smaller = inventory("a1", 2);
    smaller.devices.retain(|device| device.uuid != held);

    let update = Input::Inventory { node: node_name("a1"), inventory: Box::new(smaller) };
    cluster.apply(update, T0).unwrap();

    let node = &cluster.nodes()[&node_name("a1")];
    assert!(!node.device(&held).unwrap().health.is_healthy());
    check(&cluster).unwrap();
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Create { fgpu: u64, priority: i32, replace: bool },
    Stop(usize),
    Remove(usize),
    Report { session: usize, state: u8 },
    Liveness { node: usize, state: u8 },
    Return(usize),
    Cordon { node: usize, state: u8 },
    Shrink { node: usize, cores: u64, gib: u64 },
    Tick(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1_u64..250, -2_i32..3, any::<bool>())
            .prop_map(|(q, priority, replace)| Step::Create { fgpu: q * 100, priority, replace }),
        2 => any::<usize>().prop_map(Step::Stop),
        1 => any::<usize>().prop_map(Step::Remove),
        8 => (any::<usize>(), 0_u8..4).prop_map(|(session, state)| Step::Report { session, state }),
        2 => (0_usize..3, 0_u8..3).prop_map(|(node, state)| Step::Liveness { node, state }),
        1 => (0_usize..3).prop_map(Step::Return),
        1 => (0_usize..3, 0_u8..3).prop_map(|(node, state)| Step::Cordon { node, state }),
        1 => (0_usize..3, 0_u64..8, 1_u64..160)
            .prop_map(|(node, cores, gib)| Step::Shrink { node, cores, gib }),
        1 => (0_u64..100_000_000).prop_map(Step::Tick),
    ];
    proptest::collection::vec(step, 1..60)
}

const NODES: [&str; 3] = ["n0", "n1", "n2"];

fn nth(cluster: &Cluster, n: usize) -> Option<SessionId> {
    let ids: Vec<SessionId> = cluster.sessions().keys().cloned().collect();
    (!ids.is_empty()).then(|| ids[n % ids.len()].clone())
}

fn take(cluster: &mut Cluster, step: &Step, number: usize, now: UnixMillis) {
    match step {
        Step::Create { fgpu, priority, replace } => {
            let mut spec = SessionSpec { priority: *priority, ..spec(*fgpu) };
            if *replace {
                spec.on_disconnect = OnDisconnect::Stop;
                spec.on_lost = OnLost::Replace;
            }
            let _ = try_create(cluster, number, spec, None);
        }
        Step::Stop(n) => {
            if let Some(id) = nth(cluster, *n) {
                let stop = Input::Stop { id, reason: StopReason::Requested, grace_ms: None };
                let _ = cluster.apply(stop, now);
            }
        }
        Step::Remove(n) => {
            if let Some(id) = nth(cluster, *n) {
                let _ = cluster.apply(Input::Remove { id }, now);
            }
        }
        Step::Report { session, state } => random_report(cluster, *session, *state, now),
        Step::Liveness { node, state } => {
            let liveness = [Liveness::Live, Liveness::Suspect, Liveness::Lost][usize::from(*state)];
            let _ = cluster.apply(Input::Liveness { node: node_name(NODES[*node]), liveness }, now);
        }
        Step::Return(node) => register(cluster, NODES[*node], 2, Vec::new()),
        Step::Cordon { node, state } => {
            let cordon = [Cordon::Open, Cordon::Cordoned, Cordon::Draining][usize::from(*state)];
            let _ = cluster.apply(Input::Cordon { node: node_name(NODES[*node]), cordon }, now);
        }
        Step::Shrink { node, cores, gib } => {
            let mut inventory = inventory(NODES[*node], 2);
            inventory.cpu = CpuMilli::cores(*cores);
            inventory.devices[0].memory = MemoryBytes::gib(*gib);
            let (node, inventory) = (node_name(NODES[*node]), Box::new(inventory));
            let _ = cluster.apply(Input::Inventory { node, inventory }, now);
        }
        Step::Tick(ms) => cluster.tick(now.plus(*ms)),
    }
    cluster.schedule(now);
}

fn random_report(cluster: &mut Cluster, session: usize, state: u8, now: UnixMillis) {
    let Some(id) = nth(cluster, session) else { return };
    let held: Vec<(u64, NodeName)> = cluster.sessions()[&id]
        .held()
        .map(|(generation, grant)| (generation, grant.node.clone()))
        .collect();
    let Some((generation, node)) = held.get(session % held.len().max(1)) else { return };
    let state = match state {
        0 => ReportState::Preparing(Progress::Creating),
        1 => ReportState::Running { at: now, ports: Vec::new() },
        _ => gone(i32::from(state) - 2),
    };
    let report = Report { session: id, generation: *generation, state, grant: None };
    let _ = cluster
        .apply(Input::Reports { node: node.clone(), reports: vec![report], full: false }, now);
}

fn records(cluster: &Cluster) -> Records {
    cluster.records()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_history_gives_anything_twice_and_everything_comes_back(history in steps()) {
        let mut cluster = cluster(&[("n0", 2), ("n1", 2), ("n2", 2)]);
        let mut ended: BTreeMap<SessionId, Phase> = BTreeMap::new();
        for (number, step) in history.iter().enumerate() {
            let now = T0.plus(u64::try_from(number).unwrap());
            cluster.take_changes();
            let before = records(&cluster);
            take(&mut cluster, step, number, now);
            let broken = faults(&cluster);
            prop_assert!(broken.is_empty(), "{step:?}: {broken:?}");

            let changes = cluster.take_changes();
            if number % 3 == 0 {
                cluster.rollback(changes);
                prop_assert_eq!(records(&cluster), before, "rolled back");
                let broken = faults(&cluster);
                prop_assert!(broken.is_empty(), "rollback: {broken:?}");
                take(&mut cluster, step, number, now);
            }
            for (id, phase) in &ended {
                if let Some(session) = cluster.session(id) {
                    prop_assert_eq!(&session.phase, phase, "a terminal phase never changes");
                }
            }
            let over = cluster.sessions().values().filter(|s| matches!(s.phase, Phase::Ended(_)));
            ended = over.map(|s| (s.id.clone(), s.phase.clone())).collect();
        }
        let restored = Cluster::restore(settings(), records(&cluster)).unwrap();
        prop_assert_eq!(records(&restored), records(&cluster), "the same from its records alone");
        end_all(&mut cluster);
        for node in NODES {
            prop_assert_eq!(free(&cluster, node), [10_000, 10_000]);
        }
    }
}

/// Everything that is broken, save what hardware that shrinks brings about.
fn faults(cluster: &Cluster) -> Vec<crate::check::Broken> {
    let broken = check(cluster).err().unwrap_or_default();
    broken.into_iter().filter(|broken| !broken.may_come_about()).collect()
}

/// Stops everything and lets every node report it gone.
fn end_all(cluster: &mut Cluster) {
    for node in NODES {
        register(cluster, node, 2, Vec::new());
    }
    let ids: Vec<SessionId> = cluster.sessions().keys().cloned().collect();
    for id in &ids {
        let stop = Input::Stop { id: id.clone(), reason: StopReason::Requested, grace_ms: None };
        let _ = cluster.apply(stop, T0);
    }
    for id in &ids {
        let held: Vec<(u64, NodeName)> = cluster.sessions()[id]
            .held()
            .map(|(generation, grant)| (generation, grant.node.clone()))
            .collect();
        for (generation, node) in held {
            report_generation(cluster, node.as_str(), id, generation, gone(143));
        }
    }
}
