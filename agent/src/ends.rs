//! How placements end: stable codes for programs, and a reason for people.

use fgpu_domain::time::UnixMillis;
use fgpu_runtime::{ContainerState, RuntimeError};
use serde::{Deserialize, Serialize};

/// The registry has no such image.
pub const IMAGE_NOT_FOUND: &str = "IMAGE_NOT_FOUND";
/// The registry refuses to give the image, or the node's credentials for it cannot be read.
pub const IMAGE_ACCESS_DENIED: &str = "IMAGE_ACCESS_DENIED";
/// The registry does not answer.
pub const REGISTRY_UNREACHABLE: &str = "REGISTRY_UNREACHABLE";
/// The command is not in the image.
pub const COMMAND_NOT_FOUND: &str = "COMMAND_NOT_FOUND";
/// It ended, and nothing tells its exit code exactly.
pub const EXIT_UNKNOWN: &str = "EXIT_UNKNOWN";
/// The container could not be made or started.
pub const START_FAILED: &str = "START_FAILED";
/// What was asked for cannot be carried out by this runtime.
pub const INVALID_SPEC: &str = "INVALID_SPEC";
/// A port to publish could not be had.
pub const PORT_UNAVAILABLE: &str = "PORT_UNAVAILABLE";
/// A mount lies outside the allowed folders, or does not exist.
pub const MOUNT_NOT_ALLOWED: &str = "MOUNT_NOT_ALLOWED";
/// The GPUs of the slice cannot be brought into a container on this node.
pub const GPU_ATTACH_UNAVAILABLE: &str = "GPU_ATTACH_UNAVAILABLE";
/// The container engine stayed away longer than the agent tries.
pub const ENGINE_UNAVAILABLE: &str = "ENGINE_UNAVAILABLE";
/// The container engine went away, and the container with it.
pub const ENGINE_RESTARTED: &str = "ENGINE_RESTARTED";
/// Somebody removed the container behind the agent's back.
pub const CONTAINER_REMOVED: &str = "CONTAINER_REMOVED";
/// The kernel ended it for lack of memory.
pub const OOM_KILLED: &str = "OOM_KILLED";
/// The slices overlap with others on the node: nothing was started.
pub const SLICE_CONFLICT: &str = "SLICE_CONFLICT";
/// A slice names a device this node does not have.
pub const DEVICE_UNKNOWN: &str = "DEVICE_UNKNOWN";
/// The order is for another node, or was not understood.
pub const BAD_ORDER: &str = "BAD_ORDER";
/// The agent cannot write its own files.
pub const STATE_UNWRITABLE: &str = "STATE_UNWRITABLE";
/// Stopped by the agent, which was cut off from the manager.
pub const DISCONNECTED: &str = "DISCONNECTED";

/// The end of a placement: nothing of it runs any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Exit code of the command, if it ran to an end that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// One of the codes of this module, empty when nothing went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When, by this node's clock.
    pub at: UnixMillis,
}

impl End {
    /// An end without an exit code.
    #[must_use]
    pub fn failed(code: &str, message: impl Into<String>, at: UnixMillis) -> Self {
        Self { exit_code: None, code: code.to_owned(), message: message.into(), at }
    }

    /// The end of something that never ran and that nobody wants any more.
    #[must_use]
    pub fn never_ran(at: UnixMillis) -> Self {
        Self::failed("", "stopped before it started", at)
    }

    /// The end of something that is known to have run: what then went wrong was not its start.
    #[must_use]
    pub fn after_running(mut self) -> Self {
        if self.code == START_FAILED {
            EXIT_UNKNOWN.clone_into(&mut self.code);
        }
        self
    }

    /// The same end with another code and reason; the exit code stays.
    #[must_use]
    pub fn because(mut self, code: &str, message: impl Into<String>) -> Self {
        code.clone_into(&mut self.code);
        self.message = message.into();
        self
    }

    /// The end `state` tells, `None` while the container has not ended.
    #[must_use]
    pub fn of_state(state: &ContainerState, now: UnixMillis) -> Option<Self> {
        let ContainerState::Exited {
            code,
            oom_killed,
            finished_at_unix_ms,
            error,
            command_missing,
        } = state
        else {
            return None;
        };
        let at = match finished_at_unix_ms {
            0 => now,
            known => UnixMillis(*known),
        };
        let mut end =
            Self { exit_code: Some(*code), code: String::new(), message: exit_text(*code), at };
        if *oom_killed && *code != 0 {
            end = end.because(
                OOM_KILLED,
                format!(
                    "killed for lack of memory (exit code {code}): ask for more with `--memory`"
                ),
            );
        } else if let Some(error) = error {
            let reason = if *command_missing { COMMAND_NOT_FOUND } else { START_FAILED };
            end = end.because(reason, error.clone());
        }
        Some(end)
    }
}

/// The code and the reason of an error of the runtime.
#[must_use]
pub fn of_error(error: &RuntimeError) -> (&'static str, String) {
    let code = match error {
        RuntimeError::ImageNotFound { .. } => IMAGE_NOT_FOUND,
        RuntimeError::ImageAccessDenied { .. } | RuntimeError::Credentials { .. } => {
            IMAGE_ACCESS_DENIED
        }
        RuntimeError::RegistryUnreachable { .. } => REGISTRY_UNREACHABLE,
        RuntimeError::EngineUnavailable { .. } => ENGINE_UNAVAILABLE,
        RuntimeError::CommandNotFound { .. } => COMMAND_NOT_FOUND,
        RuntimeError::PortUnavailable { .. } => PORT_UNAVAILABLE,
        RuntimeError::InvalidSpec { .. } | RuntimeError::Unsupported { .. } => INVALID_SPEC,
        RuntimeError::State { .. } => STATE_UNWRITABLE,
        RuntimeError::EngineFailed { .. }
        | RuntimeError::NameInUse { .. }
        | RuntimeError::StartFailed { .. }
        | RuntimeError::NoSuchContainer { .. }
        | RuntimeError::NotRunning { .. }
        | RuntimeError::Cgroup { .. } => START_FAILED,
    };
    (code, chain(error))
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = next.source();
    }
    text
}

fn exit_text(code: i32) -> String {
    match code {
        0 => String::new(),
        126 => "exit code 126: the command could not be executed".to_owned(),
        127 => "exit code 127: a command was not found".to_owned(),
        signal @ 129..=192 => format!("exit code {signal}: ended by signal {}", signal - 128),
        other => format!("exit code {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32, oom_killed: bool) -> End {
        let state = ContainerState::Exited {
            code,
            oom_killed,
            finished_at_unix_ms: 0,
            error: None,
            command_missing: false,
        };
        End::of_state(&state, UnixMillis(7)).unwrap()
    }

    #[test]
    fn an_exit_keeps_its_exact_code_and_only_an_unusual_one_has_a_code_of_ours() {
        assert_eq!(
            exited(0, false),
            End {
                exit_code: Some(0),
                code: String::new(),
                message: String::new(),
                at: UnixMillis(7)
            }
        );
        assert_eq!(exited(3, false).exit_code, Some(3));
        assert_eq!(exited(3, false).code, "");
        assert_eq!(exited(143, false).message, "exit code 143: ended by signal 15");
        assert_eq!(exited(137, true).code, OOM_KILLED);
        assert_eq!(exited(0, true).code, "", "a child was killed, the command got over it");
    }

    #[test]
    fn an_error_of_what_had_run_is_no_failed_start() {
        let state = ContainerState::Exited {
            code: -1,
            oom_killed: false,
            finished_at_unix_ms: 5,
            error: Some("lost".to_owned()),
            command_missing: false,
        };
        let end = End::of_state(&state, UnixMillis(7)).unwrap();
        assert_eq!((end.code.as_str(), end.message.as_str()), (START_FAILED, "lost"));
        assert_eq!(end.after_running().code, EXIT_UNKNOWN);
        assert_eq!(exited(3, false).after_running(), exited(3, false));
    }

    #[test]
    fn a_command_that_its_init_could_not_run_was_not_found() {
        let state = ContainerState::Exited {
            code: 127,
            oom_killed: false,
            finished_at_unix_ms: 5,
            error: Some("exec /x failed: No such file or directory".to_owned()),
            command_missing: true,
        };
        let end = End::of_state(&state, UnixMillis(7)).unwrap().after_running();
        assert_eq!((end.code.as_str(), end.exit_code), (COMMAND_NOT_FOUND, Some(127)));
    }

    #[test]
    fn what_a_registry_can_do_wrong_has_three_codes() {
        let image = || "a/b:c".to_owned();
        let registry = || "r".to_owned();
        let missing = RuntimeError::ImageNotFound { image: image() };
        let denied = RuntimeError::ImageAccessDenied {
            image: image(),
            registry: registry(),
            source: "403".into(),
        };
        let away = RuntimeError::RegistryUnreachable {
            image: image(),
            registry: registry(),
            source: "no route".into(),
        };

        assert_eq!(of_error(&missing).0, IMAGE_NOT_FOUND);
        assert_eq!(of_error(&denied).0, IMAGE_ACCESS_DENIED);
        assert_eq!(of_error(&away).0, REGISTRY_UNREACHABLE);
        assert!(of_error(&away).1.ends_with("no route"), "the cause is told");
    }
}
