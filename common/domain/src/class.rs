//! Priority classes: how urgent sessions are, and who may take whose place.

use crate::ids::ClassName;
use crate::session::{PRIORITY_RANGE, SpecError, field};
use serde::{Deserialize, Serialize};

/// A priority class as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorityClass {
    /// Its name.
    pub name: ClassName,
    /// Added to the priority of its sessions.
    pub priority: i32,
    /// Whether its sessions may take the place of preemptible ones of a lower priority.
    #[serde(default)]
    pub may_preempt: bool,
    /// Whether sessions of a higher class may take the place of its own.
    #[serde(default)]
    pub preemptible: bool,
    /// How long a session runs undisturbed before its place may be taken, milliseconds.
    #[serde(default)]
    pub min_run_ms: u64,
    /// From the polite signal to the hard one when its place is taken; absent: the session's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// What becomes of a session whose place was taken.
    #[serde(default)]
    pub on_preempt: OnPreempt,
}

/// What becomes of a session whose place was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPreempt {
    /// It waits for another place.
    #[default]
    Requeue,
    /// It ends.
    Stop,
}

impl PriorityClass {
    /// A class of `priority` that neither takes places nor gives its own.
    #[must_use]
    pub fn new(name: ClassName, priority: i32) -> Self {
        Self {
            name,
            priority,
            may_preempt: false,
            preemptible: false,
            min_run_ms: 0,
            grace_ms: None,
            on_preempt: OnPreempt::default(),
        }
    }

    /// The class of this name that is there without a record, if there is one: `low` (−100,
    /// preemptible), `normal` (0) and `high` (100, may preempt).
    #[must_use]
    pub fn built_in(name: &ClassName) -> Option<Self> {
        let class = |priority| Self::new(name.clone(), priority);
        match name.as_str() {
            "low" => Some(Self { preemptible: true, ..class(-100) }),
            "normal" => Some(class(0)),
            "high" => Some(Self { may_preempt: true, ..class(100) }),
            _ => None,
        }
    }

    /// Every class that is there without a record, lowest first.
    #[must_use]
    pub fn all_built_in() -> Vec<Self> {
        let names = ["low", "normal", "high"].map(ClassName::new);
        names.into_iter().flatten().filter_map(|name| Self::built_in(&name)).collect()
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The first fault, with flag, value and rule.
    pub fn check(&self) -> Result<(), SpecError> {
        if PRIORITY_RANGE.contains(&self.priority) {
            return Ok(());
        }
        let rule = format!("from {} to {}", PRIORITY_RANGE.start(), PRIORITY_RANGE.end());
        Err(field("--priority", self.priority, &rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_classes_are_there_without_records() {
        let priorities: Vec<i32> =
            PriorityClass::all_built_in().iter().map(|class| class.priority).collect();
        assert_eq!(priorities, [-100, 0, 100]);
        assert_eq!(PriorityClass::built_in(&ClassName::default()).unwrap().priority, 0);
    }

    #[test]
    fn a_priority_out_of_range_is_refused() {
        let class = PriorityClass::new("urgent".parse().unwrap(), 1001);
        assert_eq!(class.check().unwrap_err().field(), "--priority");
    }
}
