//! A manager that answers as a test tells it to, over real gRPC on a loopback port.

use crate::fake_projects::Projects;
use fgpu_wire::v1::project_service_server::ProjectServiceServer;
use fgpu_wire::v1::session_service_server::{SessionService, SessionServiceServer};
use fgpu_wire::v1::*;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Answers, taken from the front; the last one is repeated.
pub type Answers<T> = Mutex<VecDeque<Result<T, Status>>>;

/// What the manager answers, and what it was asked.
#[derive(Default)]
pub struct Script {
    pub create: Answers<CreateSessionResponse>,
    pub list: Answers<ListSessionsResponse>,
    pub get: Answers<Session>,
    pub stop: Answers<Session>,
    pub explain: Answers<ExplainSessionResponse>,
    /// What a stop of a group stops beside its first member.
    pub other_members: Mutex<Vec<Session>>,
    /// The last create that was asked for.
    pub created: Mutex<Option<CreateSessionRequest>>,
    /// What was asked of projects, quotas and classes, in the debug form of the request.
    pub projects: Mutex<Vec<String>>,
    /// Each watch sends one of these lists, then stays open.
    pub watch: Mutex<VecDeque<Vec<Session>>>,
    /// So many watches end after their list, as when a manager goes down.
    pub broken_watches: Mutex<u32>,
    /// Sent to a watch when a stop is asked for.
    pub after_stop: Mutex<Option<Session>>,
    /// Each log stream sends one of these lists: pieces, then the end or an error.
    pub logs: Mutex<VecDeque<Vec<Result<LogChunk, Status>>>>,
    pub calls: Mutex<Vec<Call>>,
    pub watchers: Mutex<Vec<mpsc::Sender<Result<WatchSessionsResponse, Status>>>>,
}

/// One call: its name, the bearer header, and what it was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: &'static str,
    pub bearer: Option<String>,
    pub about: String,
}

/// A running fake.
pub struct Fake {
    pub script: Arc<Script>,
    pub address: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One answer, for ever.
pub fn always<T>(answer: Result<T, Status>) -> Answers<T> {
    Mutex::new([answer].into())
}

/// Starts a fake manager.
pub async fn start(script: Script) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let script = Arc::new(script);
    let service = SessionServiceServer::new(Service(script.clone()));
    let projects = ProjectServiceServer::new(Projects(script.clone()));
    let server = tonic::transport::Server::builder().add_service(service).add_service(projects);
    let task = tokio::spawn(async move {
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    Fake { script, address, task }
}

impl Script {
    /// What was asked so far.
    pub fn calls(&self, name: &str) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.name == name).cloned().collect()
    }

    fn note<T>(&self, name: &'static str, request: &Request<T>, about: &str) {
        let header = request.metadata().get("authorization");
        let bearer = header.map(|value| value.to_str().unwrap().to_owned());
        self.calls.lock().unwrap().push(Call { name, bearer, about: about.to_owned() });
    }
}

fn answer<T: Clone>(answers: &Answers<T>) -> Result<Response<T>, Status> {
    let mut answers = answers.lock().unwrap();
    let first = match answers.len() {
        0 => return Err(Status::unimplemented("the test has no answer")),
        1 => answers[0].clone(),
        _ => answers.pop_front().unwrap(),
    };
    first.map(Response::new)
}

struct Service(Arc<Script>);

type Stream1<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for Service {
    async fn create_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<CreateSessionResponse>, Status> {
        self.0.note("create", &request, &request.get_ref().request_id);
        *self.0.created.lock().unwrap() = Some(request.get_ref().clone());
        answer(&self.0.create)
    }

    async fn dry_run_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<ExplainSessionResponse>, Status> {
        self.0.note("dry_run", &request, "");
        answer(&self.0.explain)
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        self.0.note("get", &request, &request.get_ref().session);
        answer(&self.0.get)
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        self.0.note("list", &request, &request.get_ref().page_token);
        answer(&self.0.list)
    }

    type WatchSessionsStream = Stream1<WatchSessionsResponse>;

    async fn watch_sessions(
        &self,
        request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        self.0.note("watch", &request, &request.get_ref().session);
        let sessions = self.0.watch.lock().unwrap().pop_front().unwrap_or_default();
        let (sender, receiver) = mpsc::channel(64);
        for session in sessions {
            sender.send(Ok(changed(session))).await.unwrap();
        }
        let mut broken = self.0.broken_watches.lock().unwrap();
        if *broken > 0 {
            *broken -= 1;
        } else {
            self.0.watchers.lock().unwrap().push(sender);
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stop_session(
        &self,
        request: Request<StopSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        self.0.note("stop", &request, &request.get_ref().session);
        let ended = self.0.after_stop.lock().unwrap().take();
        if let Some(ended) = ended {
            self.0.watch.lock().unwrap().push_back(vec![ended.clone()]);
            let watchers = self.0.watchers.lock().unwrap().clone();
            for watcher in watchers {
                let _ = watcher.send(Ok(changed(ended.clone()))).await;
            }
        }
        answer(&self.0.stop)
    }

    async fn stop_group(
        &self,
        request: Request<StopGroupRequest>,
    ) -> Result<Response<StopGroupResponse>, Status> {
        let StopGroupRequest { group, grace_ms } = request.get_ref().clone();
        let mut one = Request::new(StopSessionRequest { session: group, grace_ms });
        *one.metadata_mut() = request.metadata().clone();
        let session = self.stop_session(one).await?.into_inner();
        let mut members = vec![session];
        members.extend(self.0.other_members.lock().unwrap().clone());
        Ok(Response::new(StopGroupResponse { members }))
    }

    async fn remove_session(
        &self,
        request: Request<RemoveSessionRequest>,
    ) -> Result<Response<RemoveSessionResponse>, Status> {
        self.0.note("remove", &request, &request.get_ref().session);
        Ok(Response::new(RemoveSessionResponse { id: request.into_inner().session }))
    }

    async fn explain_session(
        &self,
        request: Request<ExplainSessionRequest>,
    ) -> Result<Response<ExplainSessionResponse>, Status> {
        self.0.note("explain", &request, &request.get_ref().session);
        answer(&self.0.explain)
    }

    type StreamLogsStream = Stream1<LogChunk>;

    async fn stream_logs(
        &self,
        request: Request<StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        self.0.note("logs", &request, &request.get_ref().session);
        let pieces = self.0.logs.lock().unwrap().pop_front().unwrap_or_default();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    type ExecStream = Stream1<ExecResponse>;

    /// Gives the input back as output; the exit code is the number of its bytes.
    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        self.0.note("exec", &request, "");
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(Ok(request)) = requests.next().await {
                let message = match request.message {
                    Some(exec_request::Message::Start(start)) if !start.stdin => {
                        count = 3;
                        break;
                    }
                    Some(exec_request::Message::Stdin(data)) => {
                        count += i32::try_from(data.len()).unwrap();
                        exec_response::Message::Output(chunk(OutputStream::Stdout, &data))
                    }
                    Some(exec_request::Message::StdinClosed(_)) => break,
                    _ => continue,
                };
                let _ = sender.send(Ok(ExecResponse { message: Some(message) })).await;
            }
            let message = Some(exec_response::Message::ExitCode(count));
            let _ = sender.send(Ok(ExecResponse { message })).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type PortForwardStream = Stream1<PortForwardResponse>;

    /// An echo in capitals, so that nobody takes the request for the answer.
    async fn port_forward(
        &self,
        request: Request<Streaming<PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        self.0.note("port_forward", &request, "");
        let answers = request.into_inner().filter_map(|request| match request.ok()?.message? {
            port_forward_request::Message::Data(data) => {
                Some(Ok(PortForwardResponse { data: data.to_ascii_uppercase() }))
            }
            port_forward_request::Message::Start(_) => None,
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn changed(session: Session) -> WatchSessionsResponse {
    WatchSessionsResponse { event: Some(watch_sessions_response::Event::Changed(session)) }
}

/// A piece of output.
pub fn chunk(stream: OutputStream, data: &[u8]) -> LogChunk {
    LogChunk { stream: stream.into(), data: data.to_vec() }
}

/// A session in a phase.
pub fn session(phase: Phase) -> Session {
    let started = if matches!(phase, Phase::Running | Phase::Ended) { 1 } else { 0 };
    Session {
        id: "abcd1234".into(),
        phase: phase.into(),
        started_at_ms: started,
        generation: 1,
        spec: Some(SessionSpec { name: "train".into(), ..SessionSpec::default() }),
        ..Session::default()
    }
}

/// A session whose command returned `code`.
pub fn ended(code: i32) -> Session {
    let outcome = if code == 0 { Outcome::Completed } else { Outcome::Failed };
    Session { outcome: outcome.into(), exit_code: Some(code), ..session(Phase::Ended) }
}

/// A create that is accepted.
pub fn accepted() -> Result<CreateSessionResponse, Status> {
    Ok(CreateSessionResponse { session: Some(session(Phase::Pending)), ..Default::default() })
}
