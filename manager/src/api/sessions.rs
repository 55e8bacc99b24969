//! Sessions.

use super::{Caller, errors, explain, groups, streams, watch};
use fgpu_domain::cluster::{Applied, Cluster, Input};
use fgpu_domain::ids::{IdError, RequestId, SessionId};
use fgpu_domain::session::{Phase, Session, SessionSpec, StopReason};
use fgpu_service::secret;
use fgpu_wire::convert::{self, SpecDefaults};
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use fgpu_wire::v1::session_service_server::SessionService;
use prost::Message as _;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Sessions on one page at most, and the bytes after which a page ends.
const PAGE: usize = 1000;
const PAGE_BYTES: usize = 4 << 20;
/// How long a list waits for what its sessions wait for.
const REASON_PATIENCE: Duration = Duration::from_millis(500);

pub(super) struct Sessions;

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl SessionService for Sessions {
    type WatchSessionsStream = Answers<v1::WatchSessionsResponse>;
    type StreamLogsStream = Answers<v1::LogChunk>;
    type ExecStream = Answers<v1::ExecResponse>;
    type PortForwardStream = Answers<v1::PortForwardResponse>;

    async fn create_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::CreateSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let v1::CreateSessionRequest { spec, request_id, members } = request.into_inner();
        let request_id = request_id_of(&request_id)?;
        let input = Input::Create {
            id: new_id()?,
            spec: Box::new(spec_of(&caller, spec)?),
            owner: caller.identity.user.clone(),
            request_id,
            members: convert::members(members)?,
        };
        match submit(&caller, input).await? {
            Applied::Session { session, existed } => {
                let (session, members) = (Some((&*session).into()), Vec::new());
                Ok(Response::new(v1::CreateSessionResponse { session, existed, members }))
            }
            Applied::Group { sessions, existed } => {
                let members: Vec<v1::Session> = sessions.iter().map(|s| (&**s).into()).collect();
                let session = members.first().cloned();
                Ok(Response::new(v1::CreateSessionResponse { session, existed, members }))
            }
            other => Err(errors::unexpected(&other).into()),
        }
    }

    async fn dry_run_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::ExplainSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let members = convert::members(request.members)?;
        let spec = spec_of(&caller, request.spec)?;
        let owner = caller.identity.user.clone();
        let answer = caller.term.engine.dry_run(spec, owner, members).await;
        let answer = answer.map_err(errors::from_engine)?;
        Ok(Response::new(explained(&caller, &answer)))
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let caller = Caller::of(&request)?;
        let session = caller.find(&request.into_inner().session)?;
        let mut found = [v1::Session::from(&*session)];
        say_what_they_wait_for(&caller, &mut found).await;
        let [session] = found;
        Ok(Response::new(session))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut page = list(&caller, &request.into_inner())?;
        say_what_they_wait_for(&caller, &mut page.sessions).await;
        Ok(Response::new(page))
    }

    async fn watch_sessions(
        &self,
        request: Request<v1::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let caller = Caller::of(&request)?;
        let wanted = request.into_inner().session;
        let only = match wanted.as_str() {
            "" => None,
            text => Some(caller.find(text)?.id.clone()),
        };
        Ok(Response::new(watch::start(caller, only)))
    }

    async fn stop_session(
        &self,
        request: Request<v1::StopSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let caller = Caller::of(&request)?;
        let v1::StopSessionRequest { session, grace_ms } = request.into_inner();
        let id = caller.find(&session)?.id.clone();
        let grace_ms = (grace_ms != 0).then_some(grace_ms);
        let input = Input::Stop { id, reason: StopReason::Requested, grace_ms };
        match submit(&caller, input).await? {
            Applied::Session { session, .. } => Ok(Response::new((&*session).into())),
            other => Err(errors::unexpected(&other).into()),
        }
    }

    async fn stop_group(
        &self,
        request: Request<v1::StopGroupRequest>,
    ) -> Result<Response<v1::StopGroupResponse>, Status> {
        let caller = Caller::of(&request)?;
        let v1::StopGroupRequest { group, grace_ms } = request.into_inner();
        let grace_ms = (grace_ms != 0).then_some(grace_ms);
        let members = groups::stop(&caller, &group, grace_ms).await?;
        let members = members.iter().map(|session| (&**session).into()).collect();
        Ok(Response::new(v1::StopGroupResponse { members }))
    }

    async fn remove_session(
        &self,
        request: Request<v1::RemoveSessionRequest>,
    ) -> Result<Response<v1::RemoveSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = caller.find(&request.into_inner().session)?.id.clone();
        submit(&caller, Input::Remove { id: id.clone() }).await?;
        Ok(Response::new(v1::RemoveSessionResponse { id: id.to_string() }))
    }

    async fn explain_session(
        &self,
        request: Request<v1::ExplainSessionRequest>,
    ) -> Result<Response<v1::ExplainSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = caller.find(&request.into_inner().session)?.id.clone();
        let answer = caller.term.engine.explain(id).await.map_err(errors::from_engine)?;
        Ok(Response::new(explained(&caller, &answer)))
    }

    async fn stream_logs(
        &self,
        request: Request<v1::StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(streams::logs(&caller, request.into_inner()).await?))
    }

    async fn exec(
        &self,
        request: Request<Streaming<v1::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(streams::exec(&caller, request.into_inner()).await?))
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<v1::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(streams::port_forward(&caller, request.into_inner()).await?))
    }
}

async fn submit(caller: &Caller, input: Input) -> Result<Applied, CallError> {
    caller.term.engine.submit(input).await.map_err(errors::from_engine)
}

fn spec_of(caller: &Caller, spec: Option<v1::SessionSpec>) -> Result<SessionSpec, CallError> {
    let mut spec = spec.ok_or_else(|| CallError::field("spec", "", "say what shall run"))?;
    for after in &mut spec.after {
        after.session = followed(caller, &after.session)?;
    }
    let config = &caller.term.config;
    let defaults = SpecDefaults { cpu: config.default_cpu, memory: config.default_memory };
    convert::session_spec(spec, defaults)
}

/// The id of a session to follow; it may be named as anywhere else.
fn followed(caller: &Caller, text: &str) -> Result<String, CallError> {
    match caller.find(text) {
        Ok(session) => Ok(session.id.to_string()),
        Err(error) if error.code == ErrorCode::SessionNotFound => {
            let (field, rule) = ("--after", "no such session");
            let mut missing = CallError::field(field, text, rule).with("session", text);
            missing.code = ErrorCode::DependencyNotFound;
            Err(missing.hint(error.hint))
        }
        Err(mut error) => {
            error.fields.extend(CallError::field("--after", text, "").fields);
            Err(error)
        }
    }
}

fn request_id_of(text: &str) -> Result<Option<RequestId>, CallError> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse();
    parsed.map(Some).map_err(|e: IdError| CallError::field("--request-id", &e.value, e.rule))
}

/// A new session id: 60 random bits are enough for any number of sessions a store can hold.
fn new_id() -> Result<SessionId, CallError> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let internal = |text: String| CallError::new(ErrorCode::Internal, text);
    let random = secret::random::<12>().map_err(|error| internal(error.to_string()))?;
    let text: String =
        random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    SessionId::new(text).map_err(|error| internal(error.to_string()))
}

fn explained(
    caller: &Caller,
    explanation: &fgpu_domain::cluster::Explanation,
) -> v1::ExplainSessionResponse {
    let snapshot = caller.term.engine.snapshot();
    explain::explanation(explanation, |id| {
        snapshot.sessions.get(id).is_some_and(|session| caller.sees(session))
    })
}

fn list(
    caller: &Caller,
    request: &v1::ListSessionsRequest,
) -> Result<v1::ListSessionsResponse, CallError> {
    let snapshot = caller.term.engine.snapshot();
    let after =
        match request.page_token.as_str() {
            "" => Bound::Unbounded,
            token => Bound::Excluded(SessionId::new(token).map_err(|_| {
                CallError::field("page_token", token, "as given with the page before")
            })?),
        };
    let most = usize::try_from(request.page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE);
    let mut page = v1::ListSessionsResponse::default();
    let mut bytes = 0;
    let range = snapshot.sessions.range((after, Bound::Unbounded)).map(|(_, session)| session);
    let group = match request.group.as_str() {
        "" => None,
        text => Some(caller.find(text)?.id.clone()),
    };
    let of_group = |session: &Session| {
        let own = session.group.as_ref().map(|group| &group.id);
        group.as_ref().is_none_or(|wanted| own == Some(wanted))
    };
    for session in range
        .filter(|session| caller.sees(session) && matches(request, session) && of_group(session))
    {
        if page.sessions.len() >= most.min(PAGE) || bytes >= PAGE_BYTES {
            page.next_page_token =
                page.sessions.last().map(|last| last.id.clone()).unwrap_or_default();
            break;
        }
        let wire = v1::Session::from(&**session);
        bytes += wire.encoded_len();
        page.sessions.push(wire);
    }
    Ok(page)
}

/// Adds to sessions that wait what they wait for. The engine knows; where it does not answer soon
/// the list goes without.
async fn say_what_they_wait_for(caller: &Caller, sessions: &mut [v1::Session]) {
    let waits = |session: &&mut v1::Session| session.phase() == v1::Phase::Pending;
    let mut waiting: Vec<&mut v1::Session> = sessions.iter_mut().filter(waits).collect();
    if waiting.is_empty() {
        return;
    }
    let ids: Vec<String> = waiting.iter().map(|session| session.id.clone()).collect();
    let look = move |cluster: &Cluster| {
        let waits_for = |id: String| cluster.waits_for(&SessionId::new(id).ok()?);
        ids.into_iter().map(waits_for).collect::<Vec<_>>()
    };
    let asked = tokio::time::timeout(REASON_PATIENCE, caller.term.engine.read(look)).await;
    let Ok(Ok(found)) = asked else { return };
    for (session, waits_for) in waiting.iter_mut().zip(found) {
        let Some(waits_for) = waits_for else { continue };
        waits_for.code().clone_into(&mut session.pending_code);
        session.pending_reason = waits_for.to_string();
    }
}

fn matches(request: &v1::ListSessionsRequest, session: &Arc<Session>) -> bool {
    let ended = matches!(session.phase, Phase::Ended(_));
    let on_node = |node: &str| {
        let last = match &session.phase {
            Phase::Ended(ended) => ended.grant.as_ref(),
            phase => phase.grant(),
        };
        last.is_some_and(|grant| grant.node.as_str() == node)
    };
    (request.all || !ended)
        && (request.owner.is_empty() || session.owner.as_str() == request.owner)
        && (request.node.is_empty() || on_node(&request.node))
        && (request.project.is_empty() || session.spec.project().as_str() == request.project)
        && request.labels.iter().all(|(key, value)| session.spec.labels.get(key) == Some(value))
}
