//! `fgpu class …`: how urgent sessions are, and who may take whose place.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use fgpu_domain::ids::ClassName;
use fgpu_wire::v1::{
    self, ListClassesRequest, PriorityClass, RemoveClassRequest, UpdateClassRequest,
};

use crate::connect::{ConnectArgs, Link, Repeat};
use crate::failure::Failure;
use crate::output::{self, Format, ListArgs, OutputArgs, Table};
use crate::parse;
use crate::view::ClassView;

/// `fgpu class …`
#[derive(Debug, Subcommand)]
pub(crate) enum ClassCommand {
    /// List the priority classes, lowest first
    #[command(visible_alias = "ls")]
    List(ClassListArgs),
    /// Make a priority class, or change what is given of it
    Set(ClassSetArgs),
    /// Forget priority classes; a built-in one is again as it was
    Rm(ClassRmArgs),
}

/// `fgpu class list`
#[derive(Debug, Args)]
pub(crate) struct ClassListArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu class set`
#[derive(Debug, Args)]
pub(crate) struct ClassSetArgs {
    /// Name of the class
    #[arg(value_name = "CLASS")]
    name: ClassName,
    /// Added to the priority of its sessions, -1000 to 1000
    #[arg(
        long, value_name = "NUMBER", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1000..=1000)
    )]
    priority: Option<i32>,
    /// Whether its sessions may take the place of preemptible ones of a class of lower priority
    #[arg(long, value_enum, value_name = "YES|NO")]
    may_preempt: Option<YesNo>,
    /// Whether sessions of a higher class that may preempt may take the place of its own
    #[arg(long, value_enum, value_name = "YES|NO")]
    preemptible: Option<YesNo>,
    /// How long a session runs before its place may be taken
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    min_run: Option<Duration>,
    /// From the polite signal to the hard one when its place is taken [default: the session's own]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    preempt_grace: Option<Duration>,
    /// What becomes of a session whose place was taken
    #[arg(long, value_enum, value_name = "ACTION")]
    on_preempt: Option<OnPreempt>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu class rm`
#[derive(Debug, Args)]
pub(crate) struct ClassRmArgs {
    /// Names of the classes
    #[arg(required = true, value_name = "CLASS")]
    names: Vec<ClassName>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// A choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum YesNo {
    Yes,
    No,
}

/// What becomes of a session whose place was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnPreempt {
    /// It waits for another place (the default)
    Requeue,
    /// It ends
    Stop,
}

/// Runs `fgpu class …`.
pub(crate) async fn run(command: ClassCommand) -> Result<(), Failure> {
    match command {
        ClassCommand::List(args) => list(args).await,
        ClassCommand::Set(args) => set(args).await,
        ClassCommand::Rm(args) => remove(args).await,
    }
}

async fn classes(link: &Link) -> Result<Vec<PriorityClass>, Failure> {
    let answer =
        link.call(Repeat::Safe, async |c| c.projects().list_classes(ListClassesRequest {}).await);
    Ok(answer.await?.classes)
}

async fn list(args: ClassListArgs) -> Result<(), Failure> {
    let classes = classes(&args.connect.link()?).await?;
    let views: Vec<_> = classes.into_iter().map(ClassView::from).collect();
    args.list.print(&views, |view| view.name.clone(), table)
}

fn table(views: &[ClassView]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "PRIORITY",
        "MAY PREEMPT",
        "PREEMPTIBLE",
        "MIN RUN",
        "GRACE",
        "ON PREEMPT",
        "BUILT IN",
    ]);
    for view in views {
        let yes = |yes: bool| if yes { "yes".to_owned() } else { String::new() };
        let preemptible = |text: String| if view.preemptible { text } else { String::new() };
        table.row([
            view.name.clone(),
            view.priority.to_string(),
            yes(view.may_preempt),
            yes(view.preemptible),
            preemptible(output::age(view.min_run_ms)),
            preemptible(view.grace_ms.map(output::age).unwrap_or_default()),
            preemptible(view.on_preempt.clone().unwrap_or_default()),
            yes(view.built_in),
        ]);
    }
    table
}

async fn set(args: ClassSetArgs) -> Result<(), Failure> {
    let request = args.change();
    let link = args.connect.link()?;
    let set = link.call(Repeat::Safe, async |c| c.projects().update_class(request.clone()).await);
    let view = ClassView::from(set.await?);
    match args.output.output {
        Format::Json => output::json(&view),
        Format::Table => output::line(&view.name),
    }
}

impl ClassSetArgs {
    /// What is given; the manager leaves the rest as it is.
    fn change(&self) -> UpdateClassRequest {
        let yes = |choice: YesNo| choice == YesNo::Yes;
        let on_preempt = match self.on_preempt {
            Some(OnPreempt::Requeue) => v1::OnPreempt::Requeue,
            Some(OnPreempt::Stop) => v1::OnPreempt::Stop,
            None => v1::OnPreempt::Unspecified,
        };
        UpdateClassRequest {
            name: self.name.to_string(),
            priority: self.priority,
            may_preempt: self.may_preempt.map(yes),
            preemptible: self.preemptible.map(yes),
            min_run_ms: self.min_run.map(parse::millis),
            grace_ms: self.preempt_grace.map(parse::millis),
            on_preempt: on_preempt.into(),
        }
    }
}

async fn remove(args: ClassRmArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    for name in &args.names {
        let request = RemoveClassRequest { name: name.to_string() };
        let removed =
            link.call(Repeat::Never, async |c| c.projects().remove_class(request.clone()).await);
        output::line(removed.await?.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cli, Command};
    use clap::Parser as _;

    fn change(line: &str) -> UpdateClassRequest {
        let words = ["fgpu", "class", "set", "batch"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Class(ClassCommand::Set(args)) => args.change(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_given_is_asked_for() {
        let nothing = UpdateClassRequest { name: "batch".into(), ..Default::default() };
        assert_eq!(change(""), nothing);
        let expected = UpdateClassRequest {
            priority: Some(7),
            may_preempt: Some(false),
            min_run_ms: Some(0),
            grace_ms: Some(60_000),
            on_preempt: v1::OnPreempt::Requeue.into(),
            ..nothing
        };
        let line =
            "--priority 7 --may-preempt no --min-run 0s --preempt-grace 1m --on-preempt requeue";
        assert_eq!(change(line), expected);
    }

    #[test]
    fn what_taking_places_means_is_shown_only_where_places_may_be_taken() {
        let class = |name: &str, preemptible| ClassView {
            preemptible,
            ..PriorityClass { name: name.into(), min_run_ms: 300_000, ..Default::default() }.into()
        };
        let text = table(&[class("low", true), class("normal", false)]).render();
        assert!(text.contains("low     0         -            yes          5m"), "{text}");
        assert!(text.contains("normal  0         -            -            -  "), "{text}");
    }
}
