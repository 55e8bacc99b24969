//! The flags of `fgpu run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use fgpu_domain::ids::{ClassName, NodeName, ProjectName, RequestId, SessionName};
use fgpu_domain::session::ArrayRange;
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};
use fgpu_wire::v1::Dependency;

use crate::connect::ConnectArgs;
use crate::output::Format;
use crate::parse::{self, ComputeArg, MigArg, VolumeArg, When};

/// `fgpu run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    #[command(flatten)]
    pub(crate) attach: AttachArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// Command and its arguments; without one, the image's own
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// How much GPU. Without any of these the session gets none.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "GPU")]
#[group(skip)]
pub(crate) struct GpuArgs {
    /// Memory and compute in proportion, over all devices together, e.g. `10` or `2.5`
    #[arg(
        long, value_name = "AMOUNT", value_parser = parse::fgpu, allow_negative_numbers = true,
        conflicts_with_all = ["gpus", "gpu_memory", "gpu_compute"], group = "gpu_amount"
    )]
    pub(crate) fgpu: Option<Fgpu>,
    /// Whole devices
    #[arg(
        long, value_name = "COUNT", value_parser = parse::count, allow_negative_numbers = true,
        conflicts_with_all = ["gpu_memory", "gpu_compute", "devices", "split"],
        group = "gpu_amount"
    )]
    pub(crate) gpus: Option<u32>,
    /// MIG instances of this profile, e.g. `1g.10gb`, each given whole; `:COUNT` for several on one node
    #[arg(
        long, value_name = "PROFILE[:COUNT]", value_parser = parse::mig,
        conflicts_with_all = [
            "fgpu", "gpus", "gpu_memory", "gpu_compute", "devices", "split", "compute_policy",
        ],
        group = "gpu_amount"
    )]
    pub(crate) mig: Option<MigArg>,
    /// Device memory over all devices together, e.g. `20GiB` (or `20GB`: 20 × 10⁹ bytes)
    #[arg(long, value_name = "SIZE", value_parser = parse::memory, allow_negative_numbers = true)]
    pub(crate) gpu_memory: Option<MemoryBytes>,
    /// Compute of each device: `30%` or `0.3`, or `shared` for no share of its own
    #[arg(long, value_name = "SHARE", value_parser = parse::compute, allow_negative_numbers = true)]
    pub(crate) gpu_compute: Option<ComputeArg>,
    /// Split over exactly this many devices of one node
    #[arg(long, value_name = "COUNT", value_parser = parse::count, allow_negative_numbers = true)]
    pub(crate) devices: Option<u32>,
    /// How to split over several devices: equal parts, or full devices first
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) split: Option<Split>,
    /// Only on devices whose model contains this text, e.g. `H100`; may be repeated
    #[arg(long = "gpu-model", value_name = "MODEL")]
    pub(crate) gpu_models: Vec<String>,
    /// What the compute share means while others are idle
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(crate) compute_policy: Option<ComputePolicy>,
    /// The weakest isolation accepted; `shared`: nothing enforces the slice
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) isolation: Option<Isolation>,
}

/// What runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Container")]
#[group(skip)]
pub(crate) struct ContainerArgs {
    /// Container image; a node with the process runtime runs the command without one
    #[arg(long, value_name = "IMAGE", default_value = "", hide_default_value = true)]
    pub(crate) image: String,
    /// CPU cores, e.g. `4`, `0.5` or `500m`
    #[arg(long, value_name = "CORES", value_parser = parse::cpu, allow_negative_numbers = true)]
    pub(crate) cpu: Option<CpuMilli>,
    /// Host memory, e.g. `16GiB`; there is no swap on top
    #[arg(long, value_name = "SIZE", value_parser = parse::memory, allow_negative_numbers = true)]
    pub(crate) memory: Option<MemoryBytes>,
    /// Size of `/dev/shm`, a part of the memory
    #[arg(long, value_name = "SIZE", value_parser = parse::memory, allow_negative_numbers = true)]
    pub(crate) shm: Option<MemoryBytes>,
    /// Set a variable; `KEY` alone takes the value it has here; may be repeated
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = parse::env)]
    pub(crate) env: Vec<(String, String)>,
    /// Set the variables in a file, one `KEY=VALUE` a line; `--env` wins; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Mount a path of the node, where its administrator allows it; may be repeated
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]", value_parser = parse::volume)]
    pub(crate) volume: Vec<VolumeArg>,
    /// Working directory in the container
    #[arg(short, long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// User in the container: `name`, `uid` or `uid:gid`
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Replace the entry point of the image
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Publish a port of the container on an ephemeral port of the node; may be repeated
    #[arg(long, value_name = "PORT", value_parser = parse::port)]
    pub(crate) publish: Vec<u16>,
    /// Stop after running this long, e.g. `1h30m`
    #[arg(long, value_name = "DURATION", value_parser = parse::some_duration)]
    pub(crate) time_limit: Option<Duration>,
    /// From the polite signal to the hard one when stopping [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse::some_duration)]
    pub(crate) stop_grace: Option<Duration>,
}

/// Who it is and where it may go.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Session")]
#[group(skip)]
pub(crate) struct PlacementArgs {
    /// Name, unique among the sessions that have not ended
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<SessionName>,
    /// Attach a label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Place in the queue: higher goes first, -1000 to 1000
    #[arg(
        long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1000..=1000)
    )]
    pub(crate) priority: i32,
    /// Only on this node
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
    /// Only on nodes with this label; may be repeated
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) node_labels: Vec<(String, String)>,
    /// What the node does with it when cut off from the manager
    #[arg(long, value_enum, value_name = "ACTION")]
    pub(crate) on_disconnect: Option<OnDisconnect>,
    /// What the manager does with it when the node is lost
    #[arg(long, value_enum, value_name = "ACTION")]
    pub(crate) on_lost: Option<OnLost>,
}

/// How many there are, and when their turn comes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Queue")]
#[group(skip)]
pub(crate) struct QueueArgs {
    /// Project its use counts for [default: that of the context, else `default`]
    #[arg(long, env = "FGPU_PROJECT", value_name = "PROJECT")]
    pub(crate) project: Option<ProjectName>,
    /// Priority class, see `fgpu class list` [default: normal]
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<ClassName>,
    /// Not before this session has completed, or with `:any` ended; may be repeated
    #[arg(long, value_name = "SESSION[:ok|any]", value_parser = parse::after)]
    pub(crate) after: Vec<Dependency>,
    /// Not before this time: `2026-03-01T08:00:00+01:00`, or `+2h` from now
    #[arg(long, value_name = "TIME", value_parser = parse::when)]
    pub(crate) start_at: Option<When>,
    /// Give up after waiting this long for a place
    #[arg(long, value_name = "DURATION", value_parser = parse::some_duration)]
    pub(crate) pending_timeout: Option<Duration>,
    /// As many independent sessions as there are numbers: `1-100`, `1-10:2`, `1-100%5` (5 at once)
    #[arg(long, value_name = "RANGE", conflicts_with = "size")]
    pub(crate) array: Option<ArrayRange>,
    /// So many sessions that start together or not at all
    #[arg(
        long, value_name = "COUNT", value_parser = parse::count, allow_negative_numbers = true
    )]
    pub(crate) size: Option<u32>,
    /// Place the sessions of `--size` on the fewest nodes, close to each other: in one rack, else
    /// one zone (labels `fgpu.io/rack` and `fgpu.io/zone`)
    #[arg(long, requires = "size", conflicts_with = "spread")]
    pub(crate) pack: bool,
    /// Place them as evenly as there is room over nodes, or over the values of a node label
    #[arg(
        long, value_name = "LABEL", requires = "size", num_args = 0..=1, require_equals = true,
        default_missing_value = ""
    )]
    pub(crate) spread: Option<String>,
    /// May be stopped and started elsewhere to free whole devices, see `fgpu defrag`
    #[arg(long)]
    pub(crate) movable: bool,
}

/// How `run` itself behaves.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct AttachArgs {
    /// Run the command in a session held for a person, with this terminal's input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Print the id and return as soon as the session is accepted
    #[arg(short, long, conflicts_with = "dry_run")]
    pub(crate) detach: bool,
    /// Say what would happen now, and create nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Repeating a create with the same id gives the same session [default: random]
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<RequestId>,
    /// Say nothing but the session's own output, or with `--detach` its id
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How to print with `--detach` or `--dry-run`
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// Splits `GpuArgs` and its like into words of the contract.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident => $wire:path { $($(#[$item:meta])* $word:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        pub(crate) enum $name { $($(#[$item])* $word,)* }

        impl From<$name> for $wire {
            fn from(word: $name) -> Self {
                match word { $($name::$word => Self::$word,)* }
            }
        }
    };
}

words! {
    /// How a request is split over devices.
    Split => fgpu_wire::v1::Split {
        /// Equal parts, as tensor parallelism wants them
        Even,
        /// Full devices first
        Fill,
    }
}

words! {
    /// What a compute share means while others are idle.
    ComputePolicy => fgpu_wire::v1::ComputePolicy {
        /// Never more than the share (the default)
        Hard,
        /// Idle time of others may be used, given back within one period
        Burst,
        /// Only the proportion among those that want compute at the same time
        Weight,
    }
}

words! {
    /// What keeps a slice to its limits.
    Isolation => fgpu_wire::v1::Isolation {
        /// A whole device
        Whole,
        /// A MIG instance
        Mig,
        /// The driver's own limits
        Driver,
        /// The library of fgpu in the container
        Interposer,
        /// Nothing: the slice is only accounted
        Shared,
    }
}

words! {
    /// What an agent does when cut off.
    OnDisconnect => fgpu_wire::v1::OnDisconnect {
        /// It keeps running (the default)
        Keep,
        /// It is stopped
        Stop,
    }
}

words! {
    /// What the manager does when a node is lost.
    OnLost => fgpu_wire::v1::OnLost {
        /// Wait for the node to come back (the default)
        Wait,
        /// Place it anew; needs `--on-disconnect stop`
        Replace,
        /// End it as failed; needs `--on-disconnect stop`
        Fail,
    }
}
