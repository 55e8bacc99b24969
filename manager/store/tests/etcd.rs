//! What only etcd can do: be away, be slow, be full, refuse a user.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fgpu_store::{Compare, EtcdConfig, EtcdStore, EtcdTls, Store, StoreError, Txn};
use fgpu_testkit::etcd::EtcdServer;
use futures_util::StreamExt as _;

const DEADLINE: Duration = Duration::from_secs(60);

fn config(server: &EtcdServer) -> EtcdConfig {
    EtcdConfig {
        request_timeout: Duration::from_secs(1),
        ..EtcdConfig::new(vec![server.endpoint()])
    }
}

async fn connect(server: &EtcdServer) -> EtcdStore {
    EtcdStore::connect(config(server)).await.unwrap()
}

async fn connect_error(config: EtcdConfig) -> StoreError {
    match EtcdStore::connect(config).await {
        Ok(_) => panic!("connected"),
        Err(error) => error,
    }
}

/// Reads until etcd answers again.
async fn answers_again(store: &EtcdStore) {
    let start = Instant::now();
    while let Err(error) = store.range("").await {
        assert!(start.elapsed() < DEADLINE, "etcd does not answer: {error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named() {
    let config = EtcdConfig {
        connect_timeout: Duration::from_secs(2),
        ..EtcdConfig::new(vec!["http://127.0.0.1:1".to_owned()])
    };
    let error = connect_error(config).await;
    let StoreError::Unavailable { endpoint, .. } = &error else { panic!("{error:?}") };
    assert_eq!(endpoint, "http://127.0.0.1:1");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn two_prefixes_do_not_see_each_other() {
    let server = EtcdServer::start().await;
    let other = EtcdConfig { prefix: "/fgpu/v10/".to_owned(), ..config(&server) };
    let (one, two) = (connect(&server).await, EtcdStore::connect(other).await.unwrap());
    one.commit(Txn::new().put("a", "1")).await.unwrap();
    let mut stream = two.watch("", 1).await.unwrap();
    let own = two.commit(Txn::new().compare(Compare::absent("a")).put("a", "2")).await.unwrap();
    assert_eq!(one.range("").await.unwrap().entries[0].value, b"1");
    assert_eq!(two.range("").await.unwrap().entries.len(), 1);
    assert_eq!(stream.next().await.unwrap().unwrap()[0].revision(), own);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_killed_amid_commits_loses_none_that_was_acknowledged() {
    let mut server = EtcdServer::start().await;
    let store = Arc::new(connect(&server).await);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(write_until_it_fails(store, task))
        })
        .collect();
    // Some commits are through, others are under way.
    let start = Instant::now();
    while store.range("").await.unwrap().entries.len() < 200 {
        assert!(start.elapsed() < DEADLINE, "too few commits are through");
    }
    server.kill9().await;
    let mut acknowledged = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    for task in tasks {
        let (done, last) = task.await.unwrap();
        acknowledged.extend(done);
        unknown.extend(last);
    }

    server.restart().await;
    answers_again(&store).await;

    let found: BTreeSet<String> =
        store.range("").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged, then lost: {lost:?}");
    let strange: Vec<_> = found
        .iter()
        .filter(|key| !acknowledged.contains(*key) && !unknown.contains(*key))
        .collect();
    assert!(strange.is_empty(), "reported as failed, but there: {strange:?}");
}

/// The keys whose commits were acknowledged, and the one whose fate is not known.
async fn write_until_it_fails(store: Arc<EtcdStore>, task: usize) -> (Vec<String>, Option<String>) {
    let mut acknowledged = Vec::new();
    for index in 0.. {
        let key = format!("{task}/{index}");
        let txn = Txn::new().compare(Compare::absent(&key)).put(&key, "1");
        match store.commit(txn).await {
            Ok(_) => acknowledged.push(key),
            Err(StoreError::Unknown { .. }) => return (acknowledged, Some(key)),
            Err(StoreError::Unavailable { .. }) => return (acknowledged, None),
            Err(other) => panic!("{other:?}"),
        }
    }
    unreachable!("the loop has no end")
}

#[tokio::test]
async fn calls_work_again_after_etcd_was_stopped_for_long() {
    let mut server = EtcdServer::start().await;
    let store = connect(&server).await;
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    server.stop().await;
    for _ in 0..30 {
        let error = store.range("").await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        let error = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
        let expected = matches!(error, StoreError::Unavailable { .. } | StoreError::Unknown { .. });
        assert!(expected, "{error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    server.restart().await;
    answers_again(&store).await;

    assert_eq!(store.range("").await.unwrap().entries[0].value, b"1");
    store.commit(Txn::new().put("a", "3")).await.unwrap();
}

#[tokio::test]
async fn a_commit_that_was_never_sent_is_known_to_have_failed() {
    let mut server = EtcdServer::start().await;
    let store = connect(&server).await;
    server.stop().await;
    // The first call may find the connection just breaking; later ones find nobody there.
    let start = Instant::now();
    loop {
        match store.commit(Txn::new().put("a", "1")).await.unwrap_err() {
            StoreError::Unavailable { .. } => return,
            error => assert!(start.elapsed() < DEADLINE, "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_commit_to_a_frozen_etcd_is_unknown_and_a_read_unavailable() {
    let server = EtcdServer::start().await;
    let store = connect(&server).await;
    server.pause();
    let error = store.commit(Txn::new().compare(Compare::absent("a")).put("a", "1")).await;
    assert!(matches!(error, Err(StoreError::Unknown { .. })), "{error:?}");
    let error = store.range("").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    server.resume();
    answers_again(&store).await;
    // The way to settle it: the same transaction again, which succeeds at most once in all.
    let again = store.commit(Txn::new().compare(Compare::absent("a")).put("a", "1")).await;
    assert!(matches!(again, Ok(_) | Err(StoreError::Conflict { .. })), "{again:?}");
    assert_eq!(store.range("a").await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_full_etcd_refuses_writes_and_still_reads() {
    let server = EtcdServer::start_with(&["--quota-backend-bytes=4194304"]).await;
    let store = connect(&server).await;
    let mut written = 0;
    let error = loop {
        match store.commit(Txn::new().put(format!("{written:03}"), vec![0; 500_000])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "etcd is never full");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("disarm its NOSPACE alarm"), "{error}");
    assert_eq!(store.range("").await.unwrap().entries.len(), written);
    assert!(store.status().await.unwrap().size_bytes > 1_000_000);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_a_right_one_works() {
    let server = EtcdServer::start().await;
    let mut admin = etcd_client::Client::connect([server.endpoint()], None).await.unwrap();
    admin.user_add("root", "secret", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();

    let with = |password: Option<&str>| EtcdConfig {
        username: password.map(|_| "root".to_owned()),
        password: password.map(str::to_owned),
        ..config(&server)
    };
    for password in [Some("wrong"), None] {
        let error = connect_error(with(password)).await;
        assert!(matches!(error, StoreError::Refused { .. }), "{password:?}: {error:?}");
    }
    let store = EtcdStore::connect(with(Some("secret"))).await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    let mut stream = store.watch("", 1).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap()[0].key(), "a");
}

/// PEM files of an authority, and of a certificate it has signed.
struct Certificates {
    _folder: tempfile::TempDir,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

fn certificates() -> Certificates {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    Certificates {
        ca: write("ca.pem", ca.pem()),
        certificate: write("certificate.pem", leaf.pem()),
        key: write("key.pem", key.serialize_pem()),
        _folder: folder,
    }
}

#[tokio::test]
async fn over_tls_each_side_must_be_signed_by_the_authority_the_other_trusts() {
    let ours = certificates();
    let flags = [
        format!("--cert-file={}", ours.certificate.display()),
        format!("--key-file={}", ours.key.display()),
        format!("--trusted-ca-file={}", ours.ca.display()),
        "--client-cert-auth".to_owned(),
    ];
    let server = EtcdServer::start_tls(&flags.each_ref().map(String::as_str)).await;
    let with = |ca: &PathBuf, identity: Option<&Certificates>| EtcdConfig {
        tls: Some(EtcdTls {
            ca: ca.clone(),
            identity: identity.map(|files| (files.certificate.clone(), files.key.clone())),
            server_name: None,
        }),
        ..config(&server)
    };
    let store = EtcdStore::connect(with(&ours.ca, Some(&ours))).await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();

    let others = certificates();
    for config in
        [with(&others.ca, Some(&ours)), with(&ours.ca, None), with(&ours.ca, Some(&others))]
    {
        let error = connect_error(config.clone()).await;
        assert!(matches!(error, StoreError::Unavailable { .. }), "{config:?}: {error:?}");
    }
    let error = connect_error(with(&PathBuf::from("/nonexistent/ca.pem"), None)).await;
    assert_eq!(error.to_string(), "cannot read /nonexistent/ca.pem");
}
