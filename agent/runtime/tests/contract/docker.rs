//! The contract on Docker, with a private engine, and what Docker adds to it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fgpu_runtime::docker::{DockerConfig, DockerRuntime};
use fgpu_runtime::{
    CgroupDriver, ContainerSpec, EventKind, LimitSupport, Mount, PortSpec, Protocol, PullPhase,
    PullPolicy, PullProgress, RuntimeError,
};
use fgpu_testkit::docker::{DockerEngine, DockerOptions};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::bench::{Bench, DEADLINE, unique, until};
use crate::registry::Registry;
use crate::suite::contract;

const IMAGE: &str = "fgpu-test:busybox";

contract!(bench);

/// The engine all tests of this process share.
fn engine() -> &'static DockerEngine {
    static ENGINE: OnceLock<DockerEngine> = OnceLock::new();
    ENGINE.get_or_init(|| new_engine(DockerOptions::default()))
}

fn new_engine(options: DockerOptions) -> DockerEngine {
    let engine = DockerEngine::start(options);
    engine.import_busybox(IMAGE);
    engine
}

fn bench() -> Bench {
    bench_on(engine(), |_| ())
}

fn bench_on(
    engine: &DockerEngine,
    change: impl Fn(&mut DockerConfig) + Send + Sync + 'static,
) -> Bench {
    let (owner, root) = unique();
    let (endpoint, cgroup_root) = (engine.endpoint(), root.clone());
    Bench::new(owner, root, IMAGE.to_owned(), None, move |owner| {
        let mut config = DockerConfig::new(owner);
        config.endpoint.clone_from(&endpoint);
        config.cgroup_root.clone_from(&cgroup_root);
        config.registry_config = None;
        change(&mut config);
        Arc::new(DockerRuntime::new(config).unwrap())
    })
}

fn inspected(id: &str, format: &str) -> String {
    engine().docker_ok(&["inspect", "--format", format, id])
}

#[tokio::test]
async fn the_engine_describes_itself() {
    let bench = bench();
    let info = bench.runtime.info().await.unwrap();
    assert!(!info.version.is_empty() && !info.api_version.is_empty(), "{info:?}");
    assert_eq!(info.cgroup_driver, CgroupDriver::Cgroupfs);
    assert_eq!(info.cgroup_version, Some(bench.cgroups().version()));
    assert_eq!(info.limits, LimitSupport::Enforced, "{info:?}");
    assert!(info.init_available && !info.live_restore, "{info:?}");
    assert!(info.runtimes.contains(&"runc".to_owned()), "{info:?}");
    bench.finish().await;
}

#[tokio::test]
async fn a_container_is_hardened_and_limited_on_the_engine_too() {
    let bench = bench();
    let script = "grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/1/status; sleep 1000";
    let mut spec = bench.script("s1", script);
    spec.limits.cpu_milli = Some(500);
    spec.limits.memory_bytes = Some(64 << 20);
    spec.limits.shm_bytes = Some(1 << 20);
    let id = bench.started(&spec).await;
    bench.said(&id, "Seccomp").await;
    let status = bench.all_output(&id, fgpu_runtime::LogOptions::default()).await;
    let words: Vec<&str> = status.split_whitespace().collect();
    for pair in [["NoNewPrivs:", "1"], ["Seccomp:", "2"]] {
        assert!(words.windows(2).any(|each| each == pair), "{status}");
    }
    // CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, NET_BIND_SERVICE.
    assert!(status.contains("00000000000004eb"), "{status}");

    let format = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} \
                  {{.HostConfig.PidsLimit}} {{.HostConfig.ShmSize}} {{.HostConfig.Privileged}} \
                  {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Config}}";
    assert_eq!(
        inspected(&id, format),
        "500000000 67108864 67108864 4096 1048576 false [ALL] [no-new-privileges:true] \
         json-file map[max-file:3 max-size:16777216]"
    );
    bench.finish().await;
}

#[tokio::test]
async fn an_image_that_asks_for_all_gpus_sees_none() {
    let bench = bench();
    let root = engine().folder().join("greedy");
    std::fs::create_dir_all(&root).unwrap();
    engine().docker_ok(&["tag", IMAGE, "greedy:base"]);
    let copy = engine().docker_ok(&["create", "greedy:base"]);
    engine().docker_ok(&[
        "commit",
        "--change",
        "ENV NVIDIA_VISIBLE_DEVICES=all",
        &copy,
        "greedy:latest",
    ]);
    engine().docker_ok(&["rm", &copy]);
    let mut spec = bench.script("s1", "echo $NVIDIA_VISIBLE_DEVICES");
    spec.image = "greedy:latest".to_owned();
    assert_eq!(bench.output_of(&spec).await, "void\n");
    bench.finish().await;
}

#[tokio::test]
async fn published_ports_are_told_and_reached() {
    let bench = bench();
    let mut spec = bench.script("s1", "echo hello > /tmp/x; httpd -f -p 8080 -h /tmp");
    spec.ports = vec![PortSpec {
        container_port: 8080,
        protocol: Protocol::Tcp,
        host_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }];
    let id = bench.started(&spec).await;
    let ports = bench.runtime.inspect(&id).await.unwrap().ports;
    assert_eq!(ports.len(), 1, "{ports:?}");
    assert_eq!(ports[0].container_port, 8080);
    let address = SocketAddr::new(ports[0].host_ip, ports[0].host_port);
    let answer = until("an answer", async || fetch(address).map_err(|e| e.to_string())).await;
    assert!(answer.ends_with("hello\n"), "{answer}");
    bench.runtime.stop(&id, Duration::ZERO).await.unwrap();
    assert_eq!(bench.runtime.inspect(&id).await.unwrap().ports, []);
    bench.finish().await;
}

fn fetch(address: SocketAddr) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(b"GET /x HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    match answer.contains("200 OK") {
        true => Ok(answer),
        false => Err(std::io::Error::other(format!("answer: {answer:?}"))),
    }
}

#[tokio::test]
async fn mounts_are_made_but_not_of_the_engines_socket() {
    let bench = bench();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "inside\n").unwrap();
    let mounted = |source: &Path| {
        let mut spec = bench.script("s1", "cat /data/file; echo no > /data/file || echo refused");
        spec.mounts =
            vec![Mount { source: source.to_owned(), target: "/data".into(), read_only: true }];
        spec
    };
    let output = bench.output_of(&mounted(folder.path())).await;
    assert!(output.contains("inside\n") && output.contains("refused\n"), "{output}");
    for source in [engine().folder(), Path::new("/run"), Path::new("/nowhere/at/all")] {
        let refused = bench.runtime.create(&mounted(source)).await.unwrap_err();
        assert!(
            matches!(refused, RuntimeError::InvalidSpec { field: "mounts", .. }),
            "{refused:?}"
        );
    }
    bench.finish().await;
}

#[tokio::test]
async fn an_image_that_is_not_there_cannot_be_used() {
    let bench = bench();
    let mut spec = bench.script("s1", "exit 0");
    spec.image = "fgpu-absent:1".to_owned();
    let refused = bench.runtime.create(&spec).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::ImageNotFound { .. }), "{refused:?}");
    let refused = pull(&bench, "fgpu-absent:1", PullPolicy::Never).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::ImageNotFound { .. }), "{refused:?}");
    bench.finish().await;
}

async fn pull(
    bench: &Bench,
    image: &str,
    policy: PullPolicy,
) -> Result<Vec<PullProgress>, RuntimeError> {
    let (sender, mut receiver) = mpsc::channel(100_000);
    bench.runtime.ensure_image(image, policy, sender).await?;
    let mut all = Vec::new();
    while let Some(progress) = receiver.recv().await {
        all.push(progress);
    }
    Ok(all)
}

#[tokio::test]
async fn an_image_is_pulled_with_progress() {
    let registry = Registry::start(None);
    // Another layer than the one that is there: the marker makes it so.
    let root = engine().folder().join("busybox");
    std::fs::write(root.join("marker"), registry.host()).unwrap();
    engine().import_folder("fgpu-test:pulled", &root, &["ENV PATH=/bin"]);
    let image = registry.push(engine(), "fgpu-test:pulled", "tools/busybox:1");
    engine().docker_ok(&["rmi", &image, "fgpu-test:pulled"]);
    let bench = bench();

    let progress = pull(&bench, &image, PullPolicy::IfNotPresent).await.unwrap();

    let last = progress.last().unwrap();
    assert_eq!(last.phase, PullPhase::Done, "{progress:?}");
    assert_eq!(last.layers_done, last.layers_total, "{progress:?}");
    assert!(last.layers_total >= 1, "{progress:?}");
    assert!(last.bytes_total > 100_000 && last.bytes_done == last.bytes_total, "{progress:?}");
    assert!(progress.is_sorted_by_key(|each| each.bytes_done), "{progress:?}");
    assert!(progress.len() > 1, "{progress:?}");
    let mut spec = bench.script("s1", "cat /marker");
    spec.image.clone_from(&image);
    assert_eq!(bench.output_of(&spec).await, image.split('/').next().unwrap());
    // Present: nothing to do, even with the registry gone.
    drop(registry);
    pull(&bench, &image, PullPolicy::IfNotPresent).await.unwrap();
    let error = pull(&bench, &image, PullPolicy::Always).await.unwrap_err();
    assert!(matches!(error, RuntimeError::RegistryUnreachable { .. }), "{error:?}");
    bench.finish().await;
}

#[tokio::test]
async fn the_three_ways_a_pull_fails_are_told_apart() {
    let open = Registry::start(None);
    let closed = Registry::start(Some(("someone", "secret")));
    let bench = bench();

    let absent = open.name("tools/absent:1");
    let error = pull(&bench, &absent, PullPolicy::IfNotPresent).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::ImageNotFound { image } if *image == absent),
        "{error:?}"
    );

    let hidden = closed.name("tools/hidden:1");
    let error = pull(&bench, &hidden, PullPolicy::IfNotPresent).await.unwrap_err();
    let host = closed.host();
    assert!(
        matches!(&error, RuntimeError::ImageAccessDenied { registry, .. } if *registry == host),
        "{error:?}"
    );

    let name = open.name("tools/gone:1");
    let host = open.host();
    drop(open);
    let error = pull(&bench, &name, PullPolicy::IfNotPresent).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::RegistryUnreachable { registry, .. } if *registry == host),
        "{error:?}"
    );
    assert!(error.is_retryable());
    bench.finish().await;
}

#[tokio::test]
async fn credentials_come_from_the_nodes_docker_configuration() {
    let registry = Registry::start(Some(("someone", "secret")));
    let image = registry.push(engine(), IMAGE, "tools/private:1");
    engine().docker_ok(&["rmi", &image]);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let with = |text: String| {
        std::fs::write(&config, text).unwrap();
        let config = config.clone();
        bench_on(engine(), move |settings| settings.registry_config = Some(config.clone()))
    };
    let host = registry.host();

    // someone:wrong
    let bench = with(format!(r#"{{"auths":{{"{host}":{{"auth":"c29tZW9uZTp3cm9uZw=="}}}}}}"#));
    let error = pull(&bench, &image, PullPolicy::Always).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageAccessDenied { .. }), "{error:?}");

    // someone:secret
    let bench = with(format!(r#"{{"auths":{{"{host}":{{"auth":"c29tZW9uZTpzZWNyZXQ="}}}}}}"#));
    pull(&bench, &image, PullPolicy::Always).await.unwrap();
    bench.finish().await;
}

#[tokio::test]
async fn a_hung_engine_is_noticed_and_an_awakened_one_used_again() {
    let engine = new_engine(DockerOptions::default());
    let bench = bench_on(&engine, |_| ());
    let id = bench.started(&bench.script("s1", "sleep 1000")).await;
    let mut events = bench.runtime.events().await.unwrap();
    engine.pause();

    let calls = async {
        tokio::join!(bench.runtime.list(), bench.runtime.stop(&id, DEADLINE), async {
            while events.next().await.is_some() {}
        })
    };
    let (list, stop, ()) =
        tokio::time::timeout(DEADLINE, calls).await.expect("every call on a hung engine ends");
    for error in [list.err().unwrap(), stop.unwrap_err()] {
        assert!(matches!(error, RuntimeError::EngineUnavailable { .. }), "{error:?}");
        assert!(error.is_retryable());
    }

    engine.resume();
    until("the engine to answer", async || bench.runtime.list().await.map_err(|e| e.to_string()))
        .await;
    bench.finish().await;
}

#[tokio::test]
async fn containers_outlive_their_engine_where_it_restores_them() {
    let engine = new_engine(DockerOptions { live_restore: true, ..DockerOptions::default() });
    let bench = bench_on(&engine, |_| ());
    assert!(bench.runtime.info().await.unwrap().live_restore);
    let id = bench.started(&bench.script("s1", "sleep 1000")).await;
    let before = bench.runtime.inspect(&id).await.unwrap();
    let mut events = bench.runtime.events().await.unwrap();

    engine.kill9();
    let ended = async { while events.next().await.is_some() {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("the stream of events ends");
    let error = bench.runtime.list().await.unwrap_err();
    assert!(matches!(error, RuntimeError::EngineUnavailable { .. }), "{error:?}");

    engine.restart();
    let after = bench.runtime.inspect(&id).await.unwrap();
    assert_eq!(after.state, before.state);
    let mut events = bench.runtime.events().await.unwrap();
    bench.runtime.stop(&id, Duration::ZERO).await.unwrap();
    let event = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap();
    assert_eq!(event.kind, EventKind::Exited);
    bench.finish().await;
}

#[tokio::test]
async fn a_container_that_is_not_ours_is_left_alone() {
    let bench = bench();
    let foreign = engine().docker_ok(&["run", "-d", IMAGE, "sleep", "1000"]);
    assert_eq!(bench.find(&foreign).await, None);
    let error = bench.runtime.stop(&foreign, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NoSuchContainer { .. }), "{error:?}");
    bench.runtime.remove(&foreign).await.unwrap();
    assert_eq!(inspected(&foreign, "{{.State.Running}}"), "true");

    let name = inspected(&foreign, "{{.Name}}");
    let spec = ContainerSpec::new(name.trim_start_matches('/'), IMAGE, "s1");
    let error = bench.runtime.create(&spec).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NameInUse { .. }), "{error:?}");
    engine().docker_ok(&["rm", "-f", &foreign]);
    bench.finish().await;
}
