//! Explanations as callers see them.

use fgpu_domain::cluster::Explanation;
use fgpu_domain::ids::SessionId;
use fgpu_wire::v1;

/// An explanation; `sees` says which other sessions may be named.
pub(super) fn explanation(
    explanation: &Explanation,
    sees: impl Fn(&SessionId) -> bool,
) -> v1::ExplainSessionResponse {
    let mut wire = v1::ExplainSessionResponse::from(explanation);
    wire.ahead = explanation.ahead.iter().filter(|id| sees(id)).map(ToString::to_string).collect();
    wire
}
