//! `fgpu project …`: whose use is counted together, and who may be part of it.

use clap::{Args, Subcommand};
use fgpu_domain::ids::{ProjectName, UserName};
use fgpu_domain::project::WEIGHT_RANGE;
use fgpu_wire::v1::{
    CreateProjectRequest, GetProjectRequest, GetUsageRequest, ListProjectsRequest, Project,
    RemoveProjectRequest, UpdateProjectRequest,
};

use crate::connect::{ConnectArgs, Link, Repeat};
use crate::failure::Failure;
use crate::output::{self, Format, ListArgs, OutputArgs, Table};
use crate::view::{self, ProjectView, QuotaRow, UsageView};

/// `fgpu project …`
#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Create a project
    Create(ProjectCreateArgs),
    /// List the projects
    #[command(visible_alias = "ls")]
    List(ProjectListArgs),
    /// Show one project: members, limits and what it holds
    Get(ProjectGetArgs),
    /// Change the weight or the members of a project
    Set(ProjectSetArgs),
    /// Forget projects in which no session is alive
    Rm(ProjectRmArgs),
}

/// `fgpu project create`
#[derive(Debug, Args)]
pub(crate) struct ProjectCreateArgs {
    /// Name of the project
    #[arg(value_name = "PROJECT")]
    name: ProjectName,
    /// Its part of the cluster in proportion to the others' weights [default: 100]
    #[arg(long, value_name = "NUMBER", value_parser = weight)]
    weight: Option<u32>,
    /// Only these users may create sessions in it; may be repeated [default: everybody]
    #[arg(long = "member", value_name = "USER")]
    members: Vec<UserName>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu project list`
#[derive(Debug, Args)]
pub(crate) struct ProjectListArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu project get`
#[derive(Debug, Args)]
pub(crate) struct ProjectGetArgs {
    /// Name of the project
    #[arg(value_name = "PROJECT")]
    name: ProjectName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu project set`
#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true)]
pub(crate) struct ProjectSetArgs {
    /// Name of the project
    #[arg(value_name = "PROJECT")]
    name: ProjectName,
    /// Its part of the cluster in proportion to the others' weights
    #[arg(long, value_name = "NUMBER", value_parser = weight, group = "change")]
    weight: Option<u32>,
    /// Let this user create sessions in it; may be repeated
    #[arg(long = "add-member", value_name = "USER", group = "change")]
    add_members: Vec<UserName>,
    /// Do not let this user create sessions in it any more; may be repeated
    #[arg(long = "remove-member", value_name = "USER", group = "change")]
    remove_members: Vec<UserName>,
    /// Let everybody create sessions in it: it has no members any more
    #[arg(long, group = "change", conflicts_with_all = ["add_members", "remove_members"])]
    everybody: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu project rm`
#[derive(Debug, Args)]
pub(crate) struct ProjectRmArgs {
    /// Names of the projects
    #[arg(required = true, value_name = "PROJECT")]
    names: Vec<ProjectName>,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn weight(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(weight) if WEIGHT_RANGE.contains(&weight) => Ok(weight),
        _ => Err(format!(
            "`{text}` is no weight: write a number from {} to {}",
            WEIGHT_RANGE.start(),
            WEIGHT_RANGE.end()
        )),
    }
}

/// Runs `fgpu project …`.
pub(crate) async fn run(command: ProjectCommand) -> Result<(), Failure> {
    match command {
        ProjectCommand::Create(args) => create(args).await,
        ProjectCommand::List(args) => list(args).await,
        ProjectCommand::Get(args) => get(args).await,
        ProjectCommand::Set(args) => set(args).await,
        ProjectCommand::Rm(args) => remove(args).await,
    }
}

async fn create(args: ProjectCreateArgs) -> Result<(), Failure> {
    let request = CreateProjectRequest {
        name: args.name.to_string(),
        weight: args.weight.unwrap_or(0),
        members: args.members.iter().map(ToString::to_string).collect(),
    };
    let link = args.connect.link()?;
    let made =
        link.call(Repeat::Safe, async |c| c.projects().create_project(request.clone()).await);
    tell(made.await?, args.output.output)
}

async fn set(args: ProjectSetArgs) -> Result<(), Failure> {
    let names = |users: &[UserName]| users.iter().map(ToString::to_string).collect();
    let request = UpdateProjectRequest {
        name: args.name.to_string(),
        weight: args.weight.unwrap_or(0),
        add_members: names(&args.add_members),
        remove_members: names(&args.remove_members),
        everybody: args.everybody,
    };
    let link = args.connect.link()?;
    let changed =
        link.call(Repeat::Safe, async |c| c.projects().update_project(request.clone()).await);
    tell(changed.await?, args.output.output)
}

/// Prints a project that was changed: its name for scripts, what it is now for people.
pub(crate) fn tell(project: Project, format: Format) -> Result<(), Failure> {
    let view = ProjectView::from(project);
    match format {
        Format::Json => output::json(&view),
        Format::Table => {
            output::line(&view.name)?;
            output::say(format!("project {}: {}", view.name, summary(&view)));
            Ok(())
        }
    }
}

fn summary(view: &ProjectView) -> String {
    let mut parts = vec![format!("weight {}", view.weight), members(view)];
    let quota = view.quota.summary();
    parts.extend(Some(quota).filter(|text| !text.is_empty()).map(|text| format!("at most {text}")));
    parts.join("; ")
}

fn members(view: &ProjectView) -> String {
    match view.members.is_empty() {
        true => "open to everybody".to_owned(),
        false => view.members.join(", "),
    }
}

async fn list(args: ProjectListArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let answer =
        link.call(Repeat::Safe, async |c| c.projects().list_projects(ListProjectsRequest {}).await);
    let views: Vec<_> = answer.await?.projects.into_iter().map(ProjectView::from).collect();
    args.list.print(
        &views,
        |view| view.name.clone(),
        |views| {
            let mut table = Table::new(&["NAME", "WEIGHT", "MEMBERS", "QUOTA", "EACH USER"]);
            for view in views {
                table.row([
                    view.name.clone(),
                    view.weight.to_string(),
                    if view.members.is_empty() { "all".to_owned() } else { members(view) },
                    view.quota.summary(),
                    view.user_quota.summary(),
                ]);
            }
            table
        },
    )
}

async fn get(args: ProjectGetArgs) -> Result<(), Failure> {
    let request = GetProjectRequest { name: args.name.to_string() };
    let link = args.connect.link()?;
    let project =
        link.call(Repeat::Safe, async |c| c.projects().get_project(request.clone()).await);
    let view = ProjectView::from(project.await?);
    match args.output.output {
        Format::Json => output::json(&view),
        Format::Table => {
            let usage = usage(&link, &view.name).await?;
            output::text(detail(&view, usage.first(), output::now_ms()))
        }
    }
}

/// What projects hold; of all the caller may see where none is named.
pub(crate) async fn usage(link: &Link, project: &str) -> Result<Vec<UsageView>, Failure> {
    let request = GetUsageRequest { project: project.to_owned() };
    let answer = link.call(Repeat::Safe, async |c| c.projects().get_usage(request.clone()).await);
    Ok(answer.await?.projects.into_iter().map(UsageView::from).collect())
}

fn detail(view: &ProjectView, usage: Option<&UsageView>, now_ms: u64) -> String {
    let users = view.users.iter().map(|(user, quota)| match quota.summary() {
        limits if limits.is_empty() => format!("{user}: not limited"),
        limits => format!("{user}: {limits}"),
    });
    let held = usage.map(|usage| usage.quota.rows(&usage.held));
    let held = held.into_iter().flatten().filter(QuotaRow::says_something);
    let held = held.map(|row| match row.limit.as_str() {
        "" => format!("{} {}", row.used, row.kind),
        limit => format!("{} of {limit} {}", row.used, row.kind),
    });
    let share = usage.map(|usage| {
        let tenths = usage.share_millionths / 1000;
        format!("{}.{} % of the cluster, held now and lately", tenths / 10, tenths % 10)
    });
    let lately = usage.map(|usage| {
        let (fgpu, memory) = (view::fgpu(usage.lately.fgpu_milli), usage.lately.memory_bytes);
        let cpu = fgpu_domain::units::CpuMilli(usage.lately.cpu_milli);
        format!("{fgpu}, {cpu} cores, {} on average, half as much after 7 days", view::gib(memory))
    });
    output::fields(&[
        ("project", view.name.clone()),
        ("weight", view.weight.to_string()),
        ("members", members(view)),
        ("quota", view.quota.summary()),
        ("each user", view.user_quota.summary()),
        ("users", users.collect::<Vec<_>>().join("\n")),
        ("holds", held.collect::<Vec<_>>().join("\n")),
        ("lately", lately.unwrap_or_default()),
        ("share", share.unwrap_or_default()),
        (
            "created",
            view.created_at_ms
                .map(|at| format!("{} ago", output::age_of(at, now_ms)))
                .unwrap_or_default(),
        ),
    ])
}

async fn remove(args: ProjectRmArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    for name in &args.names {
        let request = RemoveProjectRequest { name: name.to_string() };
        let removed =
            link.call(Repeat::Never, async |c| c.projects().remove_project(request.clone()).await);
        output::line(removed.await?.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_wire::v1;

    #[test]
    fn a_project_says_what_it_holds_beside_what_it_may() {
        let quota = v1::Quota { fgpu_milli: Some(40_000), ..Default::default() };
        let own = v1::Quota { sessions: Some(2), ..Default::default() };
        let project = v1::Project {
            name: "research".into(),
            weight: 300,
            quota: Some(quota),
            users: [("ann".to_owned(), own), ("bob".to_owned(), v1::Quota::default())].into(),
            ..Default::default()
        };
        let held = v1::Held { fgpu_milli: 10_000, sessions: 3, ..Default::default() };
        let usage = v1::ProjectUsage {
            held: Some(held),
            quota: Some(quota),
            share_millionths: 123_456,
            ..Default::default()
        };

        let text = detail(&project.into(), Some(&usage.into()), 0);

        for part in [
            "weight:   300\n",
            "open to everybody",
            "quota:    fgpu 40\n",
            "ann: sessions 2\n",
            "bob: not limited\n",
            "10 of 40 fgpu\n",
            "3 sessions\n",
            "12.3 % of the cluster",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("0 cpu") && !text.contains("0 B memory"), "{text}");
    }

    #[test]
    fn a_weight_out_of_range_is_refused() {
        assert_eq!(weight("300"), Ok(300));
        for bad in ["0", "10001", "-1", "x"] {
            assert!(weight(bad).unwrap_err().contains("10000"), "{bad}");
        }
    }
}
