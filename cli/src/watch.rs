//! Following one session across lost connections and changes of the leading manager.

use std::time::{Duration, Instant};

use fgpu_wire::v1::{self, WatchSessionsRequest, watch_sessions_response::Event};
use tonic::Streaming;

use crate::connect::{self, Link, Repeat};
use crate::failure::Failure;
use crate::output;

/// How long a manager may be away before we give up on it.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(500);

/// What a watch says.
#[derive(Debug)]
pub(crate) enum Change {
    /// The session as it is now.
    Session(Box<v1::Session>),
    /// Its record is gone.
    Removed,
}

/// The changes of one session. After every reconnection the session comes as it is then, so
/// nothing that lasts is missed.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    link: &'a Link,
    session: String,
    stream: Option<Streaming<v1::WatchSessionsResponse>>,
    away_since: Option<Instant>,
    quiet: bool,
}

impl<'a> Watch<'a> {
    /// Watches the session of this id, name or beginning of an id.
    pub(crate) fn new(link: &'a Link, session: impl Into<String>) -> Self {
        Self { link, session: session.into(), stream: None, away_since: None, quiet: false }
    }

    /// Says nothing about lost connections.
    pub(crate) fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    /// The next change. May be dropped while waiting without losing one.
    pub(crate) async fn next(&mut self) -> Result<Change, Failure> {
        loop {
            if self.stream.is_none() {
                self.open().await?;
            }
            let Some(stream) = &mut self.stream else { continue };
            match stream.message().await {
                Ok(Some(message)) => {
                    if let Some(change) = self.change(message) {
                        return Ok(change);
                    }
                }
                Ok(None) => self.lost("it closed the connection").await?,
                Err(status) if connect::is_passing(&status) => {
                    self.lost(status.message()).await?;
                }
                Err(status) => return Err(Failure::from(&status)),
            }
        }
    }

    fn change(&mut self, message: v1::WatchSessionsResponse) -> Option<Change> {
        match message.event? {
            Event::Changed(session) => {
                // An id stays the session's own; a name may pass to another one.
                session.id.clone_into(&mut self.session);
                Some(Change::Session(Box::new(session)))
            }
            Event::RemovedId(id) if id == self.session => Some(Change::Removed),
            Event::RemovedId(_) | Event::Synced(_) => None,
        }
    }

    async fn open(&mut self) -> Result<(), Failure> {
        let request = WatchSessionsRequest { session: self.session.clone() };
        let give_up = self
            .away_since
            .map_or(Duration::from_secs(5), |since| PATIENCE.saturating_sub(since.elapsed()));
        let opened = self
            .link
            .call_for(Repeat::Safe, give_up, async |clients| {
                clients.sessions().watch_sessions(request.clone()).await
            })
            .await;
        let stream = opened.map_err(|failure| match self.away_since {
            Some(_) => failure.hint(format!(
                "the session goes on without us: see `fgpu get {0}`, `fgpu logs {0}`",
                self.session
            )),
            None => failure,
        })?;
        if self.away_since.take().is_some() && !self.quiet {
            output::say("connected to the manager again");
        }
        self.stream = Some(stream);
        Ok(())
    }

    async fn lost(&mut self, why: &str) -> Result<(), Failure> {
        self.stream = None;
        self.link.reset();
        let since = *self.away_since.get_or_insert_with(|| {
            if !self.quiet {
                let at = self.link.addresses();
                output::say(format!("lost the manager at {at} ({why}); trying again"));
            }
            Instant::now()
        });
        if since.elapsed() > PATIENCE {
            return Err(Failure::new(format!("lost the manager at {}", self.link.addresses()))
                .detail(format!("no answer for {} minutes", PATIENCE.as_secs() / 60)));
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
