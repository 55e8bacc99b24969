//! `fgpu logs`, and the output of an attached session.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use fgpu_wire::v1::{LogChunk, OutputStream, StreamLogsRequest};
use tonic::{Status, Streaming};

use crate::connect::{self, ConnectArgs, Link, Repeat};
use crate::failure::Failure;
use crate::output;
use crate::parse;

/// `fgpu logs`
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Session: its id, a unique beginning of it, or its name
    pub(crate) session: String,
    /// Keep printing what comes, until the session ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<u64>,
    /// Put the time before each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Only what was written in this time, e.g. `10m`
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) since: Option<Duration>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Runs `fgpu logs`.
pub(crate) async fn run(args: LogsArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let since = args.since.map(|since| output::now_ms().saturating_sub(parse::millis(since)));
    let request = StreamLogsRequest {
        session: args.session,
        follow: args.follow,
        tail: args.tail,
        timestamps: args.timestamps,
        since_ms: since.unwrap_or(0),
    };
    let mut logs = Logs::new(&link, request);
    while let Some(chunk) = logs.next().await? {
        print(&chunk)?;
    }
    Ok(())
}

/// Prints output where it belongs: stdout to stdout, stderr to stderr.
pub(crate) fn print(chunk: &LogChunk) -> Result<(), Failure> {
    if chunk.stream() != OutputStream::Stderr {
        return output::bytes(&chunk.data);
    }
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(&chunk.data).and_then(|()| err.flush());
    Ok(())
}

/// The output of a session. A lost connection is made again and what was seen is passed over, so
/// that nothing is printed twice and nothing is missing.
#[derive(Debug)]
pub(crate) struct Logs<'a> {
    link: &'a Link,
    request: StreamLogsRequest,
    stream: Option<Streaming<LogChunk>>,
    position: Position,
    failures: u32,
}

/// How far each of the two streams has been read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Position {
    seen: [u64; 2],
    skip: [u64; 2],
}

impl<'a> Logs<'a> {
    pub(crate) fn new(link: &'a Link, request: StreamLogsRequest) -> Self {
        Self { link, request, stream: None, position: Position::default(), failures: 0 }
    }

    /// Everything a session writes from its start to its end.
    pub(crate) fn whole(link: &'a Link, session: &str) -> Self {
        let request = StreamLogsRequest {
            session: session.to_owned(),
            follow: true,
            ..StreamLogsRequest::default()
        };
        Self::new(link, request)
    }

    /// The next piece, `None` at the end. May be dropped while waiting without losing one.
    pub(crate) async fn next(&mut self) -> Result<Option<LogChunk>, Failure> {
        const ATTEMPTS: u32 = 40;
        loop {
            let status = match self.read().await? {
                Ok(None) => return Ok(None),
                Ok(Some(chunk)) => {
                    self.failures = 0;
                    match self.position.advance(chunk) {
                        Some(chunk) => return Ok(Some(chunk)),
                        None => continue,
                    }
                }
                Err(status) => status,
            };
            let resumable = self.request.tail.is_none() && self.request.since_ms == 0;
            let fresh = self.position.seen == [0, 0];
            self.failures += 1;
            if !connect::is_passing(&status) || !(resumable || fresh) || self.failures > ATTEMPTS {
                return Err(Failure::from(&status));
            }
            self.stream = None;
            self.position.again();
            self.link.reset();
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn read(&mut self) -> Result<Result<Option<LogChunk>, Status>, Failure> {
        if self.stream.is_none() {
            let request = &self.request;
            let opened = self.link.call(Repeat::Safe, async |clients| {
                clients.sessions().stream_logs(request.clone()).await
            });
            self.stream = Some(opened.await?);
        }
        match &mut self.stream {
            Some(stream) => Ok(stream.message().await),
            None => Ok(Ok(None)),
        }
    }
}

impl Position {
    /// The stream begins anew: what was seen comes again.
    fn again(&mut self) {
        self.skip = self.seen;
    }

    /// The part of `chunk` that has not been seen, if any.
    fn advance(&mut self, mut chunk: LogChunk) -> Option<LogChunk> {
        let at = usize::from(chunk.stream() == OutputStream::Stderr);
        let length = chunk.data.len();
        let known = usize::try_from(self.skip[at]).unwrap_or(usize::MAX).min(length);
        self.skip[at] -= known as u64;
        self.seen[at] += (length - known) as u64;
        chunk.data.drain(..known);
        (!chunk.data.is_empty()).then_some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(stream: OutputStream, data: &str) -> LogChunk {
        LogChunk { stream: stream.into(), data: data.as_bytes().to_vec() }
    }

    #[test]
    fn output_that_comes_again_after_a_lost_connection_is_printed_once() {
        let (out, err) = (OutputStream::Stdout, OutputStream::Stderr);
        let mut position = Position::default();
        assert_eq!(position.advance(chunk(out, "one\ntw")), Some(chunk(out, "one\ntw")));
        assert_eq!(position.advance(chunk(err, "e1")), Some(chunk(err, "e1")));

        position.again();

        assert_eq!(position.advance(chunk(err, "e")), None);
        assert_eq!(position.advance(chunk(out, "one\ntwo\n")), Some(chunk(out, "o\n")));
        assert_eq!(position.advance(chunk(err, "1e2")), Some(chunk(err, "e2")));

        position.again();
        assert_eq!(position.advance(chunk(out, "one\ntwo\nthree")), Some(chunk(out, "three")));
    }
}
