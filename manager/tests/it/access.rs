//! Who may do what: every call of the contract, without and with the wrong token.

use crate::agent::FakeAgent;
use crate::harness::{Bearer, Running, World, code, spec};
use fgpu_wire::v1;
use http::uri::PathAndQuery;
use prost::Message as _;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Every call, as a path.
fn calls() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(fgpu_wire::DESCRIPTORS).unwrap();
    let mut calls = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let methods = service.method.iter();
            calls.extend(
                methods.map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                }),
            );
        }
    }
    calls.push("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned());
    calls.push("/fgpu.v1.SessionService/NoSuchCall".to_owned());
    calls
}

/// Makes a call with an empty message.
async fn call(manager: &Running, path: &str, bearer: &Bearer) -> Status {
    let mut client = tonic::client::Grpc::new(manager.channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(v1::GetClusterRequest {});
    if let Some(token) = &bearer.0 {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path: PathAndQuery = path.parse().unwrap();
    let codec: tonic_prost::ProstCodec<v1::GetClusterRequest, v1::Cluster> = Default::default();
    let answer = client.server_streaming(request, path, codec).await;
    match answer {
        Ok(stream) => match stream.into_inner().message().await {
            Ok(_) => Status::new(Code::Ok, ""),
            Err(status) => status,
        },
        Err(status) => status,
    }
}

#[tokio::test]
async fn no_call_passes_without_a_valid_token() {
    let world = World::new().await;
    let manager = world.start().await;
    let unknown = fgpu_service::secret::Token::generate().unwrap();
    let wrong = [None, Some("nonsense".to_owned()), Some(unknown.secret().expose().to_owned())];
    for path in calls() {
        for token in &wrong {
            let refused = call(&manager, &path, &Bearer(token.clone())).await;
            assert_eq!(refused.code(), Code::Unauthenticated, "{path}");
            assert_eq!(code(&refused), "UNAUTHENTICATED", "{path}");
        }
    }
    let health = HealthClient::new(manager.channel.clone());
    let request = HealthCheckRequest { service: "fgpu.v1.SessionService".to_owned() };
    assert_eq!(health.clone().check(request).await.unwrap().into_inner().status, 1);
    manager.stop().await;
}

#[tokio::test]
async fn no_role_can_call_what_is_not_its_own() {
    let world = World::new().await;
    let manager = world.start().await;
    let member = manager.token("bob", v1::Role::Member).await;
    let agent = Bearer(Some(manager.agent.clone()));
    let admin = manager.bearer();
    for path in calls() {
        let agents = path.contains("AgentService");
        let unknown = path.contains("NoSuchCall");
        let nodes = ["Cordon", "Uncordon", "Drain", "SetNode", "RemoveNode", "Token", "Defrag"];
        let projects = ["CreateProject", "UpdateProject", "RemoveProject", "SetQuota"];
        let classes = ["PutClass", "UpdateClass", "RemoveClass"];
        let mut parts = nodes.iter().chain(&projects).chain(&classes);
        let administers = parts.any(|part| path.contains(part));
        for (who, bearer, allowed) in [
            ("agent", &agent, agents),
            ("member", &member, !agents && !administers && !unknown),
            ("admin", &admin, !agents && !unknown),
        ] {
            let answer = call(&manager, &path, bearer).await;
            let denied = answer.code() == Code::PermissionDenied;
            assert_eq!(denied, !allowed, "{who} {path}: {answer:?}");
            assert_ne!(answer.code(), Code::Unauthenticated, "{who} {path}");
        }
    }
    manager.stop().await;
}

#[tokio::test]
async fn a_member_neither_sees_nor_touches_sessions_of_others() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let (ann, bob) = (
        manager.token("ann", v1::Role::Member).await,
        manager.token("bob", v1::Role::Member).await,
    );
    let named = v1::SessionSpec { name: "train".to_owned(), ..spec(1000) };
    let request = v1::CreateSessionRequest {
        spec: Some(named),
        request_id: "request-1".to_owned(),
        members: None,
    };
    let made = manager.sessions_as(ann).create_session(request.clone()).await.unwrap();
    let id = made.into_inner().session.unwrap().id;
    agent.wants(&id).await;
    let mut client = manager.sessions_as(bob.clone());

    for session in [id.clone(), "train".to_owned(), id[..4].to_owned()] {
        let get = client.get_session(v1::GetSessionRequest { session: session.clone() }).await;
        let stop = v1::StopSessionRequest { session: session.clone(), grace_ms: 0 };
        let remove = v1::RemoveSessionRequest { session: session.clone() };
        let explain = v1::ExplainSessionRequest { session: session.clone() };
        let logs = v1::StreamLogsRequest { session: session.clone(), ..Default::default() };
        let watch = v1::WatchSessionsRequest { session };
        for refused in [
            get.map(drop),
            client.stop_session(stop).await.map(drop),
            client.remove_session(remove).await.map(drop),
            client.explain_session(explain).await.map(drop),
            client.stream_logs(logs).await.map(drop),
            client.watch_sessions(watch).await.map(drop),
        ] {
            assert_eq!(code(&refused.unwrap_err()), "SESSION_NOT_FOUND");
        }
    }
    let all = v1::ListSessionsRequest { all: true, ..Default::default() };
    assert_eq!(client.list_sessions(all).await.unwrap().into_inner().sessions, []);
    let map = manager.devices_as(bob).list_devices(v1::ListDevicesRequest::default()).await;
    let devices = map.unwrap().into_inner().devices;
    let slices: Vec<&v1::DeviceSlice> = devices.iter().flat_map(|device| &device.slices).collect();
    assert_eq!(slices.len(), 1);
    assert_eq!((slices[0].session_id.as_str(), slices[0].owner.as_str()), ("", ""));
    // The same name and request id are free for another person.
    assert!(!client.create_session(request).await.unwrap().into_inner().existed);
    manager.stop().await;
}

#[tokio::test]
async fn a_token_is_shown_once_and_revoked_for_good() {
    let world = World::new().await;
    let manager = world.start().await;
    let request = v1::CreateTokenRequest {
        user: "ann".to_owned(),
        role: v1::Role::Member.into(),
        lifetime_ms: 60_000,
    };
    let made = manager.admin().create_token(request.clone()).await.unwrap().into_inner();
    let (token, secret) = (made.token.unwrap(), made.secret);
    let listed = manager.admin().list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner();
    assert!(listed.tokens.contains(&token));
    assert!(!format!("{listed:?}").contains(&secret));
    let can = async |secret: &str| {
        let bearer = Bearer(Some(secret.to_owned()));
        manager.sessions_as(bearer).list_sessions(v1::ListSessionsRequest::default()).await.is_ok()
    };
    assert!(can(&secret).await);

    let revoke = v1::RevokeTokenRequest { id: token.id };
    manager.admin().revoke_token(revoke.clone()).await.unwrap();
    assert!(!can(&secret).await);
    assert_eq!(code(&manager.admin().revoke_token(revoke).await.unwrap_err()), "TOKEN_NOT_FOUND");

    let short = manager.admin().create_token(request).await.unwrap().into_inner().secret;
    assert!(can(&short).await);
    world.clock.advance(std::time::Duration::from_secs(60));
    assert!(!can(&short).await);
    let cluster = manager.admin().get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!((cluster.user.as_str(), cluster.role()), ("admin", v1::Role::Admin));
    let last = manager.admin().list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner();
    let admin = last.tokens.iter().find(|token| token.role() == v1::Role::Admin).unwrap();
    let revoke = v1::RevokeTokenRequest { id: admin.id.clone() };
    assert_eq!(code(&manager.admin().revoke_token(revoke).await.unwrap_err()), "WRONG_PHASE");
    manager.stop().await;
}

#[tokio::test]
async fn with_certificates_only_tls_of_the_right_authority_gets_in() {
    use fgpu_service::tls::{ClientTlsFiles, ServerTlsFiles, load_client};
    let world = World::new().await;
    let write = |name: &str| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let path = |end: &str| world.folder.path().join(format!("{name}.{end}"));
        std::fs::write(path("crt"), made.cert.pem()).unwrap();
        std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        (path("crt"), path("key"))
    };
    let (certificate, key) = write("manager");
    let (other, _) = write("other");
    let mut config = world.config();
    config.tls = Some(ServerTlsFiles { certificate: certificate.clone(), key, client_ca: None });
    let manager = world.spawn(config).await;
    assert!(manager.manager.leading().await);
    let address = manager.manager.address;
    let dial = async |scheme: &str, ca: Option<std::path::PathBuf>| {
        let uri = format!("{scheme}://localhost:{}", address.port());
        let mut endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap();
        if ca.is_some() {
            let files = ClientTlsFiles { ca, ..Default::default() };
            endpoint = endpoint.tls_config(load_client(&files).unwrap()).unwrap();
        }
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(channel).check(request).await;
        answer.map(|answer| answer.into_inner().status).map_err(|status| status.to_string())
    };

    assert_eq!(dial("https", Some(certificate)).await, Ok(1));
    assert!(dial("https", Some(other)).await.is_err());
    assert!(dial("http", None).await.is_err());
    manager.stop().await;
}

#[tokio::test]
async fn a_manager_for_other_machines_does_not_start_without_tls() {
    let world = World::new().await;
    let mut config = world.config();
    config.listen = "0.0.0.0:0".parse().unwrap();
    let parts = fgpu_manager::Parts { store: world.store.clone(), clock: world.clock.clone() };
    let token = tokio_util::sync::CancellationToken::new();
    let refused = fgpu_manager::Manager::start(config, parts, token).await;
    let Err(error) = refused else { panic!("it started") };
    assert!(error.to_string().contains("tls.cert"), "{error}");
}
