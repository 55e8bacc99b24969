//! `ps`, `get`, `stop`, `wait` and `rm`.

use std::time::Duration;

use clap::Args;
use fgpu_wire::v1::{
    self, GetSessionRequest, ListSessionsRequest, Phase, RemoveSessionRequest, StopSessionRequest,
};

use crate::connect::{ConnectArgs, Link, Repeat};
use crate::failure::{EXIT_OURS, Failure};
use crate::output::{self, Format, ListArgs, OutputArgs, Table};
use crate::parse;
use crate::progress::{self, Progress};
use crate::run::ending;
use crate::view::{self, SessionView};
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
    /// Session: its id, a unique beginning of it, or its name
    session: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Sessions: ids, unique beginnings of them, or names
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
    /// Sessions: ids, unique beginnings of them, or names
    #[arg(required = true, value_name = "SESSION")]
    sessions: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu rm`
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Sessions: ids, unique beginnings of them, or names
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
        all: args.all,
        owner: args.owner,
        node: args.node,
        labels: args.labels.into_iter().collect(),
        ..ListSessionsRequest::default()
    };
    let views: Vec<_> = list(&link, request).await?.into_iter().map(SessionView::from).collect();
    args.list.print(&views, |view| view.id.clone(), |views| table(views, output::now_ms()))
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

fn table(sessions: &[SessionView], now_ms: u64) -> Table {
    let mut table = Table::new(&[
        "ID", "NAME", "OWNER", "STATE", "FGPU", "MEMORY", "COMPUTE", "ISOLATION", "NODE", "AGE",
        "COMMAND",
    ]);
    for session in sessions {
        let grant = session.grant.as_ref().filter(|grant| !grant.slices.is_empty());
        let asked = session.spec.gpu.as_ref();
        let fgpu = match (grant, asked) {
            (Some(grant), _) => fgpu_domain::units::Fgpu(grant.fgpu_milli()).to_string(),
            (None, Some(asked)) => asked.summary(),
            (None, None) => String::new(),
        };
        table.row([
            session.id.clone(),
            session.name.clone().unwrap_or_default(),
            session.owner.clone(),
            state(session),
            fgpu,
            grant.map(|grant| view::gib(grant.memory_bytes())).unwrap_or_default(),
            grant.map(view::GrantView::compute).unwrap_or_default(),
            grant.and_then(|grant| grant.isolation.clone()).unwrap_or_default(),
            session.grant.as_ref().map(|grant| grant.node.clone()).unwrap_or_default(),
            output::age_of(session.created_at_ms, now_ms),
            short(&command(session), 40),
        ]);
    }
    table
}

/// The phase, or how it ended: `failed (3)`.
fn state(session: &SessionView) -> String {
    let phase = session.phase.clone().unwrap_or_else(|| "unknown".to_owned());
    match (&session.outcome, session.exit_code) {
        (Some(outcome), Some(code)) => format!("{outcome} ({code})"),
        (Some(outcome), None) => outcome.clone(),
        (None, _) => phase,
    }
}

/// Image and command in one line.
fn command(session: &SessionView) -> String {
    let spec = &session.spec;
    let image = Some(spec.image.as_str()).filter(|image| !image.is_empty());
    let words = spec.entrypoint.iter().chain(&spec.command).map(String::as_str);
    let words: Vec<_> = image.into_iter().chain(words).collect();
    words.join(" ").replace(['\n', '\t'], " ")
}

fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Runs `fgpu get`.
pub(crate) async fn get(args: GetArgs) -> Result<(), Failure> {
    let session = find(&args.connect.link()?, &args.session).await?;
    let view = SessionView::from(session);
    match args.output.output {
        Format::Json => output::json(&view),
        Format::Table => output::text(detail(&view, output::now_ms())),
    }
}

/// The session of this id, name or beginning of an id.
pub(crate) async fn find(link: &Link, session: &str) -> Result<v1::Session, Failure> {
    let request = GetSessionRequest { session: session.to_owned() };
    link.call(Repeat::Safe, async |clients| clients.sessions().get_session(request.clone()).await)
        .await
}

fn detail(view: &SessionView, now_ms: u64) -> String {
    let spec = &view.spec;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let ago = |at: u64| format!("{} ago", output::age_of(at, now_ms));
    let grants = view.grant.iter().map(progress::grant_line);
    let stranded = view.stranded.iter().map(|grant| format!("stranded: {}", progress::grant_line(grant)));
    let slice = |slice: &view::SliceView| {
        let compute = match slice.compute_milli {
            0 => "shared".to_owned(),
            milli => view::percent(milli),
        };
        let (fgpu, memory) = (view::fgpu(slice.fgpu_milli), view::gib(slice.memory_bytes));
        format!("  {}: {fgpu}, {memory}, {compute}", slice.device_uuid)
    };
    let slices = view.grant.iter().flat_map(|grant| grant.slices.iter().map(slice));
    let ports = view.ports.iter();
    let ports = ports.map(|p| format!("{} at {}:{}", p.container_port, p.host, p.host_port));
    let attempts = view.attempts.iter().map(|a| format!("{}: {}", ago(a.at_ms), a.reason));
    let lines = |items: Vec<String>| items.join("\n");
    output::fields(&[
        ("id", view.id.clone()),
        ("name", text(&view.name)),
        ("owner", view.owner.clone()),
        ("state", format!("{} for {}", state(view), output::age_of(view.phase_since_ms, now_ms))),
        ("reason", text(&view.reason)),
        ("reason code", text(&view.reason_code)),
        ("created", ago(view.created_at_ms)),
        ("started", view.started_at_ms.map(ago).unwrap_or_default()),
        ("kind", text(&spec.kind)),
        ("command", command(view)),
        ("asked for", spec.gpu.as_ref().map(view::GpuView::summary).unwrap_or_default()),
        ("granted", lines(grants.chain(slices).chain(stranded).collect())),
        ("compute policy", text(&spec.compute_policy)),
        ("cpu", some_amount(spec.cpu_milli, |milli| fgpu_domain::units::CpuMilli(milli).to_string())),
        ("memory", some_amount(spec.memory_bytes, view::gib)),
        ("shm", some_amount(spec.shm_bytes, view::gib)),
        ("priority", spec.priority.to_string()),
        ("time limit", some_amount(spec.time_limit_ms, output::age)),
        ("stop grace", some_amount(spec.stop_grace_ms, output::age)),
        ("on disconnect", text(&spec.on_disconnect)),
        ("on lost", text(&spec.on_lost)),
        ("ports", lines(ports.collect())),
        ("labels", pairs(&spec.labels)),
        ("attempts", lines(attempts.collect())),
    ])
}

fn some_amount(amount: u64, show: impl Fn(u64) -> String) -> String {
    if amount == 0 { String::new() } else { show(amount) }
}

/// `a=1, b=2`
pub(crate) fn pairs(map: &std::collections::BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// Runs `fgpu stop`.
pub(crate) async fn stop(args: StopArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let grace_ms = args.grace.map(parse::millis).unwrap_or(0);
    let mut accepted = Vec::new();
    let mut failures = Vec::new();
    for session in &args.sessions {
        match ask_to_stop(&link, session, grace_ms).await {
            Ok(session) => accepted.push(session),
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
        let ended = until_ended(&link, name).await.map_err(ours)?;
        let Some(session) = ended else {
            return Err(ours(Failure::new(format!("session {name} was removed while waiting"))));
        };
        let ending = ending(&session);
        let view = SessionView::from(session);
        let outcome = view.outcome.clone().unwrap_or_default();
        let code = view.exit_code.map(|code| code.to_string()).unwrap_or_else(|| "-".to_owned());
        output::line(format!("{} {outcome} {code}", view.id))?;
        if let Some(failure) = ending.failure {
            output::say(failure.to_string());
        }
        if result == 0 {
            result = ending.code;
        }
    }
    Ok(result)
}

/// Runs `fgpu rm`.
pub(crate) async fn rm(args: RmArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let mut failures = Vec::new();
    for session in &args.sessions {
        match remove(&link, session, args.force).await {
            Ok(id) => output::line(id)?,
            Err(failure) => failures.push(failure),
        }
    }
    first_of(failures)
}

async fn remove(link: &Link, session: &str, force: bool) -> Result<String, Failure> {
    let mut session = session.to_owned();
    if force {
        let found = find(link, &session).await?;
        if found.phase() != Phase::Ended {
            ask_to_stop(link, &found.id, 0).await?;
            until_ended(link, &found.id).await?;
        }
        session = found.id;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> v1::Session {
        let slice = v1::Slice {
            device_uuid: "GPU-1".into(),
            memory_bytes: 80 << 30,
            compute_milli: 1000,
            fgpu_milli: 10_000,
        };
        v1::Session {
            id: "abcd1234".into(),
            owner: "ann".into(),
            created_at_ms: 1_000,
            phase: Phase::Running.into(),
            grant: Some(v1::Grant {
                node: "a1".into(),
                slices: vec![slice],
                isolation: v1::Isolation::Shared.into(),
            }),
            spec: Some(v1::SessionSpec {
                name: "train".into(),
                image: "pytorch".into(),
                command: vec!["python".into(), "train.py".into()],
                ..v1::SessionSpec::default()
            }),
            ..v1::Session::default()
        }
    }

    #[test]
    fn ps_shows_fgpu_memory_compute_isolation_and_node() {
        let mut waiting = running();
        waiting.grant = None;
        waiting.phase = Phase::Pending.into();
        let spec = waiting.spec.as_mut().unwrap();
        spec.gpu = Some(v1::GpuRequest {
            amount: Some(v1::gpu_request::Amount::FgpuMilli(2_500)),
            ..v1::GpuRequest::default()
        });

        let table = table(&[running().into(), waiting.into()], 61_000).render();

        assert_eq!(
            table,
            "ID        NAME   OWNER  STATE    FGPU      MEMORY  COMPUTE  ISOLATION  NODE  AGE  COMMAND\n\
             abcd1234  train  ann    running  10        80 GiB  100 %    shared     a1    60s  pytorch python train.py\n\
             abcd1234  train  ann    pending  2.5 fGPU  -       -        -          -     60s  pytorch python train.py\n"
        );
    }

    #[test]
    fn an_ended_session_shows_outcome_and_code() {
        let mut session = running();
        session.phase = Phase::Ended.into();
        session.outcome = v1::Outcome::Failed.into();
        session.exit_code = Some(3);
        assert_eq!(state(&session.into()), "failed (3)");
    }

    #[test]
    fn one_session_in_full_names_devices_and_leaves_out_what_is_not_set() {
        let text = detail(&running().into(), 61_000);
        assert!(text.contains("GPU-1: 10 fGPU, 80 GiB, 100 %"), "{text}");
        assert!(!text.contains("time limit"), "{text}");
    }

    #[test]
    fn long_commands_are_cut_not_wrapped() {
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("abcd", 4), "abcd");
    }
}
