//! Batches on their way to the store: a line of transactions, each of which rests on the one before.
//!
//! A few transactions are sent at a time, so that the store is not idle while the next one is made,
//! nor we while the store works. Each carries the condition that the mark is that of the one before
//! it (see [`commit`](super::commit)): whatever order they arrive in, they are made in the order of
//! the line or not at all. The first of the line decides:
//!
//! - One that is made tells that all before it are made.
//! - One that is not first and failed in whatever way is sent again once it is first.
//! - If the first is refused for certain, no other can ever be made, and all are given up.

use super::EngineError;
use super::batch::{Seen, Unit};
use super::commit::{Committer, Pending, Rests, Verdict};
use super::plan::Chunk;
use fgpu_store::StoreError;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Time between one that is sent and the next, unless that is the first of the line by then. Sent
/// within a millisecond of one another, etcd takes every second pair in the wrong order and refuses
/// the one that came too early, after it has gone through its log all the same; 5 ms apart, few.
const APART: Duration = Duration::from_millis(5);

/// The number of a transaction, and what the store said to it.
pub(super) type Answer = (u64, Result<i64, StoreError>);

/// Everything that is on its way.
pub(super) struct Flights {
    /// Transactions on their way at a time.
    most: usize,
    line: VecDeque<Transaction>,
    /// What the line writes, in order. A batch of which all is written is not in here any more.
    batches: VecDeque<Flight>,
    /// The number of the first in line.
    first: u64,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// When the first of the line is sent again.
    again_at: Option<Instant>,
    /// When one was sent last.
    sent_at: Option<Instant>,
}

/// A batch on its way, or back from there.
pub(super) struct Flight {
    pub(super) units: Vec<Unit>,
    pub(super) seen: Seen,
    /// How many units, from the first, are durable.
    pub(super) written: usize,
    /// Transactions that are still to be made.
    left: usize,
}

struct Transaction {
    pending: Pending,
    state: State,
    /// Whether it is the first of its batch. Of one batch only one is on its way at a time: they are
    /// ready at the same moment, and waiting for the answer takes no longer than keeping them apart.
    begins: bool,
    /// Units of its batch that are complete with it.
    complete: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be sent as soon as all before it are on their way, or made if it does not begin its batch.
    Ready,
    Flying {
        /// Whether it was sent as the first in line.
        first: bool,
    },
    /// Came back: to be sent again once it is first, and not before [`Flights::again_at`].
    Held,
}

/// What an answer of the store means for the line.
pub(super) enum Landing {
    /// Nothing new yet.
    Nothing,
    /// These batches are durable, in order.
    Durable(Vec<Flight>),
    /// The first is refused, from what is written of it on; and all others with it, in order.
    Refused { flights: VecDeque<Flight>, error: EngineError },
    /// Someone else leads, or has written: all state here is void.
    Deposed,
}

impl Flights {
    /// With so many transactions on their way at a time.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            line: VecDeque::new(),
            batches: VecDeque::new(),
            first: 0,
            answers: FuturesUnordered::new(),
            again_at: None,
            sent_at: None,
        }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether another batch would have to wait to be sent.
    pub(super) fn is_full(&self) -> bool {
        self.line.len() >= self.most
    }

    /// Whether all that is on its way is a question whether the store takes writes.
    pub(super) fn is_probe(&self) -> bool {
        self.line.iter().all(|transaction| transaction.pending.is_probe())
    }

    /// When [`send_due`](Self::send_due) has something to send.
    pub(super) fn send_at(&self) -> Option<Instant> {
        self.again_at.or_else(|| {
            let next = self.line.iter().find(|transaction| !transaction.is_flying())?;
            let waits = next.state == State::Ready && self.has_room_for(next);
            waits.then_some(self.sent_at? + APART)
        })
    }

    /// Puts a batch at the end of the line, and sends what may be sent. The batches that are durable
    /// with that: this one, if it writes nothing and rests on nothing.
    pub(super) fn launch(
        &mut self,
        units: Vec<Unit>,
        seen: Seen,
        chunks: Vec<Chunk>,
        committer: &mut Committer,
    ) -> Vec<Flight> {
        self.batches.push_back(Flight { units, seen, written: 0, left: chunks.len() });
        for (index, chunk) in chunks.into_iter().enumerate() {
            let (begins, complete) = (index == 0, chunk.complete);
            let pending = committer.prepare(chunk);
            self.line.push_back(Transaction { pending, state: State::Ready, begins, complete });
        }
        self.send(committer);
        self.durable()
    }

    /// The next answer of the store; loses nothing if it is dropped.
    pub(super) async fn answer(&mut self) -> Option<Answer> {
        self.answers.next().await
    }

    /// What `answer` means.
    pub(super) async fn judge(
        &mut self,
        (number, answer): Answer,
        committer: &mut Committer,
    ) -> Landing {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some((index, transaction)) = index.and_then(|i| Some((i, self.line.get_mut(i)?)))
        else {
            // It was known already: by one after it.
            return Landing::Nothing;
        };
        let at_sending = transaction.state == State::Flying { first: true };
        transaction.state = State::Held;
        let rests = Rests { at_sending, now: index == 0 };
        match committer.judge(&mut transaction.pending, rests, answer) {
            Verdict::Done => self.landed(index, committer),
            Verdict::Refused(error) => self.give_up(error, committer),
            Verdict::Moved => match committer.mark().await {
                Ok(mark) => self.moved(mark.as_deref(), committer),
                Err(_) => self.pause(committer),
            },
            Verdict::Again if index == 0 => self.pause(committer),
            Verdict::TooEarly if index == 0 => {
                self.send_again(committer);
                Landing::Nothing
            }
            Verdict::Again | Verdict::TooEarly => Landing::Nothing,
            Verdict::Deposed => Landing::Deposed,
        }
    }

    /// The first was refused because of the mark, which now is `mark`.
    fn moved(&mut self, mark: Option<&[u8]>, committer: &mut Committer) -> Landing {
        let made = |transaction: &Transaction| Some(transaction.pending.id()) == mark;
        match self.line.iter().position(made) {
            Some(index) => {
                committer.done();
                self.landed(index, committer)
            }
            None => {
                tracing::error!("another writer moved the engine's mark; reading everything anew");
                Landing::Deposed
            }
        }
    }

    /// Sends what [`send_at`](Self::send_at) is about, if it is time.
    pub(super) fn send_due(&mut self, committer: &Committer) {
        match self.again_at {
            Some(_) => self.send_again(committer),
            None => self.send(committer),
        }
    }

    /// Sends the first of the line again, and what follows.
    fn send_again(&mut self, committer: &Committer) {
        self.again_at = None;
        if let Some(first) = self.line.front_mut().filter(|first| first.state == State::Held) {
            first.state = State::Ready;
        }
        self.send(committer);
    }

    fn pause(&mut self, committer: &mut Committer) -> Landing {
        self.again_at = Some(Instant::now() + committer.pause());
        Landing::Nothing
    }

    /// The transaction at `index` is made, and so are all before it.
    fn landed(&mut self, index: usize, committer: &Committer) -> Landing {
        for transaction in self.line.drain(..=index) {
            self.first += 1;
            if let Some(flight) = self.batches.iter_mut().find(|flight| flight.left > 0) {
                flight.left -= 1;
                flight.written = transaction.complete;
            }
        }
        self.send_again(committer);
        Landing::Durable(self.durable())
    }

    /// Takes the batches of which nothing is left to be written, up to the first of another kind.
    fn durable(&mut self) -> Vec<Flight> {
        let left = self.batches.iter().position(|flight| flight.left > 0);
        self.batches.drain(..left.unwrap_or(self.batches.len())).collect()
    }

    fn give_up(&mut self, error: EngineError, committer: &mut Committer) -> Landing {
        if let Some(first) = self.line.front() {
            committer.rest_as(&first.pending);
        }
        self.first += u64::try_from(self.line.len()).unwrap_or(u64::MAX);
        self.line.clear();
        // What is still on its way cannot be made any more.
        self.answers = FuturesUnordered::new();
        self.again_at = None;
        Landing::Refused { flights: std::mem::take(&mut self.batches), error }
    }

    /// Sends what may be sent: the first, and what follows it, some time apart.
    fn send(&mut self, committer: &Committer) {
        while let Some(index) = self.line.iter().position(|transaction| !transaction.is_flying()) {
            let (first, next) = (index == 0, &self.line[index]);
            let now = Instant::now();
            let apart = self.sent_at.is_none_or(|at| at + APART <= now);
            if next.state == State::Held || !(first || (apart && self.has_room_for(next))) {
                return;
            }
            let number = self.first + u64::try_from(index).unwrap_or_default();
            let sent = committer.send(&next.pending);
            self.answers.push(Box::pin(async move { (number, sent.await) }));
            self.line[index].state = State::Flying { first };
            self.sent_at = Some(now);
        }
    }

    /// Whether one that is not the first may be on its way with those before it.
    fn has_room_for(&self, transaction: &Transaction) -> bool {
        transaction.begins && self.answers.len() < self.most
    }
}

impl Transaction {
    fn is_flying(&self) -> bool {
        matches!(self.state, State::Flying { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::desired::Edits;
    use fgpu_store::{Compare, EmbeddedStore};
    use std::sync::Arc;

    fn launch(flights: &mut Flights, committer: &mut Committer) {
        let seen = Seen { snapshot: None, desired: Edits::new() };
        flights.launch(Vec::new(), seen, vec![Chunk::default()], committer);
    }

    #[tokio::test]
    async fn the_second_is_sent_some_time_after_the_first_or_as_soon_as_that_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path().join("store")).await.unwrap();
        let fence = Compare::absent("fence");
        let mut committer = Committer::new(Arc::new(store), fence, 1, 0);
        let mut flights = Flights::new(2);
        launch(&mut flights, &mut committer);
        assert_eq!((flights.answers.len(), flights.send_at()), (1, None));

        let sent_at = Instant::now() + Duration::from_secs(3600);
        flights.sent_at = Some(sent_at);
        launch(&mut flights, &mut committer);
        flights.send_due(&committer);
        assert_eq!((flights.answers.len(), flights.send_at()), (1, Some(sent_at + APART)));

        flights.sent_at = Some(Instant::now() - APART);
        flights.send_due(&committer);
        assert_eq!((flights.answers.len(), flights.send_at()), (2, None));

        launch(&mut flights, &mut committer);
        flights.sent_at = Some(sent_at);
        assert_eq!((flights.answers.len(), flights.is_full()), (2, true));
        let answer = flights.answer().await.unwrap();
        flights.judge(answer, &mut committer).await;
        assert_eq!(flights.send_at(), Some(sent_at + APART), "one is still before it");
        let answer = flights.answer().await.unwrap();
        flights.judge(answer, &mut committer).await;
        assert_eq!((flights.answers.len(), flights.line.len()), (1, 1), "now it is the first");
    }
}
