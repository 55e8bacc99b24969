//! Staying with a session: progress until it runs, then its output, to its end.

use std::time::Duration;

use fgpu_wire::v1::{self, ExplainSessionRequest, Phase, StopSessionRequest};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::ending::ending;
use crate::connect::{Link, Repeat};
use crate::exec;
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::logs::{self, Logs};
use crate::output;
use crate::progress::{self, Progress};
use crate::watch::{Change, Watch};

/// How long output may still come after the end of a session.
const LAST_OUTPUT: Duration = Duration::from_secs(10);
const EXPLAIN_FIRST: Duration = Duration::from_millis(300);
const EXPLAIN_EVERY: Duration = Duration::from_secs(2);

/// One session and this terminal.
pub(super) struct Attachment<'a> {
    link: &'a Link,
    watch: Watch<'a>,
    logs: Option<Logs<'a>>,
    session: v1::Session,
    /// Generation the output is of: a session placed anew starts its output anew.
    output_of: Option<u64>,
    progress: Progress,
    interrupts: Interrupts,
    explain: Interval,
}

enum Event {
    Change(Change),
    Output(Option<v1::LogChunk>),
    Interrupt,
    Explain,
}

impl<'a> Attachment<'a> {
    pub(super) fn new(link: &'a Link, session: v1::Session, quiet: bool) -> Result<Self, Failure> {
        let mut explain = interval_at(Instant::now() + EXPLAIN_FIRST, EXPLAIN_EVERY);
        explain.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            link,
            watch: Watch::new(link, session.id.clone()).quiet(quiet),
            logs: None,
            session,
            output_of: None,
            progress: Progress::new(quiet),
            interrupts: Interrupts::new()?,
            explain,
        })
    }

    /// Shows progress, then output, until the session ends; gives its exit code.
    pub(super) async fn follow(&mut self) -> Result<u8, Failure> {
        loop {
            if self.session.phase() == Phase::Ended {
                self.last_output().await?;
                return Ok(self.finish());
            }
            match self.event().await? {
                Event::Change(change) => {
                    self.changed(change)?;
                    self.start_output();
                }
                Event::Output(Some(chunk)) => {
                    self.progress.clear();
                    logs::print(&chunk)?;
                }
                Event::Output(None) => self.logs = None,
                Event::Explain => self.show_why().await,
                Event::Interrupt => {
                    if let Some(code) = self.interrupted().await? {
                        return Ok(code);
                    }
                }
            }
        }
    }

    /// Waits until the session runs, runs `command` in it with this terminal, and stops it.
    pub(super) async fn interact(
        &mut self,
        command: Vec<String>,
        tty: bool,
    ) -> Result<u8, Failure> {
        while self.session.phase() != Phase::Running {
            if self.session.phase() == Phase::Ended {
                return Ok(self.finish().max(1));
            }
            match self.event().await? {
                Event::Change(change) => self.changed(change)?,
                Event::Explain => self.show_why().await,
                Event::Output(_) => {}
                Event::Interrupt => {
                    if let Some(code) = self.interrupted().await? {
                        return Ok(code);
                    }
                }
            }
        }
        self.progress.clear();
        let start = v1::ExecStart {
            session: self.session.id.clone(),
            command,
            tty,
            stdin: true,
            ..v1::ExecStart::default()
        };
        let result = tokio::select! {
            result = exec::talk(self.link, start) => result,
            () = self.interrupts.next() => Ok(EXIT_INTERRUPTED),
        };
        let stopped = self.stop().await;
        let code = result?;
        stopped?;
        Ok(code)
    }

    async fn event(&mut self) -> Result<Event, Failure> {
        let waiting = matches!(self.session.phase(), Phase::Pending | Phase::Unspecified);
        let output = async {
            match &mut self.logs {
                Some(logs) => logs.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = self.watch.next() => Ok(Event::Change(change?)),
            chunk = output => match chunk {
                Ok(chunk) => Ok(Event::Output(chunk)),
                Err(failure) => {
                    self.progress.note(&format!("warning: no output: {}", failure.fact));
                    Ok(Event::Output(None))
                }
            },
            () = self.interrupts.next() => Ok(Event::Interrupt),
            _ = self.explain.tick(), if waiting => Ok(Event::Explain),
        }
    }

    fn changed(&mut self, change: Change) -> Result<(), Failure> {
        match change {
            Change::Session(session) => {
                self.session = *session;
                self.show_phase();
                Ok(())
            }
            Change::Removed => {
                let label = progress::label(&self.session);
                Err(Failure::new(format!("session {label} was removed while it was followed")))
            }
        }
    }

    fn show_phase(&mut self) {
        let label = progress::label(&self.session);
        let image = self.session.spec.as_ref().map(|spec| spec.image.clone()).unwrap_or_default();
        let placed = self.session.grant.clone().map(|grant| progress::grant_line(&grant.into()));
        match self.session.phase() {
            Phase::Pending => {}
            Phase::Pulling => {
                let (done, total) = (self.session.pull_done_bytes, self.session.pull_total_bytes);
                self.progress.pulling(&image, done, total);
            }
            Phase::Scheduled => {
                let placed = placed.unwrap_or_default();
                self.progress.state(&format!("session {label} is placed on {placed}"));
            }
            Phase::Running if self.output_of.is_none() => {
                let placed = placed.unwrap_or_default();
                self.progress.state(&format!("session {label} runs on {placed}"));
            }
            Phase::Lost => {
                let text = format!("session {label}: its node is silent; waiting for it");
                self.progress.state(&text);
            }
            Phase::Unspecified | Phase::Creating | Phase::Running => {}
            Phase::Stopping | Phase::Ended => {}
        }
    }

    /// Asks why the session waits. A failed question is asked again later.
    async fn show_why(&mut self) {
        let request = ExplainSessionRequest { session: self.session.id.clone() };
        let asked = self.link.call_for(Repeat::Never, Duration::ZERO, async |clients| {
            clients.sessions().explain_session(request.clone()).await
        });
        let Ok(answer) = asked.await else { return };
        if answer.queue_position > 0 {
            let label = progress::label(&self.session);
            let (position, why) = (answer.queue_position, answer.summary);
            self.progress.state(&format!("session {label} waits, position {position}: {why}"));
        }
    }

    fn start_output(&mut self) {
        let started = self.session.started_at_ms > 0 || self.session.phase() == Phase::Running;
        let generation = self.session.generation;
        if started && self.output_of != Some(generation) {
            self.output_of = Some(generation);
            self.logs = Some(Logs::whole(self.link, &self.session.id));
        }
    }

    /// Prints what is left when a session has ended.
    async fn last_output(&mut self) -> Result<(), Failure> {
        self.start_output();
        let Some(logs) = &mut self.logs else { return Ok(()) };
        loop {
            let piece = tokio::select! {
                piece = tokio::time::timeout(LAST_OUTPUT, logs.next()) => piece,
                () = self.interrupts.next() => return Ok(()),
            };
            let warning = match piece {
                Ok(Ok(Some(chunk))) => {
                    self.progress.clear();
                    logs::print(&chunk)?;
                    continue;
                }
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(failure)) => format!("no more output: {}", failure.fact),
                Err(_) => "the end of the output did not come in time".to_owned(),
            };
            self.progress.note(&format!("warning: {warning}"));
            return Ok(());
        }
    }

    fn finish(&mut self) -> u8 {
        self.progress.clear();
        let ending = ending(&self.session);
        if let Some(failure) = ending.failure {
            output::say(failure.to_string());
        }
        ending.code
    }

    /// The first interrupt stops the session politely, the second leaves it alone.
    async fn interrupted(&mut self) -> Result<Option<u8>, Failure> {
        let (label, id) = (progress::label(&self.session), self.session.id.clone());
        if self.interrupts.count > 1 {
            self.progress.note(&format!("detached from session {label}: see `fgpu get {id}`"));
            return Ok(Some(EXIT_INTERRUPTED));
        }
        let text = format!("stopping session {label}; interrupt again to leave it alone");
        self.progress.note(&text);
        self.stop().await?;
        Ok(None)
    }

    async fn stop(&self) -> Result<(), Failure> {
        let request = StopSessionRequest { session: self.session.id.clone(), grace_ms: 0 };
        let stopped = self.link.call(Repeat::Safe, async |clients| {
            clients.sessions().stop_session(request.clone()).await
        });
        stopped.await.map(|_| ())
    }
}

/// Ctrl-C and the polite signal of others.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    count: u32,
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::because("cannot listen for signals", &error))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            count: 0,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        self.count += 1;
    }
}
