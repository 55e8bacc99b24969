//! What version 2 adds to a pod, as it stands in the line.

use super::lines::{JobLine, PodLine};
use serde::Deserialize;

/// Times may be given in seconds or in milliseconds.
#[derive(Debug, Deserialize)]
pub(super) struct JobFields {
    arrival_ms: Option<u64>,
    arrival_s: Option<u64>,
    duration_ms: Option<u64>,
    duration_s: Option<u64>,
    time_limit_ms: Option<u64>,
    time_limit_s: Option<u64>,
    #[serde(default)]
    priority: i32,
    class: Option<String>,
    project: Option<String>,
    user: Option<String>,
    #[serde(default = "alone")]
    size: u32,
}

fn alone() -> u32 {
    1
}

impl JobFields {
    /// The pod with these fields; `before` is the arrival of the pod in front of it.
    ///
    /// # Errors
    /// The rule that is broken.
    pub(super) fn job(self, pod: PodLine, before: u64) -> Result<JobLine, String> {
        let arrival_ms = time("arrival", self.arrival_ms, self.arrival_s)?.unwrap_or(before);
        if arrival_ms < before {
            return Err(format!(
                "it arrives at {arrival_ms} ms, before the pod in front of it at {before} ms: \
                 sort the pods by arrival"
            ));
        }
        let time_limit_ms = time("time_limit", self.time_limit_ms, self.time_limit_s)?;
        if time_limit_ms == Some(0) {
            return Err("its time limit is 0: leave it out for no limit".to_owned());
        }
        if self.size == 0 {
            return Err("its size is 0: it must be at least 1".to_owned());
        }
        Ok(JobLine {
            pod,
            arrival_ms,
            duration_ms: time("duration", self.duration_ms, self.duration_s)?,
            time_limit_ms,
            priority: self.priority,
            class: self.class,
            project: self.project,
            user: self.user,
            size: self.size,
        })
    }
}

fn time(what: &str, millis: Option<u64>, seconds: Option<u64>) -> Result<Option<u64>, String> {
    match (millis, seconds) {
        (Some(_), Some(_)) => Err(format!("it has both {what}_ms and {what}_s: give one")),
        (millis, None) => Ok(millis),
        (None, Some(seconds)) => {
            let millis = seconds.checked_mul(1000);
            millis.map(Some).ok_or_else(|| format!("its {what}_s {seconds} is too large"))
        }
    }
}
