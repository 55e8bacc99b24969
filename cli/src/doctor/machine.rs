//! Checks of the machine: kernel, user, clock, folders, engine, cgroups.

use std::path::Path;
use std::time::Duration;

use fgpu_agent::facts::Machine;
use fgpu_runtime::cgroup::Cgroups;
use fgpu_runtime::docker::{DockerConfig, DockerRuntime};
use fgpu_runtime::{CgroupDriver, ContainerRuntime as _, Owner, RuntimeInfo};

use super::{Check, of_failure};
use crate::failure::Failure;
use crate::output;
use crate::view;

/// 2025-01-01, Unix milliseconds: no clock that is right is before it.
const TOO_EARLY_MS: u64 = 1_735_689_600_000;
/// Below this, images and logs will not fit for long.
const LITTLE_DISK: u64 = 10 << 30;
/// Below this, not even the ledger can be trusted to fit.
const NO_DISK: u64 = 256 << 20;
const ENGINE: Duration = Duration::from_secs(5);

/// Kernel, user and clock.
pub(super) fn system() -> Vec<Check> {
    let machine = Machine::read();
    let system = format!(
        "{}, kernel {}, {} cores, {}",
        machine.os,
        machine.kernel,
        machine.cpu,
        view::gib(machine.memory.0)
    );
    let root = rustix::process::geteuid().is_root();
    let user = match root {
        true => Check::ok("user", "root"),
        false => Check::warn(
            "user",
            "not root: cgroups and /var/lib/fgpu may be out of reach",
            "run the agent as root, or with `Delegate=` by systemd and `--state-dir`",
        ),
    };
    vec![Check::ok("system", system), user, clock()]
}

fn clock() -> Check {
    let now = output::now_ms();
    let advice = "synchronise it: `timedatectl set-ntp true`, or chrony";
    if now < TOO_EARLY_MS {
        return Check::fail("clock", "is years behind", advice);
    }
    let systemd = Path::new("/run/systemd/system").exists();
    let synchronized = Path::new("/run/systemd/timesync/synchronized").exists();
    let chrony = Path::new("/run/chrony").exists() || Path::new("/run/chronyd.pid").exists();
    match (systemd, synchronized || chrony) {
        (_, true) => Check::ok("clock", "is synchronised"),
        (true, false) => Check::warn("clock", "nothing is seen to synchronise it", advice),
        (false, false) => {
            Check::ok("clock", "plausible; nothing here tells whether it is synchronised")
        }
    }
}

/// Whether the agent's folder can be written, and how much fits.
pub(super) fn folder(path: &Path) -> Check {
    const NAME: &str = "state folder";
    let mut existing = path;
    while !existing.exists() {
        existing = existing.parent().unwrap_or(Path::new("/"));
    }
    let shown = path.display();
    let probe = existing.join(format!(".fgpu-doctor-{}", std::process::id()));
    if let Err(error) = std::fs::write(&probe, b"probe") {
        let found = format!("{} cannot be written: {error}", existing.display());
        return Check::fail(NAME, found, "run as root, or name another folder with `--state-dir`");
    }
    let _ = std::fs::remove_file(&probe);
    let free = match rustix::fs::statvfs(existing) {
        Ok(fs) => fs.f_bavail.saturating_mul(fs.f_frsize),
        Err(error) => {
            let found = format!("{shown}: its disk does not tell its space: {error}");
            return Check::warn(NAME, found, "look at it with `df`");
        }
    };
    let found = format!("{shown} can be written, {} free", view::gib(free));
    match free {
        free if free < NO_DISK => Check::fail(NAME, found, "make room"),
        free if free < LITTLE_DISK => Check::warn(NAME, found, "make room for images and logs"),
        _ => Check::ok(NAME, found),
    }
}

/// What the engine said.
pub(super) struct Engine {
    pub(super) info: Option<RuntimeInfo>,
    pub(super) checks: Vec<Check>,
}

/// Whether the container engine answers, and how it is set up.
pub(super) async fn engine(socket: &str) -> Engine {
    const NAME: &str = "docker";
    let failed = |check: Check| Engine { info: None, checks: vec![check] };
    let owner = Owner { cluster: "doctor".to_owned(), node: "doctor".to_owned() };
    let config = DockerConfig { endpoint: socket.to_owned(), ..DockerConfig::new(owner) };
    let runtime = match DockerRuntime::new(config) {
        Ok(runtime) => runtime,
        Err(error) => return failed(of_failure(NAME, &Failure::of(&error))),
    };
    let info = match tokio::time::timeout(ENGINE, runtime.info()).await {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => {
            let failure = Failure::of(&error);
            let found = std::iter::once(failure.fact).chain(failure.details);
            let found = found.collect::<Vec<_>>().join(": ");
            return failed(Check::warn(NAME, found, advice_for(socket)));
        }
        Err(_) => {
            let found = format!("{socket} does not answer within {} s", ENGINE.as_secs());
            return failed(Check::warn(NAME, found, advice_for(socket)));
        }
    };
    let found = format!(
        "{} (API {}), cgroups by {}, storage {}",
        info.version,
        info.api_version,
        driver_word(info.cgroup_driver),
        info.storage_driver
    );
    let mut checks = vec![Check::ok(NAME, found)];
    if !info.live_restore {
        checks.push(Check::warn(
            "live-restore",
            "off: containers end when the engine is restarted",
            "set \"live-restore\": true in /etc/docker/daemon.json",
        ));
    }
    let warnings = info.warnings.iter();
    checks.extend(warnings.map(|text| Check::warn("docker warns", text.trim(), "see its manual")));
    Engine { info: Some(info), checks }
}

fn advice_for(socket: &str) -> String {
    let path = Path::new(socket.strip_prefix("unix://").unwrap_or(socket));
    match path.exists() {
        false => "install and start Docker, or use the process runtime (no images)".to_owned(),
        true => "start Docker; not as root: join the group `docker`".to_owned(),
    }
}

fn driver_word(driver: CgroupDriver) -> &'static str {
    match driver {
        CgroupDriver::Cgroupfs => "cgroupfs",
        CgroupDriver::Systemd => "systemd",
        CgroupDriver::None => "nobody",
    }
}

/// Whether limits of CPU, memory and processes can hold.
pub(super) fn cgroups(root: &str, driver: Option<CgroupDriver>) -> Check {
    const NAME: &str = "cgroups";
    let advice = "run the agent as root, or with `Delegate=` by systemd";
    let driver = driver.unwrap_or(CgroupDriver::Cgroupfs);
    let cgroups = match Cgroups::detect(root, driver) {
        Ok(cgroups) => cgroups,
        Err(error) => {
            let failure = Failure::of(&error);
            let found = std::iter::once(failure.fact).chain(failure.details);
            return Check::fail(NAME, found.collect::<Vec<_>>().join(": "), advice);
        }
    };
    match cgroups.check_writable() {
        Ok(()) => Check::ok(NAME, format!("{:?} can be written: limits hold", cgroups.version())),
        Err(reason) => {
            let found = format!(
                "{:?}: limits do not hold for plain processes: {reason}",
                cgroups.version()
            );
            Check::warn(NAME, found, advice)
        }
    }
}
