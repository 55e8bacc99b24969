use super::*;
use crate::{LimitSupport, Limits, NetworkKind, Owner, PortSpec, Protocol};

fn info(cgroup_driver: CgroupDriver) -> RuntimeInfo {
    RuntimeInfo {
        kind: "docker",
        endpoint: String::new(),
        version: String::new(),
        api_version: String::new(),
        cgroup_driver,
        cgroup_version: None,
        storage_driver: String::new(),
        runtimes: Vec::new(),
        default_runtime: String::new(),
        cdi_spec_dirs: Vec::new(),
        live_restore: false,
        security_options: Vec::new(),
        init_available: true,
        limits: LimitSupport::Enforced,
        network: NetworkKind::Bridge,
        warnings: Vec::new(),
    }
}

fn made(change: impl FnOnce(&mut ContainerSpec)) -> Result<ContainerCreateBody, RuntimeError> {
    let owner = Owner { cluster: "c1".to_owned(), node: "n1".to_owned() };
    let mut spec = ContainerSpec::new("fgpu-s1", "busybox", "s1");
    change(&mut spec);
    let config = DockerConfig {
        endpoint: "unix:///srv/engine/docker.sock".to_owned(),
        ..DockerConfig::new(owner)
    };
    body(&spec, &config, &info(CgroupDriver::Cgroupfs))
}

fn host_of(change: impl FnOnce(&mut ContainerSpec)) -> HostConfig {
    made(change).unwrap().host_config.unwrap()
}

fn visible(gpu: GpuAttachment) -> String {
    let asked_for_all = |spec: &mut ContainerSpec| {
        spec.env.insert(VISIBLE_DEVICES.to_owned(), "all".to_owned());
        spec.gpu = gpu;
    };
    let env = made(asked_for_all).unwrap().env.unwrap();
    let mut found = env.iter().filter(|each| each.starts_with(VISIBLE_DEVICES));
    let value = found.next().unwrap().clone();
    assert_eq!(found.next(), None);
    value
}

#[test]
fn a_container_is_hardened_by_default() {
    let host = host_of(|_| ());
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(host.security_opt, Some(vec!["no-new-privileges:true".to_owned()]));
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    assert_eq!((host.pid_mode, host.network_mode), (None, None));
    assert_eq!(host.pids_limit, Some(4096));
    assert_eq!(host.init, Some(true));
    let log = host.log_config.unwrap().config.unwrap();
    assert_eq!(log["max-file"], "3");
    assert_eq!(log["max-size"], (16 << 20).to_string());
}

#[test]
fn asking_for_all_devices_gives_those_of_the_slice() {
    let uuids = || vec!["GPU-1".to_owned(), "GPU-2".to_owned()];
    assert_eq!(visible(GpuAttachment::None), "NVIDIA_VISIBLE_DEVICES=void");
    let names = vec!["nvidia.com/gpu=0".to_owned()];
    assert_eq!(visible(GpuAttachment::Cdi { names }), "NVIDIA_VISIBLE_DEVICES=void");
    for gpu in [
        GpuAttachment::NvidiaRuntime { uuids: uuids() },
        GpuAttachment::DeviceRequest { uuids: uuids() },
    ] {
        assert_eq!(visible(gpu), "NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2");
    }
}

#[test]
fn each_attachment_asks_the_engine_in_its_own_way() {
    let names = vec!["nvidia.com/gpu=0".to_owned()];
    let cdi = host_of(|spec| spec.gpu = GpuAttachment::Cdi { names: names.clone() });
    let request = cdi.device_requests.unwrap().remove(0);
    assert_eq!(request.driver.as_deref(), Some("cdi"));
    assert_eq!(request.device_ids, Some(names));

    let runtime = host_of(|spec| spec.gpu = GpuAttachment::NvidiaRuntime { uuids: vec![] });
    assert_eq!(runtime.runtime.as_deref(), Some("nvidia"));
    assert_eq!(runtime.device_requests, None);
    assert_eq!(host_of(|_| ()).runtime, None);
}

#[test]
fn limits_leave_no_swap_and_name_the_session() {
    let host = host_of(|spec| {
        spec.limits = Limits {
            cpu_milli: Some(1_500),
            memory_bytes: Some(1 << 30),
            pids: 64,
            cpuset: Some("0-1".to_owned()),
            shm_bytes: Some(1 << 20),
        };
    });
    assert_eq!(host.nano_cpus, Some(1_500_000_000));
    assert_eq!((host.memory, host.memory_swap), (Some(1 << 30), Some(1 << 30)));
    assert_eq!((host.pids_limit, host.shm_size), (Some(64), Some(1 << 20)));
    assert_eq!(host.cpuset_cpus.as_deref(), Some("0-1"));
    assert_eq!(host.cgroup_parent.as_deref(), Some("/fgpu/s1"));
}

#[test]
fn ports_are_published_on_ports_the_engine_picks() {
    let host = host_of(|spec| {
        spec.ports = vec![PortSpec {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: [127, 0, 0, 1].into(),
        }];
    });
    let bindings = host.port_bindings.unwrap()["80/tcp"].clone().unwrap();
    assert_eq!(bindings[0].host_port.as_deref(), Some(""));
    assert_eq!(bindings[0].host_ip.as_deref(), Some("127.0.0.1"));
}

#[test]
fn a_mount_that_shows_an_engines_socket_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/run", &link).unwrap();
    let with = |source: &Path, target: &str| {
        made(|spec| {
            spec.mounts =
                vec![Mount { source: source.to_owned(), target: target.into(), read_only: true }];
        })
    };
    for bad in ["/", "/var/run", "/var", "/run", "/var/run/docker.sock", "/srv/engine"] {
        assert!(with(Path::new(bad), "/data").is_err(), "{bad}");
    }
    assert!(with(&link, "/data").is_err());
    assert!(with(folder.path(), "/data").is_ok());
    assert!(with(folder.path(), "/var/run/nvidia-container-devices/all").is_err());
}
