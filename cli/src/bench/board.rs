//! What all parts of a run share: what is submitted, how it stands, and when containers end.
//!
//! Containers end by a clock of their own, which the run drives: its speed is chosen so that as
//! much ends as starts, and the cluster stays as full as it should be, whatever the manager's speed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::mix::Container;

/// The label that says which container a session is.
pub(crate) const LABEL: &str = "bench";

/// One run.
#[derive(Debug)]
pub(crate) struct Board {
    begin: Instant,
    containers: Vec<Container>,
    /// Microseconds since the begin + 1 at which each was submitted, and was seen bound; 0: not yet.
    submitted_at: Vec<AtomicU64>,
    bound_at: Vec<AtomicU64>,
    /// Thousandths of a device.
    capacity: u64,
    submitted_milli: AtomicU64,
    bound_milli: AtomicU64,
    ended_milli: AtomicU64,
    pub(crate) bound: AtomicUsize,
    pub(crate) ended: AtomicUsize,
    /// Nodes that ended before they should.
    pub(crate) lost_nodes: AtomicUsize,
    ends: Mutex<Ends>,
}

/// What runs, by when it ends on the clock of containers.
#[derive(Debug, Default)]
struct Ends {
    now: u64,
    heap: BinaryHeap<Reverse<(u64, usize, usize)>>,
}

/// An order to a node: this container has come to its end.
pub(crate) type EndOrder = mpsc::UnboundedSender<usize>;

impl Board {
    /// A run of `containers` on so many thousandths of a device.
    pub(crate) fn new(containers: Vec<Container>, capacity: u64) -> Self {
        let times = || containers.iter().map(|_| AtomicU64::new(0)).collect();
        Self {
            begin: Instant::now(),
            submitted_at: times(),
            bound_at: times(),
            containers,
            capacity,
            submitted_milli: AtomicU64::new(0),
            bound_milli: AtomicU64::new(0),
            ended_milli: AtomicU64::new(0),
            bound: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            lost_nodes: AtomicUsize::new(0),
            ends: Mutex::new(Ends::default()),
        }
    }

    pub(crate) fn containers(&self) -> &[Container] {
        &self.containers
    }

    /// Microseconds since the begin.
    pub(crate) fn now_us(&self) -> u64 {
        micros(self.begin.elapsed())
    }

    /// Container `number` was, or should have been, submitted at `at_us`.
    pub(crate) fn submitted(&self, number: usize, at_us: u64) {
        self.submitted_at[number].store(at_us + 1, Ordering::Relaxed);
        self.submitted_milli.fetch_add(self.containers[number].milli, Ordering::Relaxed);
    }

    /// A node was told to run container `number`.
    pub(crate) fn bound(&self, number: usize) {
        let Some(bound_at) = self.bound_at.get(number) else { return };
        let first =
            bound_at.compare_exchange(0, self.now_us() + 1, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            self.bound_milli.fetch_add(self.containers[number].milli, Ordering::Relaxed);
            self.bound.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Container `number` runs on node `node`; it will end in time.
    pub(crate) fn runs(&self, number: usize, node: usize) {
        let Some(container) = self.containers.get(number) else { return };
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ends.now + container.length_milli * 1000;
        ends.heap.push(Reverse((at, node, number)));
    }

    /// Container `number` has ended and its slices are free.
    pub(crate) fn gone(&self, number: usize) {
        let Some(container) = self.containers.get(number) else { return };
        self.ended_milli.fetch_add(container.milli, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets the clock of containers go on by `millionths` of their mean length, and tells nodes
    /// what has ended by it.
    pub(crate) fn pass(&self, millionths: u64, nodes: &[EndOrder]) {
        let mut due = Vec::new();
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.now += millionths;
        while let Some(Reverse((at, node, number))) = ends.heap.peek().copied()
            && at <= ends.now
        {
            ends.heap.pop();
            due.push((node, number));
        }
        drop(ends);
        for (node, number) in due {
            // A node that has gone is counted elsewhere.
            let _ = nodes[node].send(number);
        }
    }

    /// Thousandths of the cluster that are held, and that are held or waited for.
    pub(crate) fn fill(&self) -> (u64, u64) {
        let ended = self.ended_milli.load(Ordering::Relaxed);
        let share = |milli: u64| milli.saturating_sub(ended) * 1000 / self.capacity.max(1);
        let submitted = self.submitted_milli.load(Ordering::Relaxed);
        (share(self.bound_milli.load(Ordering::Relaxed)), share(submitted))
    }

    /// Thousandths of a device bound so far.
    pub(crate) fn bound_milli(&self) -> u64 {
        self.bound_milli.load(Ordering::Relaxed)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// When each container of `from..` was submitted and bound, as far as both happened.
    pub(crate) fn times(&self, from: usize) -> Vec<(usize, u64, u64)> {
        let stamp = |at: &AtomicU64| at.load(Ordering::Relaxed).checked_sub(1);
        let all = self.submitted_at.iter().zip(&self.bound_at).enumerate().skip(from);
        let known = |(number, (submitted, bound)): (usize, (&AtomicU64, &AtomicU64))| {
            Some((number, stamp(submitted)?, stamp(bound)?))
        };
        all.filter_map(known).collect()
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::mix::Mix;
    use super::*;

    #[test]
    fn containers_end_by_their_own_clock_and_give_back_what_they_held() {
        let containers = "one=100".parse::<Mix>().unwrap().generate(2, 3);
        let longest = containers.iter().map(|container| container.length_milli).max().unwrap();
        let board = Board::new(containers, 4_000);
        let (order, mut orders) = mpsc::unbounded_channel();
        for number in [0, 1] {
            board.submitted(number, 5);
            board.bound(number);
            board.bound(number);
            board.runs(number, 0);
        }
        assert_eq!(board.fill(), (500, 500), "told twice, bound once");
        board.pass(10, std::slice::from_ref(&order));
        assert!(orders.try_recv().is_err(), "nothing is that short");

        board.pass(longest * 1000, &[order]);
        while let Ok(number) = orders.try_recv() {
            board.gone(number);
        }

        assert_eq!(board.fill(), (0, 0));
        assert_eq!(board.times(1).len(), 1);
    }
}
