//! `fgpu doctor`: is this machine fit to be a node, and does the manager answer? One line for each
//! check, with what to do.

mod gpu;
mod machine;

use std::path::PathBuf;

use clap::Args;
use fgpu_accelerator::AcceleratorSpec;
use fgpu_wire::v1::GetClusterRequest;
use serde::Serialize;

use crate::connect::{ConnectArgs, Repeat};
use crate::daemon::choose;
use crate::failure::{EXIT_FAILED, Failure};
use crate::output::{self, Format, OutputArgs};

/// `fgpu doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Devices the agent would use: `nvml`, `nvml:/path`, `sim:8xH100-80GB`
    #[arg(long, value_name = "SPEC", default_value = "nvml", env = "FGPU_AGENT_ACCELERATOR")]
    accelerator: AcceleratorSpec,
    /// Container engine the agent would use [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "SOCKET", env = "FGPU_AGENT_DOCKER")]
    docker: Option<String>,
    /// Folder of the agent's files
    #[arg(
        long,
        value_name = "FOLDER",
        env = "FGPU_AGENT_STATE_DIR",
        default_value = "/var/lib/fgpu/agent"
    )]
    state_dir: PathBuf,
    /// Cgroup of the sessions
    #[arg(
        long, value_name = "NAME", env = "FGPU_AGENT_CGROUP_ROOT",
        default_value = fgpu_runtime::cgroup::DEFAULT_ROOT
    )]
    cgroup_root: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, with less than there could be.
    Warn,
    /// Does not work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: String,
    /// How it went.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) advice: Option<String>,
}

impl Check {
    pub(crate) fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level: Level::Ok, found: found.into(), advice: None }
    }

    pub(crate) fn warn(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { name: name.to_owned(), level: Level::Warn, found: found.into(), advice }
    }

    pub(crate) fn fail(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(name, found, advice) }
    }
}

/// Runs `fgpu doctor`; the exit code is 1 if a check failed.
pub(crate) async fn run(args: DoctorArgs) -> Result<u8, Failure> {
    let socket = args.docker.clone().unwrap_or_else(choose::machine_socket);
    let mut checks = machine::system();
    checks.push(machine::folder(&args.state_dir));
    let engine = machine::engine(&socket).await;
    let driver = engine.info.as_ref().map(|info| info.cgroup_driver);
    checks.extend(engine.checks.iter().cloned());
    checks.push(machine::cgroups(&args.cgroup_root, driver));
    let devices = gpu::devices(&args.accelerator);
    let real = devices.real;
    checks.extend(devices.checks);
    if real {
        checks.extend(gpu::attachment(engine.info.as_ref()));
    }
    checks.push(Check::warn(
        "enforcement",
        "no interposer is installed: parts of a device have isolation `shared`",
        "whole devices (`--gpus`) are enforced; parts need `allow_shared` or `--isolation shared`",
    ));
    checks.push(manager(&args.connect).await);
    match args.output.output {
        Format::Json => output::json(&checks)?,
        Format::Table => output::text(render(&checks))?,
    }
    let failed = checks.iter().any(|check| check.level == Level::Fail);
    Ok(if failed { EXIT_FAILED } else { 0 })
}

fn render(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let level = match check.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        text.push_str(&format!("{level:<4}  {:<width$}  {}\n", check.name, check.found));
        if let Some(advice) = &check.advice {
            text.push_str(&format!("      {:<width$}  -> {advice}\n", ""));
        }
    }
    text
}

/// Whether the manager this user would talk to answers, and knows the token.
async fn manager(connect: &ConnectArgs) -> Check {
    const NAME: &str = "manager";
    let link = match connect.target() {
        Ok(target) if target.context.is_none() && connect.address.is_none() => {
            let advice = "start one with `fgpu up`, or name one: `fgpu context set`";
            return Check::warn(NAME, "no context and no address to look at", advice);
        }
        Ok(target) => crate::connect::Link::new(target),
        Err(failure) => return of_failure(NAME, &failure),
    };
    let asked =
        link.call(Repeat::Safe, async |c| c.admin().get_cluster(GetClusterRequest {}).await).await;
    match asked {
        Ok(cluster) => Check::ok(
            NAME,
            format!(
                "{} answers: version {}, {} nodes, {} devices; you are {}",
                link.addresses(),
                cluster.version,
                cluster.nodes,
                cluster.devices,
                cluster.user
            ),
        ),
        Err(failure) => of_failure(NAME, &failure),
    }
}

/// A check that failed with an error.
pub(crate) fn of_failure(name: &str, failure: &Failure) -> Check {
    let parts = std::iter::once(&failure.fact).chain(&failure.details);
    let found = parts.cloned().collect::<Vec<_>>().join(": ");
    let advice = failure.hint.clone();
    Check { name: name.to_owned(), level: Level::Fail, found, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_a_line_with_what_to_do_below() {
        let checks =
            [Check::ok("kernel", "6.1"), Check::fail("docker", "does not answer", "start it")];
        assert_eq!(
            render(&checks),
            "ok    kernel  6.1\nFAIL  docker  does not answer\n              -> start it\n"
        );
    }

    #[test]
    fn field_names_of_a_check_are_a_promise() {
        let json = serde_json::to_value(Check::warn("a", "b", "c")).unwrap();
        let expected =
            serde_json::json!({"name": "a", "level": "warn", "found": "b", "advice": "c"});
        assert_eq!(json, expected);
    }
}
