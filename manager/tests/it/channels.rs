//! Logs, terminals and forwarded ports through a fake agent.

use crate::agent::{FakeAgent, running};
use crate::harness::{DEADLINE, Running, World, code, spec};
use fgpu_wire::v1;
use fgpu_wire::v1::channel_up::Message as Up;
use fgpu_wire::v1::open_channel::Purpose;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// The agent's end of a channel it dialled.
struct Dialled {
    up: mpsc::Sender<v1::ChannelUp>,
    down: Streaming<v1::ChannelDown>,
}

impl Dialled {
    async fn new(manager: &Running, id: &str) -> Self {
        let (up, frames) = mpsc::channel(16);
        let name = Some(Up::ChannelId(id.to_owned()));
        up.send(v1::ChannelUp { message: name }).await.unwrap();
        let answer = manager.agents().open_channel(ReceiverStream::new(frames)).await.unwrap();
        Self { up, down: answer.into_inner() }
    }

    async fn say(&self, message: Up) {
        self.up.send(v1::ChannelUp { message: Some(message) }).await.unwrap();
    }

    /// Says no more, and reads until the manager says no more either.
    async fn end(mut self) {
        let (closed, _) = mpsc::channel(1);
        self.up = closed;
        while self.hears().await.is_some() {}
    }

    async fn hears(&mut self) -> Option<v1::channel_down::Message> {
        let next = tokio::time::timeout(DEADLINE, self.down.message()).await.unwrap();
        next.unwrap().and_then(|frame| frame.message)
    }
}

fn output(text: &str) -> v1::LogChunk {
    v1::LogChunk { stream: v1::OutputStream::Stdout.into(), data: text.as_bytes().to_vec() }
}

async fn session(manager: &Running, agent: &FakeAgent) -> String {
    let id = manager.create(spec(1000)).await.id;
    agent.report(&agent.wants(&id).await, running()).await;
    manager.reaches(&id, v1::Phase::Running).await;
    id
}

#[tokio::test]
async fn logs_come_from_the_agent_and_end_when_it_ends_them() {
    let world = World::new().await;
    let manager = world.start().await;
    let mut agent = FakeAgent::join(&manager, "a1").await;
    let id = session(&manager, &agent).await;
    let mut client = manager.sessions();
    let beginning = id[..6].to_owned();
    let asking = tokio::spawn(async move {
        let request =
            v1::StreamLogsRequest { session: beginning, tail: Some(5), ..Default::default() };
        client.stream_logs(request).await
    });

    let asked = agent.asked().await;
    let Some(Purpose::Logs(wanted)) = asked.purpose else { panic!("{asked:?}") };
    assert_eq!((wanted.session, wanted.tail), (id, Some(5)));
    let dialled = Dialled::new(&manager, &asked.channel_id).await;
    dialled.say(Up::Output(output("hello"))).await;
    dialled.end().await;

    let mut logs = asking.await.unwrap().unwrap().into_inner();
    assert_eq!(logs.message().await.unwrap(), Some(output("hello")));
    assert_eq!(logs.message().await.unwrap(), None);
    manager.stop().await;
}

#[tokio::test]
async fn a_command_gets_its_input_and_gives_output_and_exit_code() {
    let world = World::new().await;
    let manager = world.start().await;
    let mut agent = FakeAgent::join(&manager, "a1").await;
    let id = session(&manager, &agent).await;
    let (input, requests) = mpsc::channel(16);
    let say = |message| v1::ExecRequest { message: Some(message) };
    let start =
        v1::ExecStart { session: id, command: vec!["cat".to_owned()], ..Default::default() };
    input.send(say(v1::exec_request::Message::Start(start))).await.unwrap();
    let mut client = manager.sessions();
    let asking = tokio::spawn(async move { client.exec(ReceiverStream::new(requests)).await });

    let asked = agent.asked().await;
    assert!(matches!(&asked.purpose, Some(Purpose::Exec(start)) if start.command == ["cat"]));
    let mut dialled = Dialled::new(&manager, &asked.channel_id).await;
    let mut answers = asking.await.unwrap().unwrap().into_inner();
    input.send(say(v1::exec_request::Message::Stdin(b"hi".to_vec()))).await.unwrap();
    assert_eq!(dialled.hears().await, Some(v1::channel_down::Message::Data(b"hi".to_vec())));
    input.send(say(v1::exec_request::Message::StdinClosed(true))).await.unwrap();
    assert_eq!(dialled.hears().await, Some(v1::channel_down::Message::Closed(true)));
    dialled.say(Up::Output(output("hi"))).await;
    dialled.say(Up::ExitCode(3)).await;

    let first = answers.message().await.unwrap().unwrap().message.unwrap();
    assert_eq!(first, v1::exec_response::Message::Output(output("hi")));
    let second = answers.message().await.unwrap().unwrap().message.unwrap();
    assert_eq!(second, v1::exec_response::Message::ExitCode(3));
    dialled.end().await;
    assert_eq!(answers.message().await.unwrap(), None);
    manager.stop().await;
}

#[tokio::test]
async fn what_the_agent_cannot_do_is_told_with_its_words() {
    let world = World::new().await;
    let manager = world.start().await;
    let mut agent = FakeAgent::join(&manager, "a1").await;
    let id = session(&manager, &agent).await;
    let mut client = manager.sessions();
    let asking = tokio::spawn(async move {
        let request = v1::StreamLogsRequest { session: id, ..Default::default() };
        client.stream_logs(request).await.unwrap().into_inner().message().await
    });
    let asked = agent.asked().await;
    let dialled = Dialled::new(&manager, &asked.channel_id).await;
    let detail = v1::ErrorDetail { hint: "start docker".to_owned(), ..Default::default() };
    dialled.say(Up::Error(detail)).await;
    dialled.say(Up::ErrorMessage("the engine is away".to_owned())).await;

    let refused = asking.await.unwrap().unwrap_err();
    assert_eq!(code(&refused), "AGENT_FAILED");
    assert_eq!(refused.message(), "the engine is away");
    manager.stop().await;
}

#[tokio::test]
async fn without_an_agent_or_a_running_session_the_reason_is_given() {
    let world = World::new().await;
    let manager = world.start().await;
    let pending = manager.create(spec(1000)).await.id;
    let logs = async |session: &str| {
        let request = v1::StreamLogsRequest { session: session.to_owned(), ..Default::default() };
        manager.sessions().stream_logs(request).await.unwrap_err()
    };
    assert_eq!(code(&logs(&pending).await), "WRONG_PHASE");
    assert_eq!(code(&logs("nosuchsession").await), "SESSION_NOT_FOUND");

    let agent = FakeAgent::join(&manager, "a1").await;
    agent.wants(&pending).await;
    drop(agent);
    let refused = crate::harness::eventually("the agent is away", async || {
        let refused = logs(&pending).await;
        if refused.message().contains("not connected") {
            Ok(refused)
        } else {
            Err(refused.to_string())
        }
    })
    .await;
    assert_eq!(code(&refused), "AGENT_UNAVAILABLE");
    manager.stop().await;
}

#[tokio::test]
async fn a_channel_nobody_waits_for_is_refused() {
    let world = World::new().await;
    let manager = world.start().await;
    let (up, frames) = mpsc::channel(4);
    up.send(v1::ChannelUp { message: Some(Up::ChannelId("guessed".to_owned())) }).await.unwrap();
    let refused = manager.agents().open_channel(ReceiverStream::new(frames)).await.unwrap_err();
    assert_eq!(code(&refused), "INVALID_ARGUMENT");
    manager.stop().await;
}

#[tokio::test]
async fn a_forwarded_port_carries_bytes_both_ways() {
    let world = World::new().await;
    let manager = world.start().await;
    let mut agent = FakeAgent::join(&manager, "a1").await;
    let id = session(&manager, &agent).await;
    let (input, requests) = mpsc::channel(16);
    let say = |message| v1::PortForwardRequest { message: Some(message) };
    let start = v1::PortForwardStart { session: id, port: 80 };
    input.send(say(v1::port_forward_request::Message::Start(start))).await.unwrap();
    let mut client = manager.sessions();
    let asking =
        tokio::spawn(async move { client.port_forward(ReceiverStream::new(requests)).await });
    let asked = agent.asked().await;
    let mut dialled = Dialled::new(&manager, &asked.channel_id).await;
    let mut answers = asking.await.unwrap().unwrap().into_inner();

    input.send(say(v1::port_forward_request::Message::Data(b"ping".to_vec()))).await.unwrap();
    assert_eq!(dialled.hears().await, Some(v1::channel_down::Message::Data(b"ping".to_vec())));
    dialled.say(Up::Data(b"pong".to_vec())).await;
    assert_eq!(answers.message().await.unwrap().unwrap().data, b"pong");
    // The caller goes: the agent's stream ends.
    drop((answers, input));
    while dialled.hears().await.is_some() {}
    manager.stop().await;
}
