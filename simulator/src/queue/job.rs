//! What became of one pod of the replay.

use crate::replay::JobLine;
use fgpu_domain::ids::SessionId;

/// A pod of the replay, with all its sessions.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) line: JobLine,
    /// More than one where it is a gang.
    pub(super) sessions: Vec<SessionId>,
    /// Sessions that hold a place.
    pub(super) placed: usize,
    /// Sessions that are over.
    pub(super) over: usize,
    /// Sessions that are over because their time was up.
    pub(super) done: usize,
    /// When all of it ran for the first time.
    pub(super) started_ms: Option<u64>,
    pub(super) ended_ms: Option<u64>,
    /// How often it lost the place of a session.
    pub(super) restarts: u64,
    /// Why it was refused at once, if it was.
    pub(super) refused: Option<&'static str>,
}

/// What a pod wants, as the report tells pods apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    CpuOnly,
    Shared,
    One,
    Several,
    Gang,
}

/// Where a pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Refused,
    Waiting,
    Running,
    /// Its time was up.
    Completed,
    /// It was stopped before.
    Stopped,
}

impl Job {
    pub(super) fn new(line: JobLine) -> Self {
        Self {
            line,
            sessions: Vec::new(),
            placed: 0,
            over: 0,
            done: 0,
            started_ms: None,
            ended_ms: None,
            restarts: 0,
            refused: None,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match (self.line.size, self.line.pod.num_gpu, self.line.pod.gpu_milli) {
            (2.., ..) => Kind::Gang,
            (_, 0, _) => Kind::CpuOnly,
            (_, _, ..1000) => Kind::Shared,
            (_, 1, _) => Kind::One,
            _ => Kind::Several,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        if self.refused.is_some() {
            Standing::Refused
        } else if self.over == self.sessions.len() {
            if self.done > 0 { Standing::Completed } else { Standing::Stopped }
        } else if self.placed + self.over == self.sessions.len() {
            Standing::Running
        } else {
            Standing::Waiting
        }
    }

    /// From its arrival to its first start.
    pub(super) fn wait_ms(&self) -> Option<u64> {
        Some(self.started_ms?.saturating_sub(self.line.arrival_ms))
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CpuOnly => "cpu_only",
            Self::Shared => "shared_gpu",
            Self::One => "one_gpu",
            Self::Several => "multi_gpu",
            Self::Gang => "gang",
        }
    }
}
