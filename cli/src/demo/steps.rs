//! What the demo shows, and the check behind each line it prints.

use std::time::Duration;

use fgpu_wire::v1::{
    self, CreateSessionRequest, ExplainSessionRequest, GpuRequest, ListNodesRequest, Phase,
    SessionSpec, StreamLogsRequest, gpu_request::Amount,
};

use super::Program;
use crate::connect::{Link, Repeat};
use crate::explain;
use crate::failure::Failure;
use crate::logs::Logs;
use crate::output;
use crate::progress;
use crate::run;
use crate::sessions;
use crate::view::{DeviceView, ExplainView, NodeView};
use crate::watch::{Change, Watch};
use crate::{devices, nodes};

/// How long one step may take.
const STEP: Duration = Duration::from_secs(20);
const ONE_DEVICE: u64 = 10_000;

/// Plays all steps.
pub(super) async fn play(link: &Link, program: &Program) -> Result<(), Failure> {
    let stage = Stage { link, program };
    stage.show_nodes().await?;
    let first = stage.first().await?;
    stage.share_and_fill().await?;
    let second = stage.second_waits().await?;
    stage.show_map().await?;
    stage.first_goes_second_starts(&first, &second).await
}

struct Stage<'a> {
    link: &'a Link,
    program: &'a Program,
}

impl Stage<'_> {
    async fn show_nodes(&self) -> Result<(), Failure> {
        title("the nodes and their devices")?;
        let known = nodes::fetch(self.link, ListNodesRequest::default()).await?;
        let views: Vec<_> = known.into_iter().map(NodeView::from).collect();
        output::text(nodes::table(&views, output::now_ms()).render())?;
        output::text(devices::table(&self.devices().await?).render())
    }

    async fn first(&self) -> Result<v1::Session, Failure> {
        title("fgpu run --fgpu 10: a session with one whole device's worth")?;
        let first = self.run("first", Amount::FgpuMilli(ONE_DEVICE), "").await?;
        let first = self.until_running(&first).await?;
        self.show_slice(&first).await?;
        let granted = granted(&first);
        check(granted == ONE_DEVICE, || format!("it holds {granted} thousandths, not 10 fGPU"))?;
        let held = self.held_by(&first.id).await?;
        check(held == ONE_DEVICE, || format!("the device map says {held} thousandths of fGPU"))?;
        Ok(first)
    }

    async fn share_and_fill(&self) -> Result<(), Failure> {
        title("fgpu run --fgpu 2.5: a quarter of another device; then the rest is taken")?;
        if self.free_devices().await?.is_empty() {
            output::line("there is but one device here, and it is taken")?;
            return Ok(());
        }
        let part = self.run("part", Amount::FgpuMilli(2_500), "").await?;
        let part = self.until_running(&part).await?;
        self.show_slice(&part).await?;
        let mut by_node = std::collections::BTreeMap::<String, u32>::new();
        for device in self.free_devices().await? {
            *by_node.entry(device.node).or_default() += 1;
        }
        for (node, count) in by_node {
            let rest =
                self.run(&format!("rest-{node}"), Amount::WholeDevices(count), &node).await?;
            let rest = self.until_running(&rest).await?;
            let place = rest.grant.clone().unwrap_or_default().into();
            output::line(format!("  --gpus {count}: {}", progress::grant_line(&place)))?;
        }
        Ok(())
    }

    async fn second_waits(&self) -> Result<v1::Session, Failure> {
        title("fgpu run --fgpu 10 again: it must wait, and fgpu explain says why")?;
        let second = self.run("second", Amount::FgpuMilli(ONE_DEVICE), "").await?;
        let request = ExplainSessionRequest { session: second.id.clone() };
        let answer = self.link.call(Repeat::Safe, async |clients| {
            clients.sessions().explain_session(request.clone()).await
        });
        let view = ExplainView::from(answer.await?);
        output::text(explain::render(&view))?;
        check(view.queue_position == Some(1), || "it is not the head of the queue".to_owned())?;
        check(view.grant.is_none(), || "it was given a place".to_owned())?;
        let now = sessions::find(self.link, &second.id).await?;
        check(now.phase() == Phase::Pending, || format!("it is {:?}", now.phase()))?;
        Ok(second)
    }

    async fn show_map(&self) -> Result<(), Failure> {
        title("fgpu device list: device, slices, sessions")?;
        let map = self.devices().await?;
        output::text(devices::table(&map).render())?;
        let free = map.iter().find(|device| device.free_fgpu_milli >= ONE_DEVICE);
        check(free.is_none(), || "a device has 10 fGPU free while a session waits".to_owned())
    }

    async fn first_goes_second_starts(
        &self,
        first: &v1::Session,
        second: &v1::Session,
    ) -> Result<(), Failure> {
        title("fgpu stop first: its device comes back, and the second starts on it")?;
        sessions::ask_to_stop(self.link, &first.id, 2_000).await?;
        let ended = within("the first session ends", sessions::until_ended(self.link, &first.id));
        ended.await?;
        output::line(format!("  session {} ended", progress::label(first)))?;
        let second = self.until_running(second).await?;
        self.show_slice(&second).await?;
        let device = |session: &v1::Session| {
            let grant = session.grant.clone().unwrap_or_default();
            grant.slices.first().map(|slice| slice.device_uuid.clone())
        };
        check(device(first) == device(&second), || "it runs on another device".to_owned())?;
        let held = self.held_by(&first.id).await?;
        check(held == 0, || format!("the first still holds {held} thousandths of fGPU"))
    }

    /// Creates a session of the demo's program.
    async fn run(&self, name: &str, amount: Amount, node: &str) -> Result<v1::Session, Failure> {
        let gpu = GpuRequest { amount: Some(amount), ..GpuRequest::default() };
        let docker = !self.program.image.is_empty();
        let (entrypoint, command) = match self.program.command.split_first() {
            Some((program, rest)) if docker => (vec![program.clone()], rest.to_vec()),
            _ => (Vec::new(), self.program.command.clone()),
        };
        let spec = SessionSpec {
            name: name.to_owned(),
            image: self.program.image.clone(),
            entrypoint,
            command,
            gpu: Some(gpu),
            cpu_milli: 20,
            memory_bytes: 64 << 20,
            node: node.to_owned(),
            stop_grace_ms: 2_000,
            ..SessionSpec::default()
        };
        let request_id = format!("demo-{}-{name}", std::process::id());
        let request = CreateSessionRequest { spec: Some(spec), request_id, members: None };
        run::first(run::create(self.link, &request).await?)
    }

    async fn until_running(&self, session: &v1::Session) -> Result<v1::Session, Failure> {
        let what = format!("session {} runs", progress::label(session));
        within(&what, async {
            let mut watch = Watch::new(self.link, session.id.clone());
            loop {
                match watch.next().await? {
                    Change::Session(now) if now.phase() == Phase::Running => return Ok(*now),
                    Change::Session(now) if now.phase() == Phase::Ended => {
                        let ending = run::ending(&now);
                        let plain = || Failure::new(format!("{what}: it ended ({})", ending.code));
                        return Err(ending.failure.clone().unwrap_or_else(plain));
                    }
                    Change::Session(_) => {}
                    Change::Removed => return Err(Failure::new("the session was removed")),
                }
            }
        })
        .await
    }

    /// Prints what the session's own process says about its slice; that must be what it was given.
    async fn show_slice(&self, session: &v1::Session) -> Result<(), Failure> {
        let place = session.grant.clone().unwrap_or_default().into();
        output::line(format!(
            "  session {}: {}\n  its process says:",
            progress::label(session),
            progress::grant_line(&place)
        ))?;
        let said = within("the session's process speaks", self.first_words(&session.id)).await?;
        for line in said.lines() {
            output::line(format!("    {line}"))?;
        }
        let amount = crate::view::fgpu(granted(session));
        check(said.contains(&format!("holds {amount},")), || {
            format!("the process does not see {amount}")
        })?;
        let missing = session.grant.iter().flat_map(|grant| &grant.slices);
        let missing = missing.map(|slice| &slice.device_uuid).find(|uuid| !said.contains(*uuid));
        check(missing.is_none(), || format!("the process does not see device {missing:?}"))
    }

    /// The output of a session up to the last line about its slice.
    async fn first_words(&self, id: &str) -> Result<String, Failure> {
        let request = StreamLogsRequest {
            session: id.to_owned(),
            follow: true,
            ..StreamLogsRequest::default()
        };
        let mut logs = Logs::new(self.link, request);
        let mut said = String::new();
        while !said.contains("FGPU_COMPUTE_MILLI=") || !said.ends_with('\n') {
            match logs.next().await? {
                Some(chunk) => said.push_str(&String::from_utf8_lossy(&chunk.data)),
                None => return Err(Failure::new("its output ended early").detail(said)),
            }
        }
        Ok(said)
    }

    async fn devices(&self) -> Result<Vec<DeviceView>, Failure> {
        Ok(devices::fetch(self.link, "").await?.into_iter().map(DeviceView::from).collect())
    }

    async fn free_devices(&self) -> Result<Vec<DeviceView>, Failure> {
        let mut devices = self.devices().await?;
        devices.retain(|device| device.slices.is_empty() && device.blocked.is_none());
        Ok(devices)
    }

    /// What the device map says a session holds, in thousandths of an fGPU.
    async fn held_by(&self, id: &str) -> Result<u64, Failure> {
        let map = self.devices().await?;
        let slices = map.iter().flat_map(|device| &device.slices);
        Ok(slices.filter(|slice| slice.session_id == id).map(|slice| slice.fgpu_milli).sum())
    }
}

fn granted(session: &v1::Session) -> u64 {
    let slices = session.grant.iter().flat_map(|grant| &grant.slices);
    slices.map(|slice| slice.fgpu_milli).sum()
}

fn title(text: &str) -> Result<(), Failure> {
    output::line(format!("\n{text}"))
}

/// A claim of the demo that must hold.
fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    match holds {
        true => Ok(()),
        false => Err(Failure::new(format!("the demo is not as it says: {}", otherwise()))),
    }
}

async fn within<T>(
    what: &str,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(STEP, step).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(format!(
            "the demo is not as it says: not within {} s: {what}",
            STEP.as_secs()
        ))),
    }
}
