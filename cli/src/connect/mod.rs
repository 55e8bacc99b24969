//! The way to a manager: where it is, who we are, and what happens when it does not answer.
//!
//! [`Link::call`] follows a manager that does not lead to the one that does, and repeats what may
//! be repeated for a few seconds.

mod target;

pub(crate) use target::{ConnectArgs, Target, check_addresses};

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1::admin_service_client::AdminServiceClient;
use fgpu_wire::v1::device_service_client::DeviceServiceClient;
use fgpu_wire::v1::node_service_client::NodeServiceClient;
use fgpu_wire::v1::project_service_client::ProjectServiceClient;
use fgpu_wire::v1::session_service_client::SessionServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::failure::Failure;
use crate::output;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(150);
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Puts the bearer token on every request.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Transport = InterceptedService<Channel, Bearer>;

/// One connection, as the services of the contract.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    transport: Transport,
}

impl Clients {
    pub(crate) fn sessions(&self) -> SessionServiceClient<Transport> {
        SessionServiceClient::new(self.transport.clone())
            .max_decoding_message_size(fgpu_wire::MAX_MESSAGE_BYTES)
    }

    pub(crate) fn nodes(&self) -> NodeServiceClient<Transport> {
        NodeServiceClient::new(self.transport.clone())
            .max_decoding_message_size(fgpu_wire::MAX_MESSAGE_BYTES)
    }

    pub(crate) fn devices(&self) -> DeviceServiceClient<Transport> {
        DeviceServiceClient::new(self.transport.clone())
            .max_decoding_message_size(fgpu_wire::MAX_MESSAGE_BYTES)
    }

    pub(crate) fn projects(&self) -> ProjectServiceClient<Transport> {
        ProjectServiceClient::new(self.transport.clone())
            .max_decoding_message_size(fgpu_wire::MAX_MESSAGE_BYTES)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Transport> {
        AdminServiceClient::new(self.transport.clone())
    }
}

/// Whether a call may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It reads, or doing it twice is doing it once.
    Safe,
    /// Only where it is certain that nothing was done.
    Never,
}

/// The way to the managers of one cluster. Connects when first used.
#[derive(Debug)]
pub(crate) struct Link {
    target: Target,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Channel>,
    /// Where to connect first, as another manager said.
    leader: Option<String>,
    /// Where the next round of addresses begins.
    turn: usize,
    /// A manager has answered before.
    met: bool,
}

impl Link {
    pub(crate) fn new(target: Target) -> Self {
        Self { target, state: Mutex::new(State::default()) }
    }

    /// The addresses, for messages.
    pub(crate) fn addresses(&self) -> String {
        self.target.addresses.join(", ")
    }

    /// The project of the context, where one is used.
    pub(crate) fn project(&self) -> Option<&str> {
        self.target.project.as_deref()
    }

    /// Sends `call` to a manager that can answer it.
    pub(crate) async fn call<T>(
        &self,
        repeat: Repeat,
        call: impl AsyncFn(Clients) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.call_for(repeat, PATIENCE, call).await
    }

    /// As [`call`](Self::call), repeating for up to `patience`.
    pub(crate) async fn call_for<T>(
        &self,
        repeat: Repeat,
        patience: Duration,
        call: impl AsyncFn(Clients) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let give_up = Instant::now() + patience;
        loop {
            let clients = match self.connect().await {
                Ok(clients) => clients,
                Err(failure) if self.met() && Instant::now() < give_up => {
                    tracing::debug!(%failure, "trying again");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let status = match call(clients).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let again = self.may_repeat(&status, repeat) && Instant::now() < give_up;
            if !again {
                return Err(self.failure(&status, repeat));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Decides whether to send a refused call once more, and to whom.
    fn may_repeat(&self, status: &Status, repeat: Repeat) -> bool {
        match CallError::from_status(status) {
            Some(error) if error.code == ErrorCode::NotLeader => {
                let known = ["leader_address", "leader", "address"];
                let named = known.iter().find_map(|name| error.metadata.get(*name));
                self.turn_to(named.filter(|text| check_addresses(text).is_ok()).cloned());
                true
            }
            Some(error) => {
                let passing = matches!(
                    error.code,
                    ErrorCode::StoreUnavailable | ErrorCode::ShuttingDown | ErrorCode::Overloaded
                );
                passing && repeat == Repeat::Safe
            }
            None if is_lost(status) => {
                self.turn_to(None);
                repeat == Repeat::Safe
            }
            None => false,
        }
    }

    /// Gives the connection up; the next one goes to `leader`, or the next address.
    fn turn_to(&self, leader: Option<String>) {
        let mut state = self.lock();
        state.current = None;
        state.turn += usize::from(leader.is_none());
        state.leader = leader;
    }

    fn failure(&self, status: &Status, repeat: Repeat) -> Failure {
        if !is_lost(status) {
            let failure = Failure::from(status);
            let denied = status.code() == Code::Unauthenticated;
            return match denied && failure.hint.is_none() {
                true => failure.hint(self.token_hint()),
                false => failure,
            };
        }
        let mut failure = Failure::because(
            format!("lost the manager at {}", self.addresses()),
            status as &(dyn std::error::Error + 'static),
        );
        if repeat == Repeat::Never {
            failure = failure.detail("whether it did what was asked is not known");
        }
        failure.hint("try again once it is back; `fgpu doctor` says whether it answers")
    }

    fn token_hint(&self) -> String {
        match self.target.token {
            Some(_) => "the token is not (or no longer) valid here: ask for another one",
            None => {
                "no token was sent: set FGPU_TOKEN, `--token-file`, or a context \
                 (`fgpu context set`)"
            }
        }
        .to_owned()
    }

    /// The connection there is, or a new one to the first address that answers.
    pub(crate) async fn connect(&self) -> Result<Clients, Failure> {
        let bearer = self.bearer()?;
        let (current, order) = {
            let state = self.lock();
            (state.current.clone(), self.order(&state))
        };
        if let Some(channel) = current {
            return Ok(Clients { transport: InterceptedService::new(channel, bearer) });
        }
        let mut failures = Vec::new();
        for address in order {
            match self.dial(&address).await {
                Ok(channel) => {
                    let mut state = self.lock();
                    state.current = Some(channel.clone());
                    state.met = true;
                    return Ok(Clients { transport: InterceptedService::new(channel, bearer) });
                }
                Err(failure) => failures.push(failure),
            }
        }
        self.lock().leader = None;
        Err(self.unreachable(failures))
    }

    fn order(&self, state: &State) -> Vec<String> {
        let count = self.target.addresses.len();
        let rest = (0..count).map(|at| self.target.addresses[(state.turn + at) % count].clone());
        state.leader.clone().into_iter().chain(rest).collect()
    }

    fn unreachable(&self, mut failures: Vec<Failure>) -> Failure {
        let mut failure = match failures.len() {
            1 => failures.remove(0),
            _ => {
                let fact = format!("no manager answers at {}", self.addresses());
                let all = failures.into_iter();
                all.fold(Failure::new(fact), |sum, each| {
                    let parts = std::iter::once(each.fact).chain(each.details);
                    sum.detail(parts.collect::<Vec<_>>().join(": "))
                })
            }
        };
        if failure.hint.is_none() {
            let from = match &self.target.context {
                Some(context) => format!("the address is from context `{context}`"),
                None => "name another one with `--address` or FGPU_ADDRESS".to_owned(),
            };
            failure = failure.hint(format!("start one here with `fgpu up`; {from}"));
        }
        failure
    }

    async fn dial(&self, address: &str) -> Result<Channel, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            let fact = format!("cannot reach a manager at {address}");
            let source = error.source().unwrap_or(error);
            Failure::because(fact, source)
        };
        let mut endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|error| failed(&error))?
            .user_agent(concat!("fgpu/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| failed(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        if address.starts_with("https://") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(|error| failed(&error))?;
        } else if self.target.token.is_some() && !is_loopback(endpoint.uri().host()) {
            output::say(format!("warning: the token travels unencrypted to {address}"));
        }
        match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
            Ok(connected) => connected.map_err(|error| failed(&error)),
            Err(_) => Err(Failure::new(format!("cannot reach a manager at {address}"))
                .detail(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let system = || CA_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists());
        let Some(path) = self.target.ca.clone().or_else(system) else {
            return Err(Failure::new("there are no certificates to trust on this machine")
                .hint("name a file with `--ca` or FGPU_CA"));
        };
        let pem = std::fs::read(&path).map_err(|error| {
            Failure::because(
                format!("cannot read the certificates in `{}`", path.display()),
                &error,
            )
        })?;
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }

    fn bearer(&self) -> Result<Bearer, Failure> {
        let Some(token) = &self.target.token else { return Ok(Bearer(None)) };
        let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| {
            Failure::usage("the token holds characters no token has")
                .hint("check FGPU_TOKEN, `--token` or the context for stray characters")
        })?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    fn met(&self) -> bool {
        self.lock().met
    }

    /// Gives the connection up, so that the next call makes a new one.
    pub(crate) fn reset(&self) {
        self.turn_to(None);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whether a status means that the connection broke, not that the manager refused.
pub(crate) fn is_lost(status: &Status) -> bool {
    let ours = CallError::from_status(status).is_some();
    let broken = std::error::Error::source(status).is_some();
    !ours && (status.code() == Code::Unavailable || broken)
}

/// Whether a status passes by itself: the connection broke, the manager changes or goes down.
pub(crate) fn is_passing(status: &Status) -> bool {
    let code = CallError::from_status(status).map(|error| error.code);
    let passing = [ErrorCode::NotLeader, ErrorCode::StoreUnavailable, ErrorCode::ShuttingDown];
    code.map_or_else(|| is_lost(status), |code| passing.contains(&code))
}

fn is_loopback(host: Option<&str>) -> bool {
    let host = host.unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for host in ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"] {
            assert!(is_loopback(Some(host)), "{host}");
        }
        assert!(!is_loopback(Some("10.0.0.1")));
    }

    #[test]
    fn a_refusal_of_the_manager_is_not_a_lost_connection() {
        let refused = Status::from(CallError::new(ErrorCode::AgentUnavailable, "away"));
        assert!(!is_lost(&refused) && !is_passing(&refused));
        assert!(is_lost(&Status::unavailable("gone")));
        assert!(is_passing(&Status::from(CallError::new(ErrorCode::NotLeader, "other"))));
    }
}
