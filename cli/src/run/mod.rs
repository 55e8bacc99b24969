//! `fgpu run`: create a session and stay with it.

mod args;
mod attach;
mod ending;
mod spec;

pub(crate) use args::RunArgs;
pub(crate) use ending::ending;

use std::time::Duration;

use fgpu_wire::v1::{self, CreateSessionRequest};

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
    let link = args.connect.link()?;
    let request = CreateSessionRequest { spec: Some(args.spec()?), request_id: request_id(&args)? };
    if args.attach.dry_run {
        return dry_run(&link, &args, &request).await;
    }
    let session = create(&link, &request).await?;
    if args.attach.detach {
        return detached(&args, session);
    }
    let mut attachment = attach::Attachment::new(&link, session, args.attach.quiet)?;
    match args.attach.interactive {
        true => attachment.interact(args.interactive_command(), args.attach.tty).await,
        false => attachment.follow().await,
    }
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

/// Creates the session, or finds the one an earlier try with the same request id created.
pub(crate) async fn create(
    link: &Link,
    request: &CreateSessionRequest,
) -> Result<v1::Session, Failure> {
    let created = link.call_for(Repeat::Safe, CREATE_PATIENCE, async |clients| {
        clients.sessions().create_session(request.clone()).await
    });
    let session = created.await?.session;
    session.ok_or_else(|| Failure::new("the manager's answer to create holds no session"))
}

fn detached(args: &RunArgs, session: v1::Session) -> Result<u8, Failure> {
    let say = !args.attach.quiet;
    match args.attach.output {
        Format::Json => output::json(&SessionView::from(session))?,
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
