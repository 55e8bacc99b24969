//! Explanations as callers see them.

use fgpu_domain::cluster::{Explanation, Hold};
use fgpu_domain::ids::NodeName;
use fgpu_domain::placement::{NoPlacement, Reason};
use fgpu_wire::{convert, v1};

/// Nodes named one by one; beyond that the counts tell.
const NAMED_NODES: usize = 200;

/// An explanation; `names` says which other sessions may be named.
pub(super) fn explanation(
    explanation: &Explanation,
    sees: impl Fn(&fgpu_domain::ids::SessionId) -> bool,
) -> v1::ExplainSessionResponse {
    let position = explanation.queue_position.unwrap_or(0);
    let ahead = explanation.ahead.iter().filter(|id| sees(id));
    let mut wire = v1::ExplainSessionResponse {
        summary: explanation.summary.clone(),
        queue_position: u32::try_from(position).unwrap_or(u32::MAX),
        ahead: ahead.map(ToString::to_string).collect(),
        grant: explanation.grant.as_ref().map(Into::into),
        attempts: explanation.attempts.iter().map(Into::into).collect(),
        ..v1::ExplainSessionResponse::default()
    };
    if let Some(refused) = &explanation.refused {
        fill_refused(&mut wire, refused);
    }
    wire.holds.extend(explanation.hold.as_ref().map(|hold| match hold {
        Hold::Until { at } => convert::hold_until(*at),
        Hold::After { sessions } => convert::hold_after(sessions),
        Hold::Array { group, at_once } => convert::hold_array(group, *at_once),
        Hold::Gang { waiting, size } => convert::hold_gang(*waiting, *size),
    }));
    wire.holds.extend(explanation.quota.as_ref().map(convert::hold_quota));
    wire
}

fn fill_refused(wire: &mut v1::ExplainSessionResponse, refused: &NoPlacement) {
    wire.nodes =
        refused.reasons.iter().take(NAMED_NODES).map(|(node, why)| reason(node, why)).collect();
    wire.counts = refused
        .summary
        .iter()
        .map(|(code, nodes)| v1::ReasonCount {
            code: (*code).to_owned(),
            nodes: u32::try_from(*nodes).unwrap_or(u32::MAX),
            example: refused
                .reasons
                .iter()
                .find(|(_, reason)| reason.code() == *code)
                .map(|(_, reason)| reason.to_string())
                .unwrap_or_default(),
        })
        .collect();
    wire.closest = refused.closest.as_ref().map(|(node, why)| reason(node, why));
    wire.would_fit = refused.would_fit.iter().map(ToString::to_string).collect();
}

fn reason(node: &NodeName, reason: &Reason) -> v1::NodeReason {
    let (code, text) = (reason.code().to_owned(), reason.to_string());
    v1::NodeReason { node: node.to_string(), code, text }
}
