//! A runtime under test, and what tests need around it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fgpu_runtime::cgroup::Cgroups;
use fgpu_runtime::{
    CgroupDriver, Container, ContainerRuntime, ContainerSpec, ContainerState, LABEL_GENERATION,
    LogChunk, LogChunkStream, LogOptions, LogStream, Owner,
};
use futures_util::StreamExt;

/// Longest time any wait may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(100);
/// A grace that no test should use up.
pub(crate) const LONG_GRACE: Duration = Duration::from_secs(60);

/// A runtime under test. What it makes is removed with it.
pub(crate) struct Bench {
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    /// Image that has `sh` and the usual tools.
    pub(crate) image: String,
    pub(crate) cgroup_root: String,
    pub(crate) make: Box<dyn Fn(Owner) -> Arc<dyn ContainerRuntime> + Send + Sync>,
    owner: Owner,
    /// Held until the end of the test.
    _held: Option<tempfile::TempDir>,
}

/// An owner, and a name for its cgroups, that no other test has.
pub(crate) fn unique() -> (Owner, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = format!("{}x{number}", std::process::id());
    let owner = Owner { cluster: format!("c{id}"), node: "n1".to_owned() };
    (owner, format!("fgpu_test_{id}"))
}

impl Bench {
    pub(crate) fn new(
        owner: Owner,
        cgroup_root: String,
        image: String,
        held: Option<tempfile::TempDir>,
        make: impl Fn(Owner) -> Arc<dyn ContainerRuntime> + Send + Sync + 'static,
    ) -> Self {
        Self {
            runtime: make(owner.clone()),
            image,
            cgroup_root,
            make: Box::new(make),
            owner,
            _held: held,
        }
    }

    /// A second runtime of the same owner: the agent after a restart.
    pub(crate) fn again(&self) -> Arc<dyn ContainerRuntime> {
        (self.make)(self.owner.clone())
    }

    /// A runtime of another owner on the same engine.
    pub(crate) fn stranger(&self) -> Arc<dyn ContainerRuntime> {
        let node = "n2".to_owned();
        (self.make)(Owner { node, ..self.owner.clone() })
    }

    /// A specification that runs a shell script; `name` is the session's, too.
    pub(crate) fn script(&self, name: &str, script: &str) -> ContainerSpec {
        let mut spec =
            ContainerSpec::new(format!("{}-{name}", self.owner.cluster), self.image.clone(), name);
        spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
        spec.labels.insert(LABEL_GENERATION.to_owned(), "1".to_owned());
        spec
    }

    pub(crate) async fn started(&self, spec: &ContainerSpec) -> String {
        let id = self.runtime.create(spec).await.unwrap();
        self.runtime.start(&id).await.unwrap();
        id
    }

    /// Runs a script to its end and returns its output.
    pub(crate) async fn output_of(&self, spec: &ContainerSpec) -> String {
        let id = self.started(spec).await;
        self.ended(&id).await;
        let output = self.all_output(&id, LogOptions::default()).await;
        self.runtime.remove(&id).await.unwrap();
        output
    }

    pub(crate) async fn ended(&self, id: &str) -> ContainerState {
        until("the container to end", async || {
            let state = self.runtime.inspect(id).await.unwrap().state;
            match state.exit_code() {
                Some(_) => Ok(state),
                None => Err(state),
            }
        })
        .await
    }

    pub(crate) async fn all_output(&self, id: &str, options: LogOptions) -> String {
        text(self.runtime.logs(id, options).await.unwrap()).await
    }

    /// Waits until the output of a container holds `wanted`.
    pub(crate) async fn said(&self, id: &str, wanted: &str) {
        until("the output", async || {
            let output = self.all_output(id, LogOptions::default()).await;
            match output.contains(wanted) {
                true => Ok(()),
                false => Err(output),
            }
        })
        .await;
    }

    pub(crate) async fn find(&self, id: &str) -> Option<Container> {
        let all = self.runtime.list().await.unwrap();
        all.into_iter().find(|each| each.id == id)
    }

    pub(crate) fn cgroups(&self) -> Cgroups {
        Cgroups::detect(&self.cgroup_root, CgroupDriver::Cgroupfs).unwrap()
    }

    /// Removes all that is left, and checks that nothing is.
    pub(crate) async fn finish(self) {
        for each in self.runtime.list().await.unwrap() {
            self.runtime.remove(&each.id).await.unwrap();
        }
        assert_eq!(self.runtime.list().await.unwrap(), []);
    }
}

/// Waits until `look` finds what it looks for; the last thing it saw is in the message.
pub(crate) async fn until<T, S: Debug>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let start = Instant::now();
    loop {
        let last = match look().await {
            Ok(found) => return found,
            Err(last) => last,
        };
        assert!(start.elapsed() < DEADLINE, "waited for {what}: {last:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All text of a stream of output, to its end.
pub(crate) async fn text(mut stream: LogChunkStream) -> String {
    let mut all = Vec::new();
    let read = async {
        while let Some(chunk) = stream.next().await {
            all.extend_from_slice(&chunk.unwrap().data);
        }
    };
    let ended = tokio::time::timeout(DEADLINE, read).await;
    let text = String::from_utf8_lossy(&all).into_owned();
    assert!(ended.is_ok(), "output did not end: {text}");
    text
}

/// The text of one of the two streams.
pub(crate) fn of_stream(chunks: &[LogChunk], stream: LogStream) -> String {
    let pieces = chunks.iter().filter(|chunk| chunk.stream == stream);
    let bytes: Vec<u8> = pieces.flat_map(|chunk| chunk.data.to_vec()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
