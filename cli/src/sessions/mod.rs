//! `ps`, `get`, `stop`, `wait` and `rm`.

mod show;

pub(crate) use show::pairs;

use std::time::Duration;

use clap::Args;
use fgpu_wire::v1::{
    self, GetSessionRequest, ListSessionsRequest, Phase, RemoveSessionRequest, StopGroupRequest,
    StopSessionRequest,
};

use crate::connect::{ConnectArgs, Link, Repeat};
use crate::failure::{EXIT_OURS, Failure};
use crate::output::{self, Format, ListArgs, OutputArgs};
use crate::parse;
use crate::progress::{self, Progress};
use crate::run::ending;
use crate::view::SessionView;
use crate::watch::{Change, Watch};

/// `fgpu ps`
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Also those that have ended
    #[arg(short, long)]
    all: bool,
    /// Only those of this user
    #[arg(long, value_name = "USER", default_value = "", hide_default_value = true)]
    owner: String,
    /// Only those on this node
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    node: String,
    /// Only those of this project
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    project: String,
    /// Only members of this array or gang, ended ones too
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    group: String,
    /// Only those with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::pair)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu get`
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Session: its id, a unique beginning of it, its name, or `GROUP/INDEX`
    session: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Sessions: ids, unique beginnings of them, or names; an array or gang by its id or name
    #[arg(required = true, value_name = "SESSION")]
    sessions: Vec<String>,
    /// From the polite signal to the hard one [default: as the session says]
    #[arg(long, value_name = "DURATION", value_parser = parse::some_duration)]
    grace: Option<Duration>,
    /// Return as soon as the stop is accepted
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu wait`
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Sessions: ids, unique beginnings of them, or names; an array or gang by its id or name
    #[arg(required = true, value_name = "SESSION")]
    sessions: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu rm`
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Sessions: ids, unique beginnings of them, or names; an array or gang by its id or name
    #[arg(required = true, value_name = "SESSION")]
    sessions: Vec<String>,
    /// Stop those that have not ended first
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `fgpu ps`.
pub(crate) async fn ps(args: PsArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let request = ListSessionsRequest {
        all: args.all || !args.group.is_empty(),
        owner: args.owner,
        node: args.node,
        project: args.project,
        group: args.group,
        labels: args.labels.into_iter().collect(),
        ..ListSessionsRequest::default()
    };
    let views: Vec<_> = list(&link, request).await?.into_iter().map(SessionView::from).collect();
    args.list.print(&views, |view| view.id.clone(), |views| show::table(views, output::now_ms()))
}

/// All pages of a list.
pub(crate) async fn list(
    link: &Link,
    mut request: ListSessionsRequest,
) -> Result<Vec<v1::Session>, Failure> {
    let mut sessions = Vec::new();
    loop {
        let page = link.call(Repeat::Safe, async |clients| {
            clients.sessions().list_sessions(request.clone()).await
        });
        let page = page.await?;
        sessions.extend(page.sessions);
        if page.next_page_token.is_empty() {
            return Ok(sessions);
        }
        request.page_token = page.next_page_token;
    }
}

/// Runs `fgpu get`.
pub(crate) async fn get(args: GetArgs) -> Result<(), Failure> {
    let session = find(&args.connect.link()?, &args.session).await?;
    let view = SessionView::from(session);
    match args.output.output {
        Format::Json => output::json(&view),
        Format::Table => output::text(show::detail(&view, output::now_ms())),
    }
}

/// The session of this id, name or beginning of an id.
pub(crate) async fn find(link: &Link, session: &str) -> Result<v1::Session, Failure> {
    let request = GetSessionRequest { session: session.to_owned() };
    link.call(Repeat::Safe, async |clients| clients.sessions().get_session(request.clone()).await)
        .await
}

/// Runs `fgpu stop`.
pub(crate) async fn stop(args: StopArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let grace_ms = args.grace.map(parse::millis).unwrap_or(0);
    let mut accepted = Vec::new();
    let mut failures = Vec::new();
    for session in &args.sessions {
        match ask_to_stop_all(&link, session, grace_ms).await {
            Ok(sessions) => accepted.extend(sessions),
            Err(failure) => failures.push(failure),
        }
    }
    for session in accepted {
        if !args.no_wait {
            let mut progress = Progress::new(false);
            if session.phase() != Phase::Ended {
                progress.state(&format!("stopping session {}", progress::label(&session)));
            }
            if let Err(failure) = until_ended(&link, &session.id).await {
                failures.push(failure);
                continue;
            }
        }
        output::line(&session.id)?;
    }
    first_of(failures)
}

/// Asks for a stop; the session may still be stopping afterwards.
pub(crate) async fn ask_to_stop(
    link: &Link,
    session: &str,
    grace_ms: u64,
) -> Result<v1::Session, Failure> {
    let request = StopSessionRequest { session: session.to_owned(), grace_ms };
    link.call(Repeat::Safe, async |clients| clients.sessions().stop_session(request.clone()).await)
        .await
}

/// Asks for a stop of a session, or of all members of an array or gang.
async fn ask_to_stop_all(
    link: &Link,
    session: &str,
    grace_ms: u64,
) -> Result<Vec<v1::Session>, Failure> {
    let request = StopGroupRequest { group: session.to_owned(), grace_ms };
    let stopped = link
        .call(Repeat::Safe, async |clients| clients.sessions().stop_group(request.clone()).await);
    Ok(stopped.await?.members)
}

/// The members of the array or gang that `session`, named so by a person, stands for, without
/// itself; ended ones too.
async fn others(
    link: &Link,
    name: &str,
    session: &v1::Session,
) -> Result<Vec<v1::Session>, Failure> {
    let stands_for_all = session.group.as_ref().is_some_and(|group| group.id == session.id);
    if !stands_for_all || name.contains('/') {
        return Ok(Vec::new());
    }
    let group = session.id.clone();
    let request = ListSessionsRequest { all: true, group, ..ListSessionsRequest::default() };
    let mut members = list(link, request).await?;
    members.retain(|member| member.id != session.id);
    members.sort_by_key(|member| member.group.as_ref().map(|group| group.index));
    Ok(members)
}

/// Waits for the end of a session; `None` if its record went away.
pub(crate) async fn until_ended(link: &Link, id: &str) -> Result<Option<v1::Session>, Failure> {
    let mut watch = Watch::new(link, id);
    loop {
        match watch.next().await? {
            Change::Session(session) if session.phase() == Phase::Ended => {
                return Ok(Some(*session));
            }
            Change::Session(_) => {}
            Change::Removed => return Ok(None),
        }
    }
}

/// Runs `fgpu wait`: the exit code is that of the first session, as named, that did not return 0.
pub(crate) async fn wait(args: WaitArgs) -> Result<u8, Failure> {
    let ours = |failure: Failure| failure.or_exit(EXIT_OURS);
    let link = args.connect.link().map_err(ours)?;
    let mut result = 0;
    for name in &args.sessions {
        let mut wait = async |id: &str| {
            let session = until_gone(&link, id).await?;
            let code = tell_ending(&session)?;
            result = if result == 0 { code } else { result };
            Ok(session)
        };
        let session = wait(name).await.map_err(ours)?;
        for member in others(&link, name, &session).await.map_err(ours)? {
            wait(&member.id).await.map_err(ours)?;
        }
    }
    Ok(result)
}

/// The session as it ended.
async fn until_gone(link: &Link, name: &str) -> Result<v1::Session, Failure> {
    let removed = || Failure::new(format!("session {name} was removed while waiting"));
    until_ended(link, name).await?.ok_or_else(removed)
}

/// Prints how a session ended; gives the exit code that makes.
fn tell_ending(session: &v1::Session) -> Result<u8, Failure> {
    let ending = ending(session);
    let view = SessionView::from(session.clone());
    let outcome = view.outcome.clone().unwrap_or_default();
    let code = view.exit_code.map(|code| code.to_string()).unwrap_or_else(|| "-".to_owned());
    output::line(format!("{} {outcome} {code}", view.id))?;
    if let Some(failure) = ending.failure {
        output::say(failure.to_string());
    }
    Ok(ending.code)
}

/// Runs `fgpu rm`.
pub(crate) async fn rm(args: RmArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let mut failures = Vec::new();
    for name in &args.sessions {
        let all = async {
            let found = find(&link, name).await?;
            let others = others(&link, name, &found).await?;
            if args.force {
                stop_first(&link, name, std::iter::once(&found).chain(&others)).await?;
            }
            Ok([vec![found], others].concat())
        };
        match all.await {
            Ok(sessions) => {
                for session in sessions {
                    match remove(&link, session.id).await {
                        Ok(id) => output::line(id)?,
                        Err(failure) => failures.push(failure),
                    }
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    first_of(failures)
}

/// Stops what `name` means, where any of it has not ended.
async fn stop_first(
    link: &Link,
    name: &str,
    sessions: impl Iterator<Item = &v1::Session>,
) -> Result<(), Failure> {
    let live: Vec<_> = sessions.filter(|session| session.phase() != Phase::Ended).collect();
    if live.is_empty() {
        return Ok(());
    }
    ask_to_stop_all(link, name, 0).await?;
    for session in live {
        until_ended(link, &session.id).await?;
    }
    Ok(())
}

async fn remove(link: &Link, session: String) -> Result<String, Failure> {
    let request = RemoveSessionRequest { session };
    let removed = link.call(Repeat::Never, async |clients| {
        clients.sessions().remove_session(request.clone()).await
    });
    Ok(removed.await?.id)
}

/// Says all failures but the first, which becomes the verb's own.
fn first_of(failures: Vec<Failure>) -> Result<(), Failure> {
    let mut failures = failures.into_iter();
    let first = failures.next();
    failures.for_each(|failure| output::say(failure.to_string()));
    first.map_or(Ok(()), Err)
}
