//! Connections on which what is written at about the same time goes out together.
//!
//! A commit has something to say to a hundred agents at once, and without this every message would
//! be a system call of its own: the connection's task runs right after the task that wrote. Here a
//! flush first lets the other tasks that are ready run, once, and then sends what all of them wrote.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Bytes that may wait; more must be sent before anything else is taken.
const MOST: usize = 64 << 10;
/// Bytes of an empty buffer that are kept: a manager has thousands of connections.
const KEPT: usize = 4 << 10;

/// A stream whose writes wait for a flush, and whose flushes wait for one another.
#[derive(Debug)]
pub(super) struct Coalesced<S> {
    stream: S,
    buffer: Vec<u8>,
    /// How much of the buffer has been sent.
    sent: usize,
    /// Whether the others have had their turn.
    yielded: bool,
}

impl<S: AsyncWrite + Unpin> Coalesced<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), sent: 0, yielded: false }
    }

    /// Sends everything that waits.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.buffer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.sent = 0;
        self.yielded = false;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= MOST {
            ready!(self.poll_drain(context))?;
        }
        self.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() && !self.yielded {
            self.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Connected> Connected for Coalesced<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Notes every write; takes at most so many bytes at a time.
    #[derive(Default)]
    struct Notes {
        writes: Vec<Vec<u8>>,
        most: usize,
    }

    impl AsyncWrite for Notes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.most);
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn coalesced(most: usize) -> Coalesced<Notes> {
        Coalesced::new(Notes { writes: Vec::new(), most })
    }

    #[tokio::test]
    async fn what_is_written_while_the_others_have_their_turn_goes_out_in_one_piece() {
        let mut stream = coalesced(usize::MAX);
        stream.write_all(b"one ").await.unwrap();
        let waker = futures_util::task::noop_waker();
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut stream).poll_flush(&mut context).is_pending());
        assert!(stream.stream.writes.is_empty());
        stream.write_all(b"two").await.unwrap();
        assert!(Pin::new(&mut stream).poll_flush(&mut context).is_ready());

        assert_eq!(stream.stream.writes, [b"one two"]);
    }

    #[tokio::test]
    async fn all_of_it_arrives_in_order_however_little_is_taken_at_a_time() {
        let mut stream = coalesced(1000);
        let mut expected = Vec::new();
        for number in 0..20_000_u32 {
            stream.write_all(&number.to_be_bytes()).await.unwrap();
            expected.extend(number.to_be_bytes());
            if number % 5000 == 0 {
                stream.flush().await.unwrap();
            }
        }
        stream.shutdown().await.unwrap();

        assert_eq!(stream.stream.writes.concat(), expected);
    }

    #[tokio::test]
    async fn no_more_than_a_bound_waits() {
        let mut stream = coalesced(usize::MAX);
        for _ in 0..10 {
            stream.write_all(&[0; MOST / 2]).await.unwrap();
            assert!(stream.buffer.len() <= MOST + MOST / 2);
        }
        assert!(!stream.stream.writes.is_empty());
    }

    #[tokio::test]
    async fn a_flush_ends_by_itself_and_reading_goes_past_it() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Coalesced::new(near);
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = [0; 4];
        far.read_exact(&mut heard).await.unwrap();
        far.write_all(b"pong").await.unwrap();
        assert_eq!(&heard, b"ping");
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
    }
}
