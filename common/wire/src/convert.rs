//! The only conversions between wire and domain.
//!
//! To the wire is `From` and cannot fail. From the wire is a function that checks every field and
//! names the one at fault as its flag is called.

mod defrag;
mod explain;
mod group;
mod node;
mod project;
mod session;
mod spec;

pub use group::members;
pub use node::{device, device_usage, inventory, runtime_facts, unit_policy};
pub use project::{change_quota, priority_class, project, project_name, quota_of, users};
pub use session::{grant, phase_of, report, slice};
pub use spec::{DEFAULT_STOP_GRACE_MS, SpecDefaults, session_spec};

use crate::error::CallError;
use fgpu_domain::ids::IdError;

/// A wire identifier that must be valid; `field` names it in the error.
pub(crate) fn id<T>(field: &str, value: &str) -> Result<T, CallError>
where
    T: std::str::FromStr<Err = IdError>,
{
    value.parse().map_err(|error: IdError| CallError::field(field, &error.value, error.rule))
}

/// `None` for the wire's empty text.
pub(crate) fn optional_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `None` for the wire's zero.
pub(crate) fn nonzero(amount: u64) -> Option<u64> {
    (amount != 0).then_some(amount)
}
