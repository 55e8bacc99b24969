//! What `-o json` prints: structures of our own with stable, snake-case names, amounts as
//! integers with their unit in the name, times in Unix milliseconds. Fields are only ever added.
//!
//! An enumeration is its lower-case word (`running`, `hard`), absent where the manager left it open.

mod defrag;
mod node;
mod project;
mod session;

pub(crate) use defrag::{
    DefragDoneView, DefragPlanView, DefragStepView, FragmentationView, MoveEndedView, MoveView,
};
pub(crate) use node::{ClusterView, DeviceView, NodeView, TokenView, UnitRuleView};
pub(crate) use project::{ClassView, ProjectView, QuotaRow, UsageView};
pub(crate) use session::{
    DependencyView, ExplainView, GpuView, GrantView, GroupView, HoldView, ReservationView,
    SessionView, SliceView, SpecView,
};

use fgpu_domain::units::{ComputeMilli, Fgpu, MemoryBytes};

/// The lower-case word of a generated enumeration: `PHASE_RUNNING` of `PHASE_` is `running`, the
/// unspecified value is nothing.
pub(crate) fn word(name: &str, prefix: &str) -> Option<String> {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => None,
        word => Some(word.to_ascii_lowercase().replace('_', "-")),
    }
}

/// An amount of memory for a narrow column: GiB with one decimal where it is not whole.
pub(crate) fn gib(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10) >> 30;
    let exact = MemoryBytes(bytes).to_string();
    match exact.ends_with("GiB") || bytes < 1 << 30 {
        true => exact,
        false if tenths % 10 == 0 => format!("{} GiB", tenths / 10),
        false => format!("{}.{} GiB", tenths / 10, tenths % 10),
    }
}

/// `2.5 fGPU`.
pub(crate) fn fgpu(milli: u64) -> String {
    format!("{} fGPU", Fgpu(milli))
}

/// `30 %` of a device.
pub(crate) fn percent(milli: u32) -> String {
    ComputeMilli(milli).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enumeration_is_its_lower_case_word() {
        assert_eq!(word("PHASE_RUNNING", "PHASE_"), Some("running".into()));
        assert_eq!(word("NODE_STATE_NEVER_SEEN", "NODE_STATE_"), Some("never-seen".into()));
        assert_eq!(word("PHASE_UNSPECIFIED", "PHASE_"), None);
    }

    #[test]
    fn memory_is_shown_in_gib_with_one_decimal_at_most_where_it_is_large() {
        assert_eq!(gib(80 << 30), "80 GiB");
        assert_eq!(gib((7 << 30) + (987 << 20)), "7.9 GiB");
        assert_eq!(gib(512 << 20), "512 MiB");
        assert_eq!(gib(0), "0 B");
    }
}
