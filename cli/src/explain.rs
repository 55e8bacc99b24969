//! `fgpu explain`, and what `fgpu run --dry-run` says: why a session waits or where it goes.

use clap::Args;
use fgpu_wire::v1::{ExplainSessionRequest, ExplainSessionResponse};

use crate::connect::{ConnectArgs, Repeat};
use crate::failure::Failure;
use crate::output::{self, Format, OutputArgs};
use crate::progress;
use crate::view::{ExplainView, HoldView, ReservationView};

/// `fgpu explain`
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Session: its id, a unique beginning of it, or its name
    pub(crate) session: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Runs `fgpu explain`.
pub(crate) async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let request = ExplainSessionRequest { session: args.session };
    let link = args.connect.link()?;
    let answer = link.call(Repeat::Safe, async |clients| {
        clients.sessions().explain_session(request.clone()).await
    });
    show(answer.await?, args.output.output)
}

/// Prints an explanation.
pub(crate) fn show(answer: ExplainSessionResponse, format: Format) -> Result<(), Failure> {
    let view = ExplainView::from(answer);
    match format {
        Format::Json => output::json(&view),
        Format::Table => output::text(render(&view)),
    }
}

/// The explanation for people.
pub(crate) fn render(view: &ExplainView) -> String {
    let mut lines = vec![view.summary.clone()];
    if let Some(position) = view.queue_position {
        let ahead = match view.ahead.is_empty() {
            true => String::new(),
            false => format!(", behind {}", view.ahead.join(", ")),
        };
        lines.push(format!("  position {position} in the queue{ahead}"));
    }
    lines.extend(view.holds.iter().map(|hold| format!("  {}", hold_line(hold, output::now_ms()))));
    let promise = view.reservation.as_ref();
    lines.extend(promise.map(|promise| format!("  {}", promise_line(promise, output::now_ms()))));
    // Of several the summary says where they go.
    if let Some(grant) = view.grant.as_ref().filter(|_| view.members <= 1) {
        lines.push(format!("  on {}", progress::grant_line(grant)));
    }
    if let Some(closest) = &view.closest {
        lines.push(format!("  closest: node {}: {}", closest.node, closest.text));
    }
    let others = view.nodes.iter().filter(|node| Some(*node) != view.closest.as_ref());
    lines.extend(others.map(|node| format!("  node {}: {}", node.node, node.text)));
    if view.nodes.is_empty() {
        let counts = view.counts.iter();
        lines.extend(counts.map(|count| {
            format!("  {} nodes: {}, e.g. {}", count.nodes, count.code, count.example)
        }));
    }
    lines.extend(view.would_fit.iter().map(|fit| format!("  instead: {fit}")));
    if !view.attempts.is_empty() {
        lines.push("attempts:".to_owned());
    }
    lines.extend(view.attempts.iter().map(|attempt| {
        let age = output::age_of(attempt.at_ms, output::now_ms());
        format!("  {age} ago {}", attempt.line())
    }));
    lines.join("\n") + "\n"
}

/// What else keeps it waiting; a time is said as people say it.
fn hold_line(hold: &HoldView, now_ms: u64) -> String {
    let at = hold.metadata.get("start_at_ms").and_then(|at| at.parse::<u64>().ok());
    match at {
        Some(at) => {
            let wait = output::age(at.saturating_sub(now_ms));
            format!("not before {}, in {wait}", output::instant(at))
        }
        None => hold.text.clone(),
    }
}

/// What it is promised while it waits.
fn promise_line(promise: &ReservationView, now_ms: u64) -> String {
    let word = if promise.nodes.len() == 1 { "node" } else { "nodes" };
    let nodes = match promise.nodes.is_empty() {
        true => String::new(),
        false => format!(" on {word} {}", promise.nodes.join(", ")),
    };
    match (promise.at_ms, promise.binding) {
        (Some(at), _) => {
            let wait = output::age(at.saturating_sub(now_ms));
            format!("promised: room{nodes} by {}, in {wait}", output::instant(at))
        }
        (None, true) => format!("promised: what becomes free{nodes} is kept for it"),
        (None, false) => {
            "promised: nothing yet; sessions without a time limit are in the way".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_wire::v1;

    #[test]
    fn a_promise_says_when_and_where() {
        let promise = |at_ms, nodes: &[&str], binding| ReservationView {
            at_ms,
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            binding,
        };
        assert_eq!(
            promise_line(&promise(Some(7_200_000), &["a1"], true), 0),
            "promised: room on node a1 by 1970-01-01T02:00:00Z, in 2h"
        );
        let kept = promise_line(&promise(None, &["a1", "b2"], true), 0);
        assert_eq!(kept, "promised: what becomes free on nodes a1, b2 is kept for it");
        assert!(promise_line(&promise(None, &[], false), 0).contains("nothing yet"));
    }

    #[test]
    fn of_several_the_summary_says_where_they_go() {
        let answer = ExplainSessionResponse {
            summary: "all 4 members would start now on nodes a1 (2), b2 (2)".into(),
            queue_position: 1,
            grant: Some(v1::Grant { node: "a1".into(), ..v1::Grant::default() }),
            members: 4,
            starts_now: 4,
            ..ExplainSessionResponse::default()
        };
        assert_eq!(
            render(&answer.into()),
            "all 4 members would start now on nodes a1 (2), b2 (2)\n  position 1 in the queue\n"
        );
    }

    #[test]
    fn a_waiting_session_says_place_and_what_each_node_lacks() {
        let reason = |node: &str, text: &str| v1::NodeReason {
            node: node.into(),
            code: "X".into(),
            text: text.into(),
        };
        let answer = ExplainSessionResponse {
            summary: "waits: no node has 10 fGPU free".into(),
            queue_position: 2,
            ahead: vec!["s1".into()],
            closest: Some(reason("a1", "largest free slice is 4 fGPU")),
            nodes: vec![reason("a1", "largest free slice is 4 fGPU"), reason("b2", "cordoned")],
            would_fit: vec!["--devices 2".into()],
            attempts: vec![v1::Attempt {
                at_ms: output::now_ms() - 600_000,
                reason: "node c3 was lost".into(),
                node_fault: true,
                grant: Some(v1::Grant { node: "c3".into(), ..Default::default() }),
                ..Default::default()
            }],
            ..ExplainSessionResponse::default()
        };

        assert_eq!(
            render(&answer.into()),
            "waits: no node has 10 fGPU free\n  \
             position 2 in the queue, behind s1\n  \
             closest: node a1: largest free slice is 4 fGPU\n  \
             node b2: cordoned\n  instead: --devices 2\nattempts:\n  \
             10m ago on c3: node c3 was lost; avoided while another node fits\n"
        );
    }
}
