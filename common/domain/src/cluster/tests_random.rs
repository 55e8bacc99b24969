//! Random histories of the whole: projects, quotas, classes, groups, dependencies, failures, time.

use super::tests::*;
use super::tests_mig::{mig_spec, partitioned, register_with};
use super::tests_projects::*;
use super::*;
use crate::check::check;
use crate::class::{OnPreempt, PriorityClass};
use crate::node::{Cordon, Inventory};
use crate::placement::Request;
use crate::project::{Held, Project, Quota};
use crate::session::{
    Condition, Dependency, Members, OnDisconnect, OnLost, Report, ReportState, StopReason,
};
use crate::units::Fgpu;
use proptest::prelude::*;

const NODES: [&str; 3] = ["n0", "n1", "n2"];
const PROJECTS: [&str; 3] = ["default", "a", "b"];
const USERS: [&str; 2] = ["ann", "bob"];
const CLASSES: [&str; 3] = ["low", "normal", "high"];

#[derive(Debug, Clone)]
enum Step {
    Create(Box<New>),
    Stop(usize),
    Preempt(usize),
    Move { session: usize, node: usize },
    Remove(usize),
    Report { session: usize, state: u8 },
    Liveness { node: usize, state: u8 },
    Return { node: usize, partition: u8 },
    Cordon { node: usize, state: u8 },
    Quota { project: usize, quota: Quota },
    Class { class: usize, priority: i32, requeue: bool },
}

#[derive(Debug, Clone)]
struct New {
    fgpu: u64,
    /// MIG instances instead, unless 0.
    instances: u32,
    project: usize,
    user: usize,
    class: usize,
    members: u8,
    after: Option<(usize, bool)>,
    start_in: Option<u64>,
    patience: Option<u64>,
    replace: bool,
}

fn new() -> impl Strategy<Value = New> {
    let whose = (0_usize..3, 0_usize..2, 0_usize..3);
    let when = (
        proptest::option::weighted(0.2, (any::<usize>(), any::<bool>())),
        proptest::option::weighted(0.2, 0_u64..600_000),
        proptest::option::weighted(0.2, 1_u64..2_000_000),
    );
    let amount = (1_u64..150, prop_oneof![3 => Just(0_u32), 1 => 1_u32..4]);
    (amount, whose, 0_u8..8, when, any::<bool>()).prop_map(
        |(
            (quanta, instances),
            (project, user, class),
            members,
            (after, start_in, patience),
            replace,
        )| New {
            fgpu: quanta * 100,
            instances,
            project,
            user,
            class,
            members,
            after,
            start_in,
            patience,
            replace,
        },
    )
}

fn quota() -> impl Strategy<Value = Quota> {
    let limit = |most: u64| proptest::option::weighted(0.5, 0..most);
    (limit(40_000), limit(6), limit(20)).prop_map(|(fgpu, sessions, pending)| Quota {
        fgpu: fgpu.map(Fgpu),
        sessions,
        pending,
        ..Quota::default()
    })
}

fn steps() -> impl Strategy<Value = Vec<(Step, u64)>> {
    let step = prop_oneof![
        8 => new().prop_map(|new| Step::Create(Box::new(new))),
        2 => any::<usize>().prop_map(Step::Stop),
        1 => any::<usize>().prop_map(Step::Preempt),
        3 => (any::<usize>(), 0_usize..3)
            .prop_map(|(session, node)| Step::Move { session, node }),
        1 => any::<usize>().prop_map(Step::Remove),
        12 => (any::<usize>(), 0_u8..4)
            .prop_map(|(session, state)| Step::Report { session, state }),
        2 => (0_usize..3, 0_u8..3).prop_map(|(node, state)| Step::Liveness { node, state }),
        1 => (0_usize..3, 0_u8..5)
            .prop_map(|(node, partition)| Step::Return { node, partition }),
        1 => (0_usize..3, 0_u8..3).prop_map(|(node, state)| Step::Cordon { node, state }),
        2 => (0_usize..3, quota()).prop_map(|(project, quota)| Step::Quota { project, quota }),
        1 => (0_usize..3, -5_i32..5, any::<bool>())
            .prop_map(|(class, priority, requeue)| Step::Class { class, priority, requeue }),
    ];
    // Most steps follow at once; some after a long time.
    let pause = prop_oneof![4 => 0_u64..1_000, 1 => 0_u64..1_000_000];
    proptest::collection::vec((step, pause), 1..60)
}

fn nth(cluster: &Cluster, n: usize) -> Option<SessionId> {
    let ids: Vec<SessionId> = cluster.sessions().keys().cloned().collect();
    (!ids.is_empty()).then(|| ids[n % ids.len()].clone())
}

fn input_of(cluster: &Cluster, step: &Step, number: usize, now: UnixMillis) -> Option<Input> {
    Some(match step {
        Step::Create(new) => create_input(cluster, new, number, now),
        Step::Stop(n) => {
            let (reason, grace_ms) = (StopReason::Requested, None);
            Input::Stop { id: nth(cluster, *n)?, reason, grace_ms }
        }
        Step::Preempt(n) => {
            let id = nth(cluster, *n)?;
            cluster.session(&id)?.phase.grant()?;
            Input::Stop { id, reason: StopReason::Preempted, grace_ms: None }
        }
        Step::Move { session, node } => move_input(cluster, *session, *node)?,
        Step::Remove(n) => Input::Remove { id: nth(cluster, *n)? },
        Step::Report { session, state } => report_input(cluster, *session, *state, now)?,
        Step::Liveness { node, state } => {
            let liveness = [Liveness::Live, Liveness::Suspect, Liveness::Lost][usize::from(*state)];
            Input::Liveness { node: node_name(NODES[*node]), liveness }
        }
        Step::Return { node, partition } => Input::Register {
            name: node_name(NODES[*node]),
            agent_id: format!("agent-{}", NODES[*node]),
            inventory: Box::new(hardware(NODES[*node], *partition)),
            reports: Vec::new(),
        },
        Step::Cordon { node, state } => {
            let cordon = [Cordon::Open, Cordon::Cordoned, Cordon::Draining][usize::from(*state)];
            Input::Cordon { node: node_name(NODES[*node]), cordon }
        }
        Step::Quota { project: n, quota } => {
            let weight = 50 * (u32::try_from(*n).unwrap() + 1);
            let record = Project { quota: *quota, weight, ..project(PROJECTS[*n]) };
            Input::PutProject { project: Box::new(record) }
        }
        Step::Class { class, priority, requeue } => {
            let on_preempt = if *requeue { OnPreempt::Requeue } else { OnPreempt::Stop };
            let name = CLASSES[*class].parse().unwrap();
            let class = PriorityClass { on_preempt, ..PriorityClass::new(name, *priority) };
            Input::PutClass { class: Box::new(class) }
        }
    })
}

/// Two cards; the second may be in MIG instances.
fn hardware(node: &str, partition: u8) -> Inventory {
    let instances: &[&str] = match partition {
        0 | 1 => &["1", "2", "3"],
        2 => &["3", "4"],
        3 => &[],
        _ => return inventory(node, 2),
    };
    let instances: Vec<String> = instances.iter().map(|n| format!("MIG-{node}-{n}")).collect();
    let instances: Vec<&str> = instances.iter().map(String::as_str).collect();
    partitioned(node, &instances)
}

/// A move to another node with room, of a session that may be moved.
fn move_input(cluster: &Cluster, n: usize, node: usize) -> Option<Input> {
    let id = nth(cluster, n)?;
    let session = cluster.session(&id)?;
    let node = Some(node_name(NODES[node]));
    let request = Request { node, ..cluster.request(&session.spec) };
    let found = Placer::new(Policy::BestFit, 0).find(&request, cluster.view())?;
    Some(Input::Move { id, generation: session.generation, to: Box::new(found.grant) })
}

fn create_input(cluster: &Cluster, new: &New, number: usize, now: UnixMillis) -> Input {
    let asked = match new.instances {
        0 => spec(new.fgpu),
        count => mig_spec(count),
    };
    let mut spec = in_project(PROJECTS[new.project], asked);
    spec.class = Some(CLASSES[new.class].parse().unwrap());
    spec.start_at = new.start_in.map(|ms| now.plus(ms));
    spec.pending_timeout_ms = new.patience;
    spec.movable = true;
    let after = new.after.and_then(|(n, ok)| Some((nth(cluster, n)?, ok)));
    spec.after.extend(after.map(|(session, ok)| Dependency {
        session,
        condition: if ok { Condition::Ok } else { Condition::Any },
    }));
    if new.replace {
        spec.on_disconnect = OnDisconnect::Stop;
        spec.on_lost = OnLost::Replace;
    }
    let members = match new.members {
        0 => gang(2),
        1 => gang(4),
        2 => array("1-3"),
        3 => array("1-6%2"),
        _ => Members::One,
    };
    let owner = USERS[new.user].parse().unwrap();
    let (id, spec) = (session_id(number), Box::new(spec));
    Input::Create { id, spec, owner, request_id: None, members }
}

fn report_input(cluster: &Cluster, n: usize, state: u8, now: UnixMillis) -> Option<Input> {
    let id = nth(cluster, n)?;
    let held: Vec<(u64, NodeName)> = cluster.sessions()[&id]
        .held()
        .map(|(generation, grant)| (generation, grant.node.clone()))
        .collect();
    let (generation, node) = held.get(n % held.len().max(1))?.clone();
    let state = match state {
        0 => ReportState::Running { at: now, ports: Vec::new() },
        _ => gone(i32::from(state) - 1),
    };
    let report = Report { session: id, generation, state, grant: None };
    Some(Input::Reports { node, reports: vec![report], full: false })
}

/// Plans are made whenever anything changes.
fn at_once() -> Settings {
    Settings { plan_pause_ms: 0, ..settings() }
}

fn start() -> Cluster {
    let mut cluster = Cluster::new(at_once());
    for (at, node) in (0_u8..).zip(NODES) {
        register_with(&mut cluster, node, hardware(node, 2 * at));
    }
    put_project(&mut cluster, project("a"));
    put_project(&mut cluster, project("b"));
    cluster
}

/// Applies a step; the placing of what waits is up to the caller.
fn take(cluster: &mut Cluster, step: &Step, number: usize, now: UnixMillis) {
    cluster.tick(now);
    if let Some(input) = input_of(cluster, step, number, now) {
        let _ = cluster.apply(input, now);
    }
}

/// What every project and every user in it holds.
fn held(cluster: &Cluster) -> Vec<(String, Held)> {
    let projects = PROJECTS.iter().map(|name| name.parse::<ProjectName>().unwrap());
    let mut held = Vec::new();
    for name in projects {
        held.push((name.to_string(), cluster.held_by_project(&name)));
        let users = cluster.held_by_users(&name);
        held.extend(users.map(|(user, own)| (format!("{name}/{user}"), own)));
    }
    held.retain(|(_, own)| *own != Held::default());
    held
}

/// No project got more than its quota by what was placed between `before` and now.
fn check_quotas(cluster: &Cluster, before: &[(String, Held)]) -> Result<(), TestCaseError> {
    for name in PROJECTS {
        let name: ProjectName = name.parse().unwrap();
        let now = cluster.held_by_project(&name);
        let quota = cluster.project(&name).unwrap().quota;
        let old = before.iter().find(|(key, _)| key == name.as_str());
        let old = old.map(|(_, held)| *held).unwrap_or_default();
        if now.sessions > old.sessions {
            prop_assert!(quota.fgpu.is_none_or(|most| now.fgpu <= most), "{name}: {now:?}");
            prop_assert!(quota.sessions.is_none_or(|most| now.sessions <= most), "{name}: {now:?}");
        }
    }
    Ok(())
}

/// Nothing that waits could start: looking at everything anew places nothing.
fn check_nothing_overlooked(cluster: &mut Cluster, now: UnixMillis) -> Result<(), TestCaseError> {
    cluster.index.waiting.hardware_changed();
    cluster.index.unsettled = true;
    prop_assert_eq!(cluster.schedule(now), 0, "something could have started and was not tried");
    Ok(())
}

fn well(cluster: &Cluster, what: &dyn std::fmt::Debug) -> Result<(), TestCaseError> {
    check(cluster).map_err(|broken| TestCaseError::fail(format!("{what:?}: {broken:?}")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn quotas_hold_gangs_are_whole_and_nothing_that_fits_is_overlooked(history in steps()) {
        let mut cluster = start();
        let mut now = T0;
        for (number, (step, pause)) in history.iter().enumerate() {
            now = now.plus(*pause);
            cluster.take_changes();
            take(&mut cluster, step, number, now);
            let before = held(&cluster);
            cluster.schedule(now);
            check_quotas(&cluster, &before)?;
            check_nothing_overlooked(&mut cluster, now)?;
            well(&cluster, step)?;
            let changes = cluster.take_changes();
            let written = changes.puts.iter().filter(|put| matches!(put, Record::Usage(_))).count();
            prop_assert!(written <= PROJECTS.len());
        }
    }

    #[test]
    fn taking_changes_back_leaves_no_trace(history in steps()) {
        let mut cluster = start();
        let mut now = T0;
        for (number, (step, pause)) in history.iter().enumerate() {
            now = now.plus(*pause);
            cluster.tick(now);
            cluster.schedule(now);
            cluster.take_changes();
            let (records, before) = (cluster.records(), held(&cluster));
            let accounts = cluster.index.accounts.projects.clone();
            let order = cluster.waiting_in_order();
            let refused = cluster.index.waiting.queue.refuses();
            take(&mut cluster, step, number, now);
            cluster.schedule(now);
            let changes = cluster.take_changes();
            cluster.rollback(changes);

            prop_assert_eq!(cluster.records(), records);
            prop_assert_eq!(held(&cluster), before);
            for (name, account) in &accounts {
                // Moments weigh by when they are asked about; the sums are the same.
                let now = cluster.index.accounts.projects.get(name).unwrap_or(account);
                prop_assert_eq!(now.total, account.total, "{}", name);
            }
            well(&cluster, &("rollback", step))?;
            let placed = cluster.schedule(now);
            let written = !cluster.take_changes().is_empty();
            // What placement has learned of the mix stays, so it may now choose a place that is
            // kept for nobody for what was refused another.
            if !refused {
                prop_assert!(placed == 0 && !written, "{} placed", placed);
                prop_assert_eq!(cluster.waiting_in_order(), order, "the queue");
            }

            take(&mut cluster, step, number, now);
            cluster.schedule(now);
        }
    }

    #[test]
    fn the_same_inputs_make_the_same_cluster(history in steps()) {
        let (mut one, mut other) = (start(), start());
        let mut now = T0;
        for (number, (step, pause)) in history.iter().enumerate() {
            now = now.plus(*pause);
            take(&mut one, step, number, now);
            take(&mut other, step, number, now);
            prop_assert_eq!(one.schedule(now), other.schedule(now));
        }
        prop_assert_eq!(one.records(), other.records());
    }

    #[test]
    fn a_cluster_is_the_same_from_its_records_alone(history in steps()) {
        let mut cluster = start();
        let mut now = T0;
        for (number, (step, pause)) in history.iter().enumerate() {
            now = now.plus(*pause);
            take(&mut cluster, step, number, now);
            cluster.schedule(now);
        }
        let restored = Cluster::restore(at_once(), cluster.records());
        let mut restored = restored.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(restored.records(), cluster.records());
        prop_assert_eq!(held(&restored), held(&cluster));
        for node in NODES {
            let liveness = cluster.liveness(&node_name(node));
            let told = Input::Liveness { node: node_name(node), liveness: Liveness::Suspect };
            restored.apply(told, now).unwrap();
            let told = Input::Liveness { node: node_name(node), liveness };
            // Lost was told before the records were written.
            if liveness != Liveness::Lost {
                restored.apply(told, now).unwrap();
            }
        }
        // That a node is held off is not recorded: another manager tries it again.
        if cluster.troubles().any(|(_, trouble)| trouble.held_until.is_some()) {
            return Ok(());
        }
        prop_assert_eq!(restored.schedule(now), 0, "what waits still waits");
        prop_assert_eq!(restored.records(), cluster.records());
        // When a lost node gave something back is not recorded, nor what removed sessions used.
        let all_recorded = history.iter().all(|(step, _)| {
            !matches!(step, Step::Remove(_) | Step::Liveness { state: 2, .. })
        });
        if all_recorded {
            for (name, account) in &cluster.index.accounts.projects {
                let again = restored.index.accounts.projects.get(name);
                prop_assert_eq!(again.map(|a| a.total), Some(account.total), "{}", name);
            }
            prop_assert_eq!(restored.waiting_in_order(), cluster.waiting_in_order());
        }
    }
}

/// A cluster of four devices on which six users of three projects always have sessions waiting.
struct Busy {
    cluster: Cluster,
    running: Vec<SessionId>,
    /// Sessions that wait, with how many had started when they were made.
    waiting: Vec<(SessionId, usize)>,
    started: usize,
    next: usize,
}

/// Sessions each user keeps waiting.
const BACKLOG: usize = 3;
/// A project of the least weight is due a 1/13 of the starts and each of its users half of that; a
/// session has at most its backlog before it. Twice that, since ends come at random.
const MOST_STARTS_BEFORE: usize = 2 * 13 * 2 * BACKLOG;

impl Busy {
    fn new(weights: [u32; 3]) -> Self {
        let mut cluster = cluster(&[("n0", 4)]);
        for (name, weight) in PROJECTS.into_iter().zip(weights) {
            put_project(&mut cluster, Project { weight, ..project(name) });
        }
        let (running, waiting) = (Vec::new(), Vec::new());
        Self { cluster, running, waiting, started: 0, next: 0 }
    }

    fn fill(&mut self, now: UnixMillis) {
        for (project, user) in PROJECTS.iter().flat_map(|p| USERS.iter().map(move |u| (*p, *u))) {
            let mine = |id: &SessionId| {
                let session = self.cluster.session(id).unwrap();
                session.spec.project().as_str() == project && session.owner.as_str() == user
            };
            for _ in self.waiting.iter().filter(|(id, _)| mine(id)).count()..BACKLOG {
                let id = session_id(self.next);
                let input = Input::Create {
                    id: id.clone(),
                    spec: Box::new(in_project(project, spec(10_000))),
                    owner: user.parse().unwrap(),
                    request_id: None,
                    members: Members::One,
                };
                self.cluster.apply(input, now).unwrap();
                self.waiting.push((id, self.started));
                self.next += 1;
            }
        }
        self.cluster.schedule(now);
        let placed = |id: &SessionId| self.cluster.session(id).unwrap().phase.grant().is_some();
        let (started, waiting) = self.waiting.drain(..).partition(|(id, _)| placed(id));
        let started: Vec<(SessionId, usize)> = started;
        self.started += started.len();
        self.running.extend(started.into_iter().map(|(id, _)| id));
        self.waiting = waiting;
    }

    fn end(&mut self, which: usize, now: UnixMillis) {
        let id = self.running.swap_remove(which % self.running.len());
        let generation = self.cluster.session(&id).unwrap().generation;
        let report = Report { session: id, generation, state: gone(0), grant: None };
        let node = node_name("n0");
        let input = Input::Reports { node, reports: vec![report], full: false };
        self.cluster.apply(input, now).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn nobody_waits_for_more_starts_than_his_weight_explains(
        weights in (50_u32..=300, 50_u32..=300, 50_u32..=300),
        ends in proptest::collection::vec((any::<usize>(), 0_u64..600_000), 500),
    ) {
        let mut busy = Busy::new([weights.0, weights.1, weights.2]);
        let mut now = T0;
        busy.fill(now);
        for (which, pause) in ends {
            now = now.plus(pause);
            busy.end(which, now);
            busy.fill(now);
            let waited = busy.waiting.iter().map(|(_, made)| busy.started - made).max();
            prop_assert!(waited.unwrap_or(0) <= MOST_STARTS_BEFORE, "{:?} starts", waited);
        }
    }
}
