//! `fgpu run`: create a session and stay with it.

mod args;
mod attach;
mod ending;
mod spec;

pub(crate) use args::RunArgs;
pub(crate) use ending::ending;

use std::time::Duration;

use fgpu_wire::v1::{self, CreateSessionRequest, CreateSessionResponse};

use crate::connect::{Link, Repeat};
use crate::explain;
use crate::failure::{EXIT_OURS, Failure};
use crate::output::{self, Format};
use crate::progress;
use crate::view::SessionView;

/// A create is repeated this long: its request id makes that safe.
const CREATE_PATIENCE: Duration = Duration::from_secs(30);

/// Runs `fgpu run`; gives the exit code of the session.
pub(crate) async fn run(args: RunArgs) -> Result<u8, Failure> {
    run_inner(args).await.map_err(|failure| failure.or_exit(EXIT_OURS))
}

async fn run_inner(args: RunArgs) -> Result<u8, Failure> {
    let attached = !args.attach.detach && !args.attach.dry_run;
    if attached && args.attach.output == Format::Json {
        return Err(Failure::usage("`--output json` while attached: stdout is the session's")
            .hint("add `--detach` or `--dry-run`"));
    }
    if attached && args.queue.array.is_some() {
        return Err(Failure::usage(
            "`--array` while attached: there is no one session to stay with",
        )
        .hint("add `--detach`, then `fgpu wait` and `fgpu logs` with the id it prints"));
    }
    let link = args.connect.link()?;
    let request = request(&link, &args)?;
    if args.attach.dry_run {
        return dry_run(&link, &args, &request).await;
    }
    let created = create(&link, &request).await?;
    if args.attach.detach {
        return detached(&args, created);
    }
    // Of a gang the first member: when it ends, the others do not go on without it.
    let session = first(created)?;
    let mut attachment = attach::Attachment::new(&link, session, args.attach.quiet)?;
    match args.attach.interactive {
        true => attachment.interact(args.interactive_command(), args.attach.tty).await,
        false => attachment.follow().await,
    }
}

/// The create the flags describe; a session that names no project gets that of the context.
fn request(link: &Link, args: &RunArgs) -> Result<CreateSessionRequest, Failure> {
    let mut spec = args.spec()?;
    if spec.project.is_empty() {
        spec.project = link.project().unwrap_or_default().to_owned();
    }
    let (request_id, members) = (request_id(args)?, args.members());
    Ok(CreateSessionRequest { spec: Some(spec), request_id, members })
}

fn request_id(args: &RunArgs) -> Result<String, Failure> {
    if let Some(id) = &args.attach.request_id {
        return Ok(id.to_string());
    }
    let (high, low) = (getrandom::u64(), getrandom::u64());
    match (high, low) {
        (Ok(high), Ok(low)) => Ok(format!("run-{high:016x}{low:016x}")),
        _ => Err(Failure::new("the system gives no random numbers for a request id")
            .hint("name one with `--request-id`")),
    }
}

/// Creates what is asked for, or finds what an earlier try with the same request id created.
pub(crate) async fn create(
    link: &Link,
    request: &CreateSessionRequest,
) -> Result<CreateSessionResponse, Failure> {
    let created = link.call_for(Repeat::Safe, CREATE_PATIENCE, async |clients| {
        clients.sessions().create_session(request.clone()).await
    });
    created.await
}

/// The session that was created, of several the first.
pub(crate) fn first(created: CreateSessionResponse) -> Result<v1::Session, Failure> {
    let session = created.session;
    session.ok_or_else(|| Failure::new("the manager's answer to create holds no session"))
}

fn detached(args: &RunArgs, mut created: CreateSessionResponse) -> Result<u8, Failure> {
    let say = !args.attach.quiet;
    let members = std::mem::take(&mut created.members);
    let session = first(created)?;
    match args.attach.output {
        Format::Json if !members.is_empty() => {
            let views: Vec<_> = members.into_iter().map(SessionView::from).collect();
            output::json(&views)?;
        }
        Format::Json => output::json(&SessionView::from(session))?,
        Format::Table if !members.is_empty() => {
            // Its first member stands for all: `fgpu wait`, `stop` and `--after` take it so.
            output::line(&session.id)?;
            if say {
                let (count, id) = (members.len(), &session.id);
                output::say(format!(
                    "{count} sessions are accepted: see `fgpu ps --group {id}`, and `{id}/INDEX` \
                     for one of them"
                ));
            }
        }
        Format::Table => {
            output::line(&session.id)?;
            if say {
                let name = progress::label(&session);
                output::say(format!("session {name} is accepted: see `fgpu get {}`", session.id));
            }
        }
    }
    Ok(0)
}

async fn dry_run(
    link: &Link,
    args: &RunArgs,
    request: &CreateSessionRequest,
) -> Result<u8, Failure> {
    let answer = link.call(Repeat::Safe, async |clients| {
        clients.sessions().dry_run_session(request.clone()).await
    });
    explain::show(answer.await?, args.attach.output)?;
    Ok(0)
}
