//! Submitting: over several connections, as fast as the manager answers or at a set rate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fgpu_wire::v1;
use fgpu_wire::v1::create_session_request::Members;
use fgpu_wire::v1::gpu_request::Amount;
use fgpu_wire::v1::session_service_client::SessionServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::board::{Board, LABEL};
use super::mix::{Container, Kind};

/// Nothing more is submitted while so many thousandths of the cluster are held or waited for.
const FULL: u64 = 950;
const PAUSE: Duration = Duration::from_millis(2);
const GIB: u64 = 1 << 30;

/// How submitting is done.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) token: Arc<str>,
    /// Distinguishes the request ids of runs.
    pub(crate) run: u64,
    pub(crate) connections: Vec<Channel>,
    /// Calls on their way at a time.
    pub(crate) concurrency: usize,
    /// Containers a second; `None`: as fast as they are answered.
    pub(crate) rate: Option<u64>,
    /// Whether the containers of a gang are submitted one by one, as sessions of their own.
    pub(crate) loose_gangs: bool,
}

impl Load {
    /// Submits the containers of `range` on `board`; ends when each is answered or `stop` holds.
    pub(crate) async fn submit(
        &self,
        board: &Arc<Board>,
        range: std::ops::Range<usize>,
        stop: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<(), Status> {
        let next = Arc::new(AtomicUsize::new(range.start));
        let begin_us = board.now_us();
        let mut workers = JoinSet::new();
        for worker in 0..self.concurrency {
            let channel = self.connections[worker % self.connections.len()].clone();
            let (load, board, next, stop) =
                (self.clone(), Arc::clone(board), Arc::clone(&next), stop.clone());
            let (first, end) = (range.start, range.end);
            workers.spawn(async move {
                let mut client = SessionServiceClient::new(channel);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end || stop() {
                        return Ok::<_, Status>(());
                    }
                    let together = load.together(&board, number);
                    if together == 0 {
                        continue;
                    }
                    let at_us = load.turn(&board, number - first, begin_us).await;
                    (number..number + together).for_each(|number| board.submitted(number, at_us));
                    client.create_session(load.request(&board, number, together)?).await?;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|error| Status::internal(error.to_string()))??;
        }
        Ok(())
    }

    /// Waits until the `position`-th may be submitted; returns when that was, or should have been.
    async fn turn(&self, board: &Board, position: usize, begin_us: u64) -> u64 {
        match self.rate {
            Some(rate) => {
                let offset = u64::try_from(position).unwrap_or(u64::MAX);
                let at_us = begin_us + offset.saturating_mul(1_000_000) / rate.max(1);
                let wait = at_us.saturating_sub(board.now_us());
                tokio::time::sleep(Duration::from_micros(wait)).await;
                at_us
            }
            None => {
                while board.fill().1 >= FULL {
                    tokio::time::sleep(PAUSE).await;
                }
                board.now_us()
            }
        }
    }

    /// How many containers are submitted with `number`: a whole gang with its first one, and none
    /// with the others.
    fn together(&self, board: &Board, number: usize) -> usize {
        let containers = board.containers();
        let container = &containers[number];
        if self.loose_gangs || container.kind != Kind::Gang {
            return 1;
        }
        let same = |other: &&Container| other.job == container.job;
        match number.checked_sub(1).and_then(|before| containers.get(before)).filter(same) {
            Some(_) => 0,
            None => containers[number..].iter().take_while(same).count(),
        }
    }

    fn request(
        &self,
        board: &Board,
        number: usize,
        together: usize,
    ) -> Result<Request<v1::CreateSessionRequest>, Status> {
        let spec = Some(spec(&board.containers()[number], number));
        let request_id = format!("bench-{}-{number}", self.run);
        let gang = !self.loose_gangs && board.containers()[number].kind == Kind::Gang;
        let members = gang.then(|| Members::GangSize(u32::try_from(together).unwrap_or(u32::MAX)));
        let mut request = Request::new(v1::CreateSessionRequest { spec, request_id, members });
        let bearer = format!("Bearer {}", self.token).parse();
        let bearer = bearer.map_err(|_| Status::internal("a token that is no header"))?;
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }
}

pub(super) fn spec(container: &Container, number: usize) -> v1::SessionSpec {
    let devices = container.milli.div_ceil(1000);
    let amount = match container.kind {
        // One device is 10 fGPU.
        Kind::Fraction => Amount::FgpuMilli(container.milli * 10),
        Kind::One | Kind::Multi | Kind::Gang => {
            Amount::WholeDevices(u32::try_from(devices).unwrap_or(1))
        }
    };
    let mut labels = BTreeMap::from([(LABEL.to_owned(), number.to_string())]);
    if container.kind == Kind::Gang {
        labels.insert("gang".to_owned(), container.job.to_string());
    }
    v1::SessionSpec {
        kind: v1::SessionKind::Batch.into(),
        command: vec!["train".to_owned()],
        gpu: Some(v1::GpuRequest { amount: Some(amount), ..v1::GpuRequest::default() }),
        cpu_milli: 4_000 * devices,
        memory_bytes: 32 * GIB * devices,
        labels,
        ..v1::SessionSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::mix::Mix;
    use super::*;

    #[tokio::test]
    async fn a_gang_is_submitted_whole_with_its_first_container_unless_it_is_loose() {
        let board = Board::new("gang=100".parse::<Mix>().unwrap().generate(3, 1), 100_000);
        let mut load = Load {
            token: "t".into(),
            run: 1,
            connections: Vec::new(),
            concurrency: 1,
            rate: None,
            loose_gangs: false,
        };
        let total = board.containers().len();
        let together: Vec<usize> = (0..total).map(|n| load.together(&board, n)).collect();
        assert_eq!(together.iter().sum::<usize>(), total);
        assert_eq!(together.iter().filter(|count| **count > 0).count(), 3);
        assert_eq!(board.containers()[together[0]].job, 1, "the next job begins after the first");
        let request = load.request(&board, 0, together[0]).unwrap().into_inner();
        let size = u32::try_from(together[0]).unwrap();
        assert_eq!(request.members, Some(Members::GangSize(size)));

        load.loose_gangs = true;
        assert!((0..total).all(|number| load.together(&board, number) == 1));
        assert_eq!(load.request(&board, 0, 1).unwrap().into_inner().members, None);
    }

    #[test]
    fn each_kind_asks_for_what_it_takes() {
        for (number, container) in Mix::default().generate(200, 1).iter().enumerate() {
            let spec = spec(container, number);
            assert_eq!(spec.labels[LABEL], number.to_string());
            assert_eq!(spec.labels.contains_key("gang"), container.kind == Kind::Gang);
            let milli = match spec.gpu.unwrap().amount.unwrap() {
                Amount::FgpuMilli(milli) => milli / 10,
                Amount::WholeDevices(devices) => u64::from(devices) * 1000,
                Amount::Direct(_) | Amount::Mig(_) => 0,
            };
            assert_eq!(milli, container.milli);
        }
    }
}
