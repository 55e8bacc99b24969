//! `fgpu defrag`: moves of sessions that allow it, so that whole devices and nodes become free.
//!
//! The plan is shown first, with its gain and cost; nothing moves before it is confirmed.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use fgpu_wire::v1::run_defrag_response::Event;
use fgpu_wire::v1::{DefragDone, PlanDefragRequest, RunDefragRequest};

use crate::connect::{ConnectArgs, Link, Repeat};
use crate::failure::Failure;
use crate::output::{self, Format, OutputArgs, Table};
use crate::progress::Progress;
use crate::view::{
    self, DefragDoneView, DefragPlanView, DefragStepView, FragmentationView, GrantView,
    MoveEndedView, MoveView,
};

/// `fgpu defrag`
#[derive(Debug, Args)]
pub(crate) struct DefragArgs {
    /// Only show the moves, with their gain and cost
    #[arg(long)]
    plan: bool,
    /// Move without asking
    #[arg(short, long, conflicts_with = "plan")]
    yes: bool,
    /// At most so many moves
    #[arg(
        long, value_name = "NUMBER", default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    max_moves: u32,
    /// Only move sessions on this node
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    node: String,
    /// So many sessions between two places at once
    #[arg(
        long, value_name = "NUMBER", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    at_once: u32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `fgpu defrag`.
pub(crate) async fn run(args: DefragArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let request = PlanDefragRequest { node: args.node.clone(), max_moves: args.max_moves };
    let plan =
        link.call(Repeat::Safe, async |c| c.admin().plan_defrag(request.clone()).await).await?;
    let plan = DefragPlanView::from(plan);
    let format = args.output.output;
    if args.plan {
        return match format {
            Format::Json => output::json(&plan),
            Format::Table => output::text(render(&plan)),
        };
    }
    let done = if plan.steps.is_empty() {
        output::say(nothing(&plan));
        unmoved(plan)
    } else {
        output::say(render(&plan).trim_end());
        confirm(&plan, args.yes)?;
        carry_out(&link, plan, args.at_once).await?
    };
    match format {
        Format::Json => output::json(&done)?,
        Format::Table if done.moved > 0 => output::text(gained(&done.plan.before, &done.now))?,
        Format::Table => {}
    }
    match &done.stopped {
        None => Ok(()),
        Some(why) => {
            let all = done.plan.moves();
            Err(Failure::new(format!("moved {} of {all} sessions, then stopped", done.moved))
                .detail(why)
                .hint("make a new plan with `fgpu defrag --plan`"))
        }
    }
}

/// A plan without moves, as done.
fn unmoved(plan: DefragPlanView) -> DefragDoneView {
    let now = plan.before;
    DefragDoneView { plan, moves: Vec::new(), moved: 0, left: 0, stopped: None, now }
}

/// Asks the person, unless told not to.
fn confirm(plan: &DefragPlanView, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("nothing was moved: there is no terminal to confirm the plan at")
            .hint("add `--yes` to move without asking, or `--plan` to only look"));
    }
    let failed = |error: std::io::Error| Failure::because("cannot ask", &error);
    let mut err = std::io::stderr();
    write!(err, "move {}? [y/N] ", sessions(plan.moves())).map_err(failed)?;
    err.flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new("nothing was moved")),
    }
}

/// Has the moves made, and shows how it goes.
async fn carry_out(
    link: &Link,
    plan: DefragPlanView,
    at_once: u32,
) -> Result<DefragDoneView, Failure> {
    let request = RunDefragRequest { plan_id: plan.id.clone(), at_once };
    let mut events =
        link.call(Repeat::Never, async |c| c.admin().run_defrag(request.clone()).await).await?;
    let mut progress = Progress::new(false);
    let (all, mut moves) = (plan.moves(), Vec::new());
    let mut done = None;
    while let Some(event) = events.message().await.map_err(|status| broken(&status))? {
        match event.event {
            Some(Event::Started(planned)) => {
                let planned = MoveView::from(planned);
                let count = moves.len();
                let (from, to) = (place(planned.from.as_ref()), place(planned.to.as_ref()));
                progress.state(&format!(
                    "{count} of {all} done; moving {} from {from} to {to}",
                    planned.label()
                ));
            }
            Some(Event::Ended(ended)) => {
                let ended = MoveEndedView::from(ended);
                progress.note(&ending(&ended));
                moves.push(ended);
            }
            Some(Event::Done(last)) => done = Some(last),
            None => {}
        }
    }
    progress.clear();
    let DefragDone { moved, left, stopped, now } = done.ok_or_else(|| {
        Failure::new("the manager went away while sessions were being moved").hint(CARRIED_ON)
    })?;
    let stopped = (!stopped.is_empty()).then_some(stopped);
    let now = now.map(Into::into).unwrap_or_default();
    Ok(DefragDoneView { plan, moves, moved, left, stopped, now })
}

const CARRIED_ON: &str =
    "moves that had begun are carried to their end: see `fgpu ps`, then make a new plan";

fn broken(status: &tonic::Status) -> Failure {
    Failure::from(status).hint(CARRIED_ON)
}

fn ending(ended: &MoveEndedView) -> String {
    let id = &ended.session_id;
    match (&ended.node, &ended.note) {
        (Some(node), _) if ended.moved => format!("session {id} runs on node {node}"),
        (_, Some(note)) => format!("session {id}: {note}"),
        (_, None) => format!("session {id} was not moved"),
    }
}

/// Why there is no move.
fn nothing(plan: &DefragPlanView) -> String {
    match plan.movable {
        0 => "no running session allows being moved (`fgpu run --movable`)".to_owned(),
        movable => {
            let movable = usize::try_from(movable).unwrap_or(usize::MAX);
            format!("nothing can be freed by moving any of {}", sessions(movable))
        }
    }
}

/// The plan for people: moves, gain, cost.
fn render(plan: &DefragPlanView) -> String {
    if plan.steps.is_empty() {
        return nothing(plan) + "\n";
    }
    let mut table = Table::new(&["STEP", "SESSION", "OWNER", "FROM", "TO", "RAN FOR", "FREES"]);
    for (number, step) in (1..).zip(&plan.steps) {
        let last = step.moves.len().saturating_sub(1);
        for (at, planned) in step.moves.iter().enumerate() {
            table.row([
                number.to_string(),
                planned.label().to_owned(),
                planned.owner.clone(),
                place(planned.from.as_ref()),
                place(planned.to.as_ref()),
                output::age(planned.ran_ms),
                if at == last { frees(step) } else { String::new() },
            ]);
        }
    }
    let cost = &plan.cost;
    let restarts = usize::try_from(cost.restarts).unwrap_or(usize::MAX);
    let ran = output::age(cost.ran_ms);
    let memory = view::gib(cost.gpu_memory_bytes);
    format!(
        "{}\ngain: {}cost: {} start anew, after running {ran} in sum, with {memory} of GPU memory\n",
        table.render(),
        gained(&plan.before, &plan.after),
        sessions(restarts),
    )
}

/// What is free before and after.
fn gained(before: &FragmentationView, after: &FragmentationView) -> String {
    let pair = |what: &str, before: String, after: String| match before == after {
        true => format!("{what} {after}"),
        false => format!("{what} {before} -> {after}"),
    };
    let number = |number: u32| number.to_string();
    let parts = [
        pair("free devices", number(before.free_devices), number(after.free_devices)),
        pair("free nodes", number(before.free_nodes), number(after.free_nodes)),
        pair("most on one node", number(before.largest_gpus), number(after.largest_gpus)),
        pair(
            "of what is free, on devices in use",
            view::percent(before.scattered_milli),
            view::percent(after.scattered_milli),
        ),
    ];
    parts.join(", ") + "\n"
}

/// `node a1, GPU-1 + GPU-2`, short enough for a column.
fn place(grant: Option<&GrantView>) -> String {
    let Some(grant) = grant else { return String::new() };
    let devices: Vec<&str> = grant.slices.iter().map(|slice| slice.device_uuid.as_str()).collect();
    match devices.is_empty() {
        true => grant.node.clone(),
        false => format!("{}: {}", grant.node, devices.join(" + ")),
    }
}

fn frees(step: &DefragStepView) -> String {
    match &step.frees_device {
        Some(device) => format!("device {device}"),
        None => format!("node {}", step.frees_node),
    }
}

fn sessions(count: usize) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_wire::v1;

    fn grant(node: &str, device: &str) -> Option<v1::Grant> {
        let slice = v1::Slice { device_uuid: device.into(), ..v1::Slice::default() };
        Some(v1::Grant { node: node.into(), slices: vec![slice], ..v1::Grant::default() })
    }

    fn plan() -> DefragPlanView {
        let planned = v1::SessionMove {
            session_id: "7f3c".into(),
            owner: "ann".into(),
            generation: 1,
            from: grant("a1", "GPU-1"),
            to: grant("b2", "GPU-9"),
            ran_ms: 7_200_000,
            ..v1::SessionMove::default()
        };
        let named = v1::SessionMove { session_name: "eval".into(), ..planned.clone() };
        v1::DefragPlan {
            id: "3-1".into(),
            steps: vec![v1::DefragStep {
                moves: vec![planned, named],
                frees_node: "a1".into(),
                frees_device: "GPU-1".into(),
            }],
            before: Some(v1::Fragmentation { scattered_milli: 300, ..Default::default() }),
            after: Some(v1::Fragmentation {
                free_devices: 1,
                largest_gpus: 1,
                ..Default::default()
            }),
            cost: Some(v1::DefragCost {
                restarts: 2,
                ran_ms: 14_400_000,
                gpu_memory_bytes: 24 << 30,
            }),
            movable: 5,
            ..v1::DefragPlan::default()
        }
        .into()
    }

    #[test]
    fn a_plan_shows_moves_gain_and_cost() {
        assert_eq!(
            render(&plan()),
            "STEP  SESSION  OWNER  FROM       TO         RAN FOR  FREES\n\
             1     7f3c     ann    a1: GPU-1  b2: GPU-9  2h       -\n\
             1     eval     ann    a1: GPU-1  b2: GPU-9  2h       device GPU-1\n\
             \n\
             gain: free devices 0 -> 1, free nodes 0, most on one node 0 -> 1, of what is free, on devices in use 30 % -> 0 %\n\
             cost: 2 sessions start anew, after running 4h in sum, with 24 GiB of GPU memory\n"
        );
    }

    #[test]
    fn a_plan_without_moves_says_why() {
        let empty = |movable| DefragPlanView { steps: Vec::new(), movable, ..plan() };
        assert!(render(&empty(0)).contains("--movable"));
        assert!(render(&empty(3)).contains("any of 3 sessions"));
    }
}
