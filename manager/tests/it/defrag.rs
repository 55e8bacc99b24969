//! Plans of moves over the wire, and making them with agents that only speak the protocol.

use crate::agent::{FakeAgent, gone, registration, running};
use crate::harness::{Running, World, code, spec};
use fgpu_wire::v1;
use fgpu_wire::v1::run_defrag_response::Event;
use fgpu_wire::v1::session_report::State;

/// A node with one device.
async fn join(manager: &Running, name: &str) -> FakeAgent {
    let mut register = registration(name, &format!("agent-{name}"));
    if let Some(inventory) = &mut register.inventory {
        inventory.devices.truncate(1);
    }
    let agent = FakeAgent::dial(manager, register).await;
    agent.welcomed().await;
    agent
}

fn movable(fgpu_milli: u64) -> v1::SessionSpec {
    v1::SessionSpec { movable: true, ..spec(fgpu_milli) }
}

fn node_of(session: &v1::Session) -> String {
    session.grant.clone().unwrap().node
}

/// Two nodes of one device, each with a movable session of 3 fGPU and room for 7.
struct Scattered {
    world: World,
    manager: Running,
    agents: Vec<FakeAgent>,
    sessions: Vec<String>,
}

impl Scattered {
    async fn new() -> Self {
        let world = World::new().await;
        let manager = world.start().await;
        let agents = vec![join(&manager, "a1").await, join(&manager, "a2").await];
        let mut all = Self { world, manager, agents, sessions: Vec::new() };
        let one = all.runs(movable(3_000)).await;
        let filler = all.runs(spec(7_000)).await;
        let other = all.runs(movable(3_000)).await;
        all.sessions = vec![one, other];
        all.ends(&filler).await;
        all
    }

    fn agent(&self, node: &str) -> &FakeAgent {
        self.agents.iter().find(|agent| agent.name == node).unwrap()
    }

    async fn runs(&self, spec: v1::SessionSpec) -> String {
        let id = self.manager.create(spec).await.id;
        let session = self.manager.reaches(&id, v1::Phase::Scheduled).await;
        self.says(&node_of(&session), &id, running()).await;
        self.manager.reaches(&id, v1::Phase::Running).await;
        id
    }

    async fn ends(&self, id: &str) {
        let session = self.manager.get(id).await;
        self.says(&node_of(&session), id, gone(0)).await;
        self.manager.reaches(id, v1::Phase::Ended).await;
    }

    async fn says(&self, node: &str, id: &str, state: State) {
        let agent = self.agent(node);
        let wanted = agent.wants(id).await;
        agent.report(&wanted, state).await;
    }

    async fn plan(&self) -> v1::DefragPlan {
        let request = v1::PlanDefragRequest::default();
        self.manager.admin().plan_defrag(request).await.unwrap().into_inner()
    }

    async fn run(
        &self,
        plan: &v1::DefragPlan,
    ) -> Result<tonic::Streaming<v1::RunDefragResponse>, tonic::Status> {
        let request = v1::RunDefragRequest { plan_id: plan.id.clone(), at_once: 0 };
        Ok(self.manager.admin().run_defrag(request).await?.into_inner())
    }
}

async fn next(events: &mut tonic::Streaming<v1::RunDefragResponse>) -> Event {
    let told = tokio::time::timeout(crate::harness::DEADLINE, events.message()).await.unwrap();
    told.unwrap().unwrap().event.unwrap()
}

#[tokio::test]
async fn a_plan_frees_a_device_and_its_session_runs_on_elsewhere() {
    let all = Scattered::new().await;
    let plan = all.plan().await;
    let (before, after) = (plan.before.unwrap(), plan.after.unwrap());
    assert_eq!((before.free_devices, after.free_devices), (0, 1));
    assert_eq!((plan.steps.len(), plan.movable, plan.cost.unwrap().restarts), (1, 2, 1));
    let planned = plan.steps[0].moves[0].clone();
    let (from, to) = (planned.from.clone().unwrap(), planned.to.clone().unwrap());
    assert_ne!(from.node, to.node);
    assert!(all.sessions.contains(&planned.session_id) && !planned.owner.is_empty());
    assert_eq!(plan.steps[0].frees_node, from.node);

    let mut events = all.run(&plan).await.unwrap();
    assert_eq!(next(&mut events).await, Event::Started(planned.clone()));
    let id = planned.session_id.clone();
    all.says(&from.node, &id, gone(143)).await;
    let wanted = all.agent(&to.node).wants(&id).await;
    assert_eq!(wanted.generation, planned.generation + 1);
    all.says(&to.node, &id, running()).await;
    let node = to.node.clone();
    let ended = v1::MoveEnded { session_id: id.clone(), moved: true, node, note: String::new() };
    assert_eq!(next(&mut events).await, Event::Ended(ended));
    let now = Some(after);
    let done = v1::DefragDone { moved: 1, left: 0, stopped: String::new(), now };
    assert_eq!(next(&mut events).await, Event::Done(done));
    assert_eq!(events.message().await.unwrap(), None);

    let session = all.manager.get(&id).await;
    assert_eq!((session.phase(), session.grant), (v1::Phase::Running, Some(to)));
    assert_eq!(all.plan().await.steps, []);
    all.manager.stop().await;
    assert_eq!(all.world.restored().await.sessions().len(), 3);
}

#[tokio::test]
async fn a_plan_is_run_once_and_not_after_what_it_rests_on_has_changed() {
    let all = Scattered::new().await;
    let plan = all.plan().await;
    let other = all.plan().await;
    assert_ne!(plan.id, other.id);
    let planned = plan.steps[0].moves[0].clone();
    all.ends(&planned.session_id).await;

    let refused = all.run(&plan).await.unwrap_err();
    assert_eq!(code(&refused), "PLAN_STALE");
    assert!(refused.message().contains(&planned.session_id), "{}", refused.message());
    let unknown = v1::DefragPlan { id: "0-9".to_owned(), ..v1::DefragPlan::default() };
    assert_eq!(code(&all.run(&unknown).await.unwrap_err()), "PLAN_NOT_FOUND");
    all.manager.stop().await;
}

#[tokio::test]
async fn a_session_that_does_not_start_elsewhere_runs_where_it_was_and_the_rest_is_left() {
    let all = Scattered::new().await;
    let plan = all.plan().await;
    let planned = plan.steps[0].moves[0].clone();
    let (from, to) = (planned.from.clone().unwrap(), planned.to.clone().unwrap());
    let id = planned.session_id.clone();
    let mut events = all.run(&plan).await.unwrap();
    next(&mut events).await;
    all.says(&from.node, &id, gone(143)).await;
    let failed = v1::Gone {
        exit_code: None,
        code: "IMAGE_NOT_FOUND".to_owned(),
        message: "no such image".to_owned(),
        ..v1::Gone::default()
    };
    all.says(&to.node, &id, State::Gone(failed)).await;
    let third = planned.generation + 2;
    let agent = all.agent(&from.node);
    let wanted = agent.wants_as(&id, |wanted| wanted.generation == third).await;
    agent.report(&wanted, running()).await;

    let Event::Ended(ended) = next(&mut events).await else { panic!("not ended") };
    assert!(!ended.moved && ended.note.contains("no such image"), "{ended:?}");
    let Event::Done(done) = next(&mut events).await else { panic!("not done") };
    assert_eq!((done.moved, done.left), (0, 0));
    assert!(done.stopped.contains(&id), "{done:?}");
    assert_eq!(all.manager.get(&id).await.phase(), v1::Phase::Running);
    all.manager.stop().await;
}

#[tokio::test]
async fn a_move_under_way_is_carried_to_its_end_when_nobody_listens_any_more() {
    let all = Scattered::new().await;
    let plan = all.plan().await;
    let planned = plan.steps[0].moves[0].clone();
    let mut events = all.run(&plan).await.unwrap();
    next(&mut events).await;
    drop(events);
    let id = planned.session_id;
    all.says(&planned.from.unwrap().node, &id, gone(143)).await;
    let to = planned.to.unwrap();
    all.says(&to.node, &id, running()).await;
    let session = all.manager.reaches(&id, v1::Phase::Running).await;
    assert_eq!(session.grant, Some(to));
    all.manager.stop().await;
}
