//! `fgpu quota …`: how much projects and users may hold, and how much they do.

use clap::{Args, Subcommand};
use fgpu_domain::ids::{DEFAULT_PROJECT, ProjectName, UserName};
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};
use fgpu_wire::v1::set_quota_request::Of;
use fgpu_wire::v1::{Quota, QuotaKind, SetQuotaRequest};

use crate::connect::{ConnectArgs, Link, Repeat};
use crate::failure::Failure;
use crate::output::{self, Format, OutputArgs, Table};
use crate::parse::{self, Limit};
use crate::projects;
use crate::view::{QuotaRow, UsageView};

/// `fgpu quota …`
#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Show what is used of each limit
    Get(QuotaGetArgs),
    /// Set and remove limits
    Set(QuotaSetArgs),
}

/// `fgpu quota get`
#[derive(Debug, Args)]
pub(crate) struct QuotaGetArgs {
    /// Only of this project [default: all you may see]
    #[arg(long, value_name = "PROJECT")]
    project: Option<ProjectName>,
    /// Only of this user
    #[arg(long, value_name = "USER")]
    user: Option<UserName>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu quota set`
#[derive(Debug, Args)]
#[group(id = "limits", required = true, multiple = true)]
pub(crate) struct QuotaSetArgs {
    /// The project [default: that of the context, else `default`]
    #[arg(long, env = "FGPU_PROJECT", value_name = "PROJECT")]
    project: Option<ProjectName>,
    /// This user in the project, instead of all of it
    #[arg(long, value_name = "USER")]
    user: Option<UserName>,
    /// Every user in the project without limits of their own, instead of all of it
    #[arg(long, conflicts_with = "user")]
    each_user: bool,
    /// fGPU held, e.g. `40`
    #[arg(long, value_name = "AMOUNT|none", value_parser = parse::limit::<Fgpu>, group = "limits")]
    fgpu: Option<Limit<Fgpu>>,
    /// CPU cores held, e.g. `64`
    #[arg(
        long, value_name = "CORES|none", value_parser = parse::limit::<CpuMilli>, group = "limits"
    )]
    cpu: Option<Limit<CpuMilli>>,
    /// Host memory held, e.g. `512GiB`
    #[arg(
        long, value_name = "SIZE|none", value_parser = parse::limit::<MemoryBytes>,
        group = "limits"
    )]
    memory: Option<Limit<MemoryBytes>>,
    /// Sessions that hold a place
    #[arg(long, value_name = "COUNT|none", value_parser = parse::limit::<u64>, group = "limits")]
    sessions: Option<Limit<u64>>,
    /// Sessions that wait
    #[arg(long, value_name = "COUNT|none", value_parser = parse::limit::<u64>, group = "limits")]
    pending: Option<Limit<u64>>,
    /// Give the user what every user has, instead of limits of their own
    #[arg(
        long, group = "limits", requires = "user",
        conflicts_with_all = ["fgpu", "cpu", "memory", "sessions", "pending"]
    )]
    reset: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `fgpu quota …`.
pub(crate) async fn run(command: QuotaCommand) -> Result<(), Failure> {
    match command {
        QuotaCommand::Get(args) => get(args).await,
        QuotaCommand::Set(args) => set(args).await,
    }
}

async fn get(args: QuotaGetArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let project = args.project.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut usage = projects::usage(&link, &project).await?;
    if let Some(only) = &args.user {
        usage.iter_mut().for_each(|usage| usage.users.retain(|user| user.user == only.as_str()));
    }
    match args.output.output {
        Format::Json => output::json(&usage),
        Format::Table => output::text(table(&usage, args.user.is_some()).render()),
    }
}

/// A row for each limit, and for whatever is held.
fn table(usage: &[UsageView], users_only: bool) -> Table {
    let mut table = Table::new(&["PROJECT", "USER", "OF", "USED", "LIMIT", "PERCENT"]);
    for usage in usage {
        let mut add = |user: &str, rows: [QuotaRow; 5]| {
            for row in rows.into_iter().filter(QuotaRow::says_something) {
                let (project, user) = (usage.project.clone(), user.to_owned());
                table.row([project, user, row.kind.into(), row.used, row.limit, row.percent]);
            }
        };
        if !users_only {
            add("", usage.quota.rows(&usage.held));
        }
        for user in &usage.users {
            add(&user.user, user.quota.rows(&user.held));
        }
    }
    table
}

async fn set(args: QuotaSetArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let request = args.request(&link);
    let changed = link.call(Repeat::Safe, async |c| c.projects().set_quota(request.clone()).await);
    projects::tell(changed.await?, args.output.output)
}

impl QuotaSetArgs {
    fn request(&self, link: &Link) -> SetQuotaRequest {
        let project = self.project.as_ref().map(ToString::to_string);
        let project = project.or_else(|| link.project().map(ToOwned::to_owned));
        let user = self.user.as_ref().map(|user| Of::User(user.to_string()));
        let (set, remove) = self.limits();
        SetQuotaRequest {
            project: project.unwrap_or_else(|| DEFAULT_PROJECT.to_owned()),
            of: user.or(self.each_user.then_some(Of::EachUser(true))),
            set: Some(set),
            remove: remove.into_iter().map(Into::into).collect(),
            reset: self.reset,
        }
    }

    /// The limits to set, and those to remove.
    fn limits(&self) -> (Quota, Vec<QuotaKind>) {
        let mut remove = Vec::new();
        let mut limit = |kind: QuotaKind, limit: Option<Limit<u64>>| match limit? {
            Limit::At(amount) => Some(amount),
            Limit::Unlimited => {
                remove.push(kind);
                None
            }
        };
        let set = Quota {
            fgpu_milli: limit(QuotaKind::Fgpu, self.fgpu.map(|l| l.map(|fgpu| fgpu.0))),
            cpu_milli: limit(QuotaKind::Cpu, self.cpu.map(|l| l.map(|cpu| cpu.0))),
            memory_bytes: limit(QuotaKind::Memory, self.memory.map(|l| l.map(|bytes| bytes.0))),
            sessions: limit(QuotaKind::Sessions, self.sessions),
            pending: limit(QuotaKind::Pending, self.pending),
        };
        (set, remove)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cli, Command};
    use clap::Parser as _;
    use fgpu_wire::v1;

    fn limits(line: &str) -> Result<(Quota, Vec<QuotaKind>), clap::Error> {
        let words = ["fgpu", "quota", "set"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Quota(QuotaCommand::Set(args)) => Ok(args.limits()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn limits_are_set_or_removed_one_by_one() {
        let (set, remove) = limits("--fgpu 40 --cpu 64 --memory none --pending 0").unwrap();
        let expected = Quota {
            fgpu_milli: Some(40_000),
            cpu_milli: Some(64_000),
            pending: Some(0),
            ..Quota::default()
        };
        assert_eq!((set, remove), (expected, vec![QuotaKind::Memory]));
    }

    #[test]
    fn a_change_of_nothing_and_contradictions_are_refused() {
        for line in ["", "--user ann", "--fgpu 1 --user ann --each-user", "--reset", "--fgpu many"]
        {
            assert!(limits(line).is_err(), "{line}");
        }
        assert!(limits("--user ann --reset").is_ok());
        assert!(limits("--user ann --reset --fgpu 1").is_err());
    }

    #[test]
    fn only_what_is_limited_or_held_has_a_row() {
        let quota = v1::Quota { fgpu_milli: Some(40_000), ..Default::default() };
        let held = v1::Held { fgpu_milli: 10_000, sessions: 3, ..Default::default() };
        let user = v1::UserUsage { user: "ann".into(), held: Some(held), quota: None };
        let usage = v1::ProjectUsage {
            project: "research".into(),
            held: Some(held),
            quota: Some(quota),
            users: vec![user],
            ..Default::default()
        };
        assert_eq!(
            table(&[usage.into()], false).render(),
            "PROJECT   USER  OF        USED  LIMIT  PERCENT\n\
             research  -     fgpu      10    40     25 %\n\
             research  -     sessions  3     -      -\n\
             research  ann   fgpu      10    -      -\n\
             research  ann   sessions  3     -      -\n"
        );
    }
}
