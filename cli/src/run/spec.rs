//! From flags to the specification of a session.

use std::collections::BTreeMap;
use std::path::Path;

use fgpu_wire::v1::{self, create_session_request::Members, gpu_request::Amount};

use super::args::{ContainerArgs, GpuArgs, QueueArgs, RunArgs};
use crate::failure::Failure;
use crate::output;
use crate::parse::{self, ComputeArg};

/// Holds an interactive session open until it is told to stop.
const HOLD: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";

impl RunArgs {
    /// The specification the flags describe.
    pub(crate) fn spec(&self) -> Result<v1::SessionSpec, Failure> {
        let (container, placement, queue) = (&self.container, &self.placement, &self.queue);
        let (kind, entrypoint, command) = self.program();
        let isolation = self.gpu.isolation.map_or(v1::Isolation::Unspecified, Into::into);
        let policy = self.gpu.compute_policy.map_or(v1::ComputePolicy::Unspecified, Into::into);
        let keep = placement.on_disconnect.map_or(v1::OnDisconnect::Unspecified, Into::into);
        let lost = placement.on_lost.map_or(v1::OnLost::Unspecified, Into::into);
        Ok(v1::SessionSpec {
            name: placement.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            kind: kind.into(),
            image: container.image.clone(),
            entrypoint,
            command,
            env: environment(container)?,
            workdir: container.workdir.clone().unwrap_or_default(),
            user: container.user.clone().unwrap_or_default(),
            mounts: container.volume.iter().map(mount).collect(),
            publish: container.publish.iter().map(|port| u32::from(*port)).collect(),
            tty: self.attach.tty && !self.attach.interactive,
            gpu: self.gpu.request()?,
            cpu_milli: container.cpu.unwrap_or_default().0,
            memory_bytes: container.memory.unwrap_or_default().0,
            shm_bytes: container.shm.unwrap_or_default().0,
            compute_policy: policy.into(),
            isolation: isolation.into(),
            node: placement.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            node_labels: placement.node_labels.iter().cloned().collect(),
            priority: placement.priority,
            time_limit_ms: container.time_limit.map(parse::millis).unwrap_or_default(),
            stop_grace_ms: container.stop_grace.map(parse::millis).unwrap_or_default(),
            on_disconnect: keep.into(),
            on_lost: lost.into(),
            labels: placement.labels.iter().cloned().collect(),
            project: queue.project.as_ref().map(ToString::to_string).unwrap_or_default(),
            class: queue.class.as_ref().map(ToString::to_string).unwrap_or_default(),
            after: queue.after.clone(),
            start_at_ms: queue.start_at.map_or(0, |at| at.since(output::now_ms())),
            pending_timeout_ms: queue.pending_timeout.map(parse::millis).unwrap_or_default(),
            movable: queue.movable,
            arrangement: arrangement(queue).into(),
            spread_over: queue.spread.clone().unwrap_or_default(),
        })
    }

    /// How many sessions the flags describe.
    pub(crate) fn members(&self) -> Option<Members> {
        let array = self.queue.array.as_ref().map(|range| Members::Array(range.into()));
        array.or(self.queue.size.map(Members::GangSize))
    }

    /// Kind, entry point and command. An interactive session is only held open; the command runs
    /// in it with the person's terminal.
    fn program(&self) -> (v1::SessionKind, Vec<String>, Vec<String>) {
        if self.attach.interactive {
            let hold = ["/bin/sh", "-c", HOLD].map(str::to_owned).to_vec();
            return (v1::SessionKind::Interactive, hold, Vec::new());
        }
        let entrypoint = self.container.entrypoint.iter().cloned().collect();
        (v1::SessionKind::Batch, entrypoint, self.command.clone())
    }

    /// What to run with the person's terminal in an interactive session.
    pub(crate) fn interactive_command(&self) -> Vec<String> {
        let own: Vec<_> = self.container.entrypoint.iter().chain(&self.command).cloned().collect();
        if own.is_empty() { vec!["/bin/sh".to_owned()] } else { own }
    }
}

impl GpuArgs {
    /// The request, if there is any.
    fn request(&self) -> Result<Option<v1::GpuRequest>, Failure> {
        let direct = self.gpu_memory.is_some() || self.gpu_compute.is_some();
        let amount = match (self.fgpu, self.gpus, &self.mig) {
            (Some(amount), ..) => Amount::FgpuMilli(amount.0),
            (None, Some(count), _) => Amount::WholeDevices(count),
            (None, None, Some(asked)) => Amount::Mig(v1::MigInstances {
                profile: asked.profile.to_string(),
                count: asked.count,
            }),
            (None, None, None) if direct => Amount::Direct(self.direct()?),
            (None, None, None) => return self.nothing().map(|()| None),
        };
        let split = self.split.map_or(v1::Split::Unspecified, Into::into);
        Ok(Some(v1::GpuRequest {
            amount: Some(amount),
            devices: self.devices.unwrap_or_default(),
            split: split.into(),
            models: self.gpu_models.clone(),
        }))
    }

    fn direct(&self) -> Result<v1::DirectGpu, Failure> {
        let memory_bytes = self.gpu_memory.unwrap_or_default().0;
        match self.gpu_compute {
            Some(ComputeArg::Shared) if memory_bytes == 0 => {
                Err(Failure::usage("`--gpu-compute shared` alone asks for nothing")
                    .hint("say how much memory with `--gpu-memory`, e.g. `--gpu-memory 20GiB`"))
            }
            Some(ComputeArg::Shared) => {
                Ok(v1::DirectGpu { memory_bytes, compute_milli: 0, compute_shared: true })
            }
            share => {
                let milli = match share {
                    Some(ComputeArg::Share(share)) => share.0,
                    _ => 0,
                };
                Ok(v1::DirectGpu { memory_bytes, compute_milli: milli, compute_shared: false })
            }
        }
    }

    /// A session without GPU can narrow no choice of GPUs.
    fn nothing(&self) -> Result<(), Failure> {
        let narrowing = [
            ("--devices", self.devices.is_some()),
            ("--split", self.split.is_some()),
            ("--gpu-model", !self.gpu_models.is_empty()),
            ("--compute-policy", self.compute_policy.is_some()),
        ];
        match narrowing.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure::usage(format!("`{flag}` without an amount of GPU"))
                .hint("add `--fgpu`, `--gpus`, `--mig`, or `--gpu-memory` and `--gpu-compute`")),
            None => Ok(()),
        }
    }
}

fn environment(container: &ContainerArgs) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    for path in &container.env_file {
        env.extend(read_env_file(path)?);
    }
    env.extend(container.env.iter().cloned());
    Ok(env)
}

fn read_env_file(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::because(format!("cannot read the environment file `{}`", path.display()), &error)
    })?;
    parse::env_file(&text).map_err(|error| {
        Failure::usage(format!("environment file `{}` is not understood", path.display()))
            .detail(error)
    })
}

fn mount(volume: &parse::VolumeArg) -> v1::Mount {
    v1::Mount {
        source: volume.source.clone(),
        target: volume.target.clone(),
        read_only: volume.read_only,
    }
}

/// How the members of a gang lie.
fn arrangement(queue: &QueueArgs) -> v1::Arrangement {
    match (queue.pack, &queue.spread) {
        (true, _) => v1::Arrangement::Pack,
        (false, Some(_)) => v1::Arrangement::Spread,
        (false, None) => v1::Arrangement::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cli, Command};
    use clap::Parser as _;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<RunArgs, clap::Error> {
        let words = ["fgpu", "run"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    fn spec(line: &str) -> v1::SessionSpec {
        parse(line).unwrap().spec().unwrap()
    }

    fn amount(line: &str) -> Option<Amount> {
        spec(line).gpu.unwrap().amount
    }

    #[test]
    fn each_way_to_ask_for_gpu_is_one_amount() {
        assert_eq!(amount("--fgpu 10"), Some(Amount::FgpuMilli(10_000)));
        assert_eq!(amount("--fgpu 7.93"), Some(Amount::FgpuMilli(7_930)));
        assert_eq!(amount("--gpus 2"), Some(Amount::WholeDevices(2)));
        let both =
            v1::DirectGpu { memory_bytes: 20 << 30, compute_milli: 300, compute_shared: false };
        let line = "--gpu-memory 20GiB --gpu-compute 30%";
        assert_eq!(amount(line), Some(Amount::Direct(both)));
        let instances =
            |profile: &str, count| Amount::Mig(v1::MigInstances { profile: profile.into(), count });
        assert_eq!(amount("--mig 1g.10gb"), Some(instances("1g.10gb", 1)));
        assert_eq!(amount("--mig 1G.10GB+ME:3"), Some(instances("1g.10gb+me", 3)));
        assert_eq!(spec("-- true").gpu, None);
    }

    #[test]
    fn ten_gb_and_ten_gib_mean_what_they_say() {
        let bytes = |line: &str| match amount(line) {
            Some(Amount::Direct(direct)) => direct.memory_bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes("--gpu-memory 10GB"), 10_000_000_000);
        assert_eq!(bytes("--gpu-memory 10GiB"), 10 << 30);
        assert_eq!(spec("--memory 10GB").memory_bytes, 10_000_000_000);
    }

    #[test]
    fn exclusive_flags_exclude_each_other() {
        for line in [
            "--fgpu 1 --gpus 1",
            "--fgpu 1 --gpu-memory 1GiB",
            "--fgpu 1 --gpu-compute 30%",
            "--gpus 1 --gpu-memory 1GiB",
            "--gpus 1 --gpu-compute 30%",
            "--gpus 2 --devices 2",
            "--mig 1g.10gb --fgpu 1",
            "--mig 1g.10gb --gpus 1",
            "--mig 1g.10gb --gpu-memory 1GiB",
            "--mig 1g.10gb --gpu-compute 30%",
            "--mig 1g.10gb --devices 2",
            "--detach --dry-run",
            "--array 1-3 --size 3",
            "--size 3 --pack --spread",
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), ErrorKind::ArgumentConflict, "{line}");
        }
    }

    #[test]
    fn bad_amounts_are_refused_with_the_value_and_what_to_write() {
        for (line, said) in [
            ("--fgpu 0", "is nothing"),
            ("--fgpu -3", "not a number"),
            ("--fgpu ten", "such as `10`"),
            ("--fgpu 0.0001", "finer than"),
            ("--gpus 0", "from 1"),
            ("--gpus 1.5", "whole number"),
            ("--gpu-memory 10", "`20GiB`"),
            ("--gpu-memory 0GiB", "is nothing"),
            ("--gpu-compute 101%", "too large"),
            ("--gpu-compute 0", "is nothing"),
            ("--mig 10gb", "`1g.10gb`"),
            ("--mig 1g.10gb:0", "from 1"),
            ("--mig 1g.10gb:two", "whole number"),
            ("--cpu 0", "is nothing"),
            ("--memory 1Z", "unit"),
            ("--priority 1001", "1000"),
            ("--publish 0", "1 to 65535"),
            ("--time-limit 0s", "no time"),
            ("--time-limit 10", "`30s`"),
            ("--devices 0", "from 1"),
            ("--name Not_A_Name", "lower-case"),
            ("--request-id x", "8 to 64"),
            ("-v relative:/x", "absolute"),
            ("-e =x", "KEY=VALUE"),
            ("--project No!", "lower-case"),
            ("--class No!", "lower-case"),
            ("--after train:failed", "`SESSION:any`"),
            ("--start-at tomorrow", "`+2h`"),
            ("--pending-timeout 0s", "no time"),
            ("--array 9-1", "120"),
            ("--array 1..3", "`1-100`"),
            ("--array 1-1000", "120"),
            ("--size 0", "from 1"),
        ] {
            let refused = parse(line).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ValueValidation, "{line}");
            assert!(refused.to_string().contains(said), "{line}: {refused}");
        }
    }

    #[test]
    fn the_queue_is_told_what_to_wait_for_and_how_many() {
        let line = "--project research --class low --after a:any --after b --pending-timeout 1h \
                    --start-at 1970-01-01T00:00:05Z --movable --array 1-9:2%3";
        let args = parse(line).unwrap();
        let spec = args.spec().unwrap();
        assert_eq!((spec.project.as_str(), spec.class.as_str()), ("research", "low"));
        let after: Vec<_> =
            spec.after.iter().map(|a| (a.session.as_str(), a.condition())).collect();
        use v1::DependencyCondition::{Any, Ok};
        assert_eq!(after, [("a", Any), ("b", Ok)]);
        assert_eq!((spec.start_at_ms, spec.pending_timeout_ms), (5_000, 3_600_000));
        assert!(spec.movable);
        let range = v1::ArrayRange { first: 1, last: 9, step: 2, at_once: 3 };
        assert_eq!(args.members(), Some(Members::Array(range)));
        assert_eq!(parse("--size 8").unwrap().members(), Some(Members::GangSize(8)));
        use v1::Arrangement::{Pack, Spread, Unspecified};
        for (line, arrangement, over) in [
            ("--size 8", Unspecified, ""),
            ("--size 8 --pack", Pack, ""),
            ("--size 8 --spread", Spread, ""),
            ("--size 8 --spread=fgpu.io/rack", Spread, "fgpu.io/rack"),
        ] {
            let spec = parse(line).unwrap().spec().unwrap();
            assert_eq!(
                (spec.arrangement(), spec.spread_over.as_str()),
                (arrangement, over),
                "{line}"
            );
        }
        assert!(parse("--pack").is_err() && parse("--spread").is_err());
        assert_eq!(parse("true").unwrap().members(), None);
    }

    #[test]
    fn narrowing_needs_an_amount() {
        for line in ["--devices 2", "--split even", "--gpu-model H100", "--gpu-compute shared"] {
            let refused = parse(line).unwrap().spec().unwrap_err();
            assert_eq!(refused.exit, Some(2), "{line}: {refused}");
        }
    }

    #[test]
    fn what_follows_the_image_is_the_command_with_its_own_flags() {
        let spec = spec("--image busybox --fgpu 1 -- ls -l --all");
        assert_eq!(spec.command, ["ls", "-l", "--all"]);
        assert_eq!(spec.image, "busybox");
        assert_eq!(parse("--fgpu 1 python -c x").unwrap().command, ["python", "-c", "x"]);
    }

    #[test]
    fn a_wrong_flag_is_refused_and_never_taken_for_the_command() {
        for line in ["--fgpux 1 -- true", "--fgpux=1 true", "-q --gpu 1 -- true"] {
            let refused = parse(line).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::UnknownArgument, "{line}");
        }
        let parsed = parse("--fgpu 1 python train.py --epochs 3 -q").unwrap();
        assert_eq!(parsed.command, ["python", "train.py", "--epochs", "3", "-q"]);
    }

    #[test]
    fn a_variable_given_by_flag_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        std::fs::write(&path, "A=file\nB=file\n").unwrap();

        let spec = spec(&format!("--env-file {} -e A=flag", path.display()));

        assert_eq!(spec.env["A"], "flag");
        assert_eq!(spec.env["B"], "file");
        let missing = parse("--env-file /nowhere").unwrap().spec().unwrap_err();
        assert!(missing.fact.contains("/nowhere"), "{missing}");
    }

    #[test]
    fn an_interactive_session_is_held_and_its_command_runs_in_it() {
        let args = parse("-it --fgpu 1 --image x bash -l").unwrap();
        let spec = args.spec().unwrap();
        assert_eq!(spec.kind(), v1::SessionKind::Interactive);
        assert!(spec.command.is_empty() && spec.entrypoint[0] == "/bin/sh");
        assert_eq!(args.interactive_command(), ["bash", "-l"]);
        assert_eq!(parse("-i").unwrap().interactive_command(), ["/bin/sh"]);
    }
}
