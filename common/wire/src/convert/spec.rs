//! Session specifications.

use super::{id, nonzero, optional_text};
use crate::error::CallError;
use crate::v1;
use fgpu_domain::session::{
    Arrangement, ComputePolicy, Condition, Dependency, Mount, OnDisconnect, OnLost, Resources,
    SessionKind, SessionSpec,
};
use fgpu_domain::slice::{
    ComputeRequest, GpuAmount, GpuRequest, Isolation, MigProfile, NoMigProfile, Split,
};
use fgpu_domain::time::UnixMillis;
use fgpu_domain::units::{ComputeMilli, CpuMilli, Fgpu, MemoryBytes};
use std::num::NonZeroU32;

/// Grace of a session that names none, milliseconds.
pub const DEFAULT_STOP_GRACE_MS: u64 = 10_000;

/// What a request that leaves something out gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecDefaults {
    /// CPU.
    pub cpu: CpuMilli,
    /// Host memory.
    pub memory: MemoryBytes,
}

/// Reads a specification.
///
/// # Errors
/// The first field that is out of range, as its flag is called.
pub fn session_spec(
    spec: v1::SessionSpec,
    defaults: SpecDefaults,
) -> Result<SessionSpec, CallError> {
    let name = optional_text(spec.name.clone());
    let arrangement = arrangement(spec.arrangement(), &spec.spread_over)?;
    Ok(SessionSpec {
        name: name.map(|name| id("--name", &name)).transpose()?,
        kind: kind(spec.kind()),
        compute_policy: compute_policy(spec.compute_policy()),
        isolation: isolation(spec.isolation()),
        on_disconnect: on_disconnect(spec.on_disconnect()),
        on_lost: on_lost(spec.on_lost()),
        resources: Resources {
            gpu: spec.gpu.map(gpu_request).transpose()?,
            cpu: nonzero(spec.cpu_milli).map_or(defaults.cpu, CpuMilli),
            memory: nonzero(spec.memory_bytes).map_or(defaults.memory, MemoryBytes),
            shm: nonzero(spec.shm_bytes).map(MemoryBytes),
        },
        node: optional_text(spec.node).map(|node| id("--node", &node)).transpose()?,
        publish: spec.publish.into_iter().map(port).collect::<Result<_, _>>()?,
        mounts: spec.mounts.into_iter().map(mount).collect(),
        image: spec.image,
        entrypoint: spec.entrypoint,
        command: spec.command,
        env: spec.env,
        workdir: optional_text(spec.workdir),
        user: optional_text(spec.user),
        tty: spec.tty,
        node_labels: spec.node_labels,
        priority: spec.priority,
        time_limit_ms: nonzero(spec.time_limit_ms),
        stop_grace_ms: nonzero(spec.stop_grace_ms).unwrap_or(DEFAULT_STOP_GRACE_MS),
        labels: spec.labels,
        project: optional_text(spec.project).map(|name| id("--project", &name)).transpose()?,
        class: optional_text(spec.class).map(|name| id("--class", &name)).transpose()?,
        after: spec.after.iter().map(dependency).collect::<Result<_, _>>()?,
        start_at: nonzero(spec.start_at_ms).map(UnixMillis),
        pending_timeout_ms: nonzero(spec.pending_timeout_ms),
        movable: spec.movable,
        arrangement,
    })
}

fn dependency(after: &v1::Dependency) -> Result<Dependency, CallError> {
    let condition = match after.condition() {
        v1::DependencyCondition::Unspecified | v1::DependencyCondition::Ok => Condition::Ok,
        v1::DependencyCondition::Any => Condition::Any,
    };
    Ok(Dependency { session: id("--after", &after.session)?, condition })
}

fn gpu_request(gpu: v1::GpuRequest) -> Result<GpuRequest, CallError> {
    let split = match gpu.split() {
        v1::Split::Unspecified => None,
        v1::Split::Even => Some(Split::Even),
        v1::Split::Fill => Some(Split::Fill),
    };
    let mut mig = None;
    let amount = match gpu.amount {
        None => return Err(CallError::field("--fgpu", "", "say how much GPU")),
        Some(v1::gpu_request::Amount::FgpuMilli(milli)) => GpuAmount::Fgpu(Fgpu(milli)),
        Some(v1::gpu_request::Amount::WholeDevices(count)) => {
            let none = || CallError::field("--gpus", 0, "at least one whole device");
            GpuAmount::Whole(NonZeroU32::new(count).ok_or_else(none)?)
        }
        Some(v1::gpu_request::Amount::Direct(direct)) => direct_amount(&direct)?,
        Some(v1::gpu_request::Amount::Mig(instances)) => {
            let named: Result<MigProfile, NoMigProfile> = instances.profile.parse();
            let rule = "as `nvidia-smi mig -lgip` names it, such as 1g.10gb";
            let profile = named.map_err(|error| CallError::field("--mig", error.0, rule))?;
            mig = Some(profile);
            GpuAmount::Whole(NonZeroU32::new(instances.count).unwrap_or(NonZeroU32::MIN))
        }
    };
    Ok(GpuRequest { amount, devices: NonZeroU32::new(gpu.devices), split, models: gpu.models, mig })
}

fn direct_amount(direct: &v1::DirectGpu) -> Result<GpuAmount, CallError> {
    if direct.compute_milli > ComputeMilli::WHOLE.0 {
        let given = format!("{} ‰", direct.compute_milli);
        return Err(CallError::field("--gpu-compute", given, "at most one device, 1000 ‰"));
    }
    if direct.compute_shared && direct.compute_milli != 0 {
        let rule = "either a share or `shared`";
        return Err(CallError::field("--gpu-compute", direct.compute_milli, rule));
    }
    let compute = match (direct.compute_shared, direct.compute_milli) {
        (true, _) => ComputeRequest::Shared,
        (false, 0) => ComputeRequest::Proportional,
        (false, milli) => ComputeRequest::Share(ComputeMilli(milli)),
    };
    let memory = nonzero(direct.memory_bytes).map(MemoryBytes);
    Ok(GpuAmount::Direct { memory, compute })
}

fn port(port: u32) -> Result<u16, CallError> {
    u16::try_from(port).map_err(|_| CallError::field("--publish", port, "a port up to 65535"))
}

fn mount(mount: v1::Mount) -> Mount {
    Mount { source: mount.source, target: mount.target, read_only: mount.read_only }
}

fn kind(kind: v1::SessionKind) -> SessionKind {
    match kind {
        v1::SessionKind::Unspecified | v1::SessionKind::Batch => SessionKind::Batch,
        v1::SessionKind::Interactive => SessionKind::Interactive,
    }
}

fn compute_policy(policy: v1::ComputePolicy) -> ComputePolicy {
    match policy {
        v1::ComputePolicy::Unspecified | v1::ComputePolicy::Hard => ComputePolicy::Hard,
        v1::ComputePolicy::Burst => ComputePolicy::Burst,
        v1::ComputePolicy::Weight => ComputePolicy::Weight,
    }
}

fn on_disconnect(choice: v1::OnDisconnect) -> OnDisconnect {
    match choice {
        v1::OnDisconnect::Unspecified | v1::OnDisconnect::Keep => OnDisconnect::Keep,
        v1::OnDisconnect::Stop => OnDisconnect::Stop,
    }
}

fn arrangement(arrangement: v1::Arrangement, over: &str) -> Result<Option<Arrangement>, CallError> {
    match arrangement {
        v1::Arrangement::Spread if over.is_empty() => Ok(Some(Arrangement::Spread)),
        v1::Arrangement::Spread => Ok(Some(Arrangement::SpreadOver(over.to_owned()))),
        v1::Arrangement::Unspecified | v1::Arrangement::Pack if !over.is_empty() => {
            Err(CallError::field("--spread", over, "a label only says over what to spread"))
        }
        v1::Arrangement::Unspecified => Ok(None),
        v1::Arrangement::Pack => Ok(Some(Arrangement::Pack)),
    }
}

fn wire_arrangement(arrangement: Option<&Arrangement>) -> v1::Arrangement {
    match arrangement {
        None => v1::Arrangement::Unspecified,
        Some(Arrangement::Pack) => v1::Arrangement::Pack,
        Some(Arrangement::Spread | Arrangement::SpreadOver(_)) => v1::Arrangement::Spread,
    }
}

fn on_lost(choice: v1::OnLost) -> OnLost {
    match choice {
        v1::OnLost::Unspecified | v1::OnLost::Wait => OnLost::Wait,
        v1::OnLost::Replace => OnLost::Replace,
        v1::OnLost::Fail => OnLost::Fail,
    }
}

/// `None` for the wire's unspecified.
pub(crate) fn isolation(isolation: v1::Isolation) -> Option<Isolation> {
    match isolation {
        v1::Isolation::Unspecified => None,
        v1::Isolation::Whole => Some(Isolation::Whole),
        v1::Isolation::Mig => Some(Isolation::Mig),
        v1::Isolation::Driver => Some(Isolation::Driver),
        v1::Isolation::Interposer => Some(Isolation::Interposer),
        v1::Isolation::Shared => Some(Isolation::Shared),
    }
}

impl From<&SessionSpec> for v1::SessionSpec {
    fn from(spec: &SessionSpec) -> Self {
        let Resources { gpu, cpu, memory, shm } = &spec.resources;
        Self {
            name: spec.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            kind: match spec.kind {
                SessionKind::Batch => v1::SessionKind::Batch,
                SessionKind::Interactive => v1::SessionKind::Interactive,
            }
            .into(),
            image: spec.image.clone(),
            entrypoint: spec.entrypoint.clone(),
            command: spec.command.clone(),
            env: spec.env.clone(),
            workdir: spec.workdir.clone().unwrap_or_default(),
            user: spec.user.clone().unwrap_or_default(),
            mounts: spec.mounts.iter().map(Into::into).collect(),
            publish: spec.publish.iter().copied().map(u32::from).collect(),
            tty: spec.tty,
            gpu: gpu.as_ref().map(Into::into),
            cpu_milli: cpu.0,
            memory_bytes: memory.0,
            shm_bytes: shm.map_or(0, |shm| shm.0),
            compute_policy: match spec.compute_policy {
                ComputePolicy::Hard => v1::ComputePolicy::Hard,
                ComputePolicy::Burst => v1::ComputePolicy::Burst,
                ComputePolicy::Weight => v1::ComputePolicy::Weight,
            }
            .into(),
            isolation: spec
                .isolation
                .map_or(v1::Isolation::Unspecified, v1::Isolation::from)
                .into(),
            node: spec.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            node_labels: spec.node_labels.clone(),
            priority: spec.priority,
            time_limit_ms: spec.time_limit_ms.unwrap_or(0),
            stop_grace_ms: spec.stop_grace_ms,
            on_disconnect: match spec.on_disconnect {
                OnDisconnect::Keep => v1::OnDisconnect::Keep,
                OnDisconnect::Stop => v1::OnDisconnect::Stop,
            }
            .into(),
            on_lost: match spec.on_lost {
                OnLost::Wait => v1::OnLost::Wait,
                OnLost::Replace => v1::OnLost::Replace,
                OnLost::Fail => v1::OnLost::Fail,
            }
            .into(),
            labels: spec.labels.clone(),
            project: spec.project.as_ref().map(ToString::to_string).unwrap_or_default(),
            class: spec.class.as_ref().map(ToString::to_string).unwrap_or_default(),
            after: spec.after.iter().map(Into::into).collect(),
            start_at_ms: spec.start_at.map_or(0, |at| at.0),
            pending_timeout_ms: spec.pending_timeout_ms.unwrap_or(0),
            movable: spec.movable,
            arrangement: wire_arrangement(spec.arrangement.as_ref()).into(),
            spread_over: match &spec.arrangement {
                Some(Arrangement::SpreadOver(label)) => label.clone(),
                None | Some(Arrangement::Pack | Arrangement::Spread) => String::new(),
            },
        }
    }
}

impl From<&Dependency> for v1::Dependency {
    fn from(after: &Dependency) -> Self {
        let condition = match after.condition {
            Condition::Ok => v1::DependencyCondition::Ok,
            Condition::Any => v1::DependencyCondition::Any,
        };
        Self { session: after.session.to_string(), condition: condition.into() }
    }
}

impl From<&Mount> for v1::Mount {
    fn from(mount: &Mount) -> Self {
        Self {
            source: mount.source.clone(),
            target: mount.target.clone(),
            read_only: mount.read_only,
        }
    }
}

impl From<&GpuRequest> for v1::GpuRequest {
    fn from(gpu: &GpuRequest) -> Self {
        use v1::gpu_request::Amount;
        let amount = match gpu.amount {
            GpuAmount::Whole(count) if gpu.mig.is_some() => Amount::Mig(v1::MigInstances {
                profile: gpu.mig.as_ref().map(ToString::to_string).unwrap_or_default(),
                count: count.get(),
            }),
            GpuAmount::Fgpu(amount) => Amount::FgpuMilli(amount.0),
            GpuAmount::Whole(count) => Amount::WholeDevices(count.get()),
            GpuAmount::Direct { memory, compute } => Amount::Direct(v1::DirectGpu {
                memory_bytes: memory.map_or(0, |memory| memory.0),
                compute_milli: match compute {
                    ComputeRequest::Share(milli) => milli.0,
                    ComputeRequest::Proportional | ComputeRequest::Shared => 0,
                },
                compute_shared: compute == ComputeRequest::Shared,
            }),
        };
        Self {
            amount: Some(amount),
            devices: gpu.devices.map_or(0, NonZeroU32::get),
            split: match gpu.split {
                None => v1::Split::Unspecified,
                Some(Split::Even) => v1::Split::Even,
                Some(Split::Fill) => v1::Split::Fill,
            }
            .into(),
            models: gpu.models.clone(),
        }
    }
}

impl From<Isolation> for v1::Isolation {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Whole => Self::Whole,
            Isolation::Mig => Self::Mig,
            Isolation::Driver => Self::Driver,
            Isolation::Interposer => Self::Interposer,
            Isolation::Shared => Self::Shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> SpecDefaults {
        SpecDefaults { cpu: CpuMilli::cores(1), memory: MemoryBytes::gib(2) }
    }

    fn after((number, condition): (usize, Condition)) -> Dependency {
        Dependency { session: format!("abcdefgh{number}").parse().unwrap(), condition }
    }

    fn full() -> SessionSpec {
        let gpu = GpuRequest {
            amount: GpuAmount::Direct {
                memory: Some(MemoryBytes::gib(20)),
                compute: ComputeRequest::Share(ComputeMilli(300)),
            },
            devices: NonZeroU32::new(2),
            split: Some(Split::Fill),
            models: vec!["H100".into()],
            mig: None,
        };
        let resources = Resources {
            gpu: Some(gpu),
            cpu: CpuMilli(2_500),
            memory: MemoryBytes::gib(3),
            shm: Some(MemoryBytes::gib(1)),
        };
        let pair = |key: &str| [(key.to_owned(), "v".to_owned())].into_iter().collect();
        SessionSpec {
            name: Some("train-1".parse().unwrap()),
            kind: SessionKind::Interactive,
            image: "img:1".into(),
            entrypoint: vec!["sh".into()],
            env: pair("E"),
            workdir: Some("/w".into()),
            user: Some("1000".into()),
            mounts: vec![Mount { source: "/a".into(), target: "/b".into(), read_only: true }],
            publish: vec![8080],
            tty: true,
            compute_policy: ComputePolicy::Burst,
            isolation: Some(Isolation::Shared),
            node: Some("a1".parse().unwrap()),
            node_labels: pair("rack"),
            priority: -5,
            time_limit_ms: Some(60_000),
            stop_grace_ms: 1_000,
            on_disconnect: OnDisconnect::Stop,
            on_lost: OnLost::Replace,
            labels: pair("team"),
            project: Some("research".parse().unwrap()),
            class: Some("high".parse().unwrap()),
            after: [Condition::Ok, Condition::Any].into_iter().enumerate().map(after).collect(),
            start_at: Some(UnixMillis(1_800_000_000_000)),
            pending_timeout_ms: Some(3_600_000),
            movable: true,
            arrangement: Some(Arrangement::SpreadOver("fgpu.io/rack".into())),
            ..SessionSpec::new(vec!["python".into()], resources)
        }
    }

    #[test]
    fn a_specification_comes_back_as_it_was_sent() {
        let spec = full();
        assert_eq!(session_spec((&spec).into(), defaults()), Ok(spec));
    }

    #[test]
    fn mig_instances_come_back_as_they_were_sent_and_one_is_meant_where_none_is_counted() {
        let mut spec = full();
        let count = NonZeroU32::new(2).unwrap();
        spec.resources.gpu = Some(GpuRequest::mig("1g.10gb+me".parse().unwrap(), count));
        assert_eq!(session_spec((&spec).into(), defaults()), Ok(spec.clone()));

        let mut wire = v1::SessionSpec::from(&spec);
        let asked = |profile: &str, count| {
            let instances = v1::MigInstances { profile: profile.into(), count };
            let amount = Some(v1::gpu_request::Amount::Mig(instances));
            Some(v1::GpuRequest { amount, ..v1::GpuRequest::default() })
        };
        wire.gpu = asked("1g.10gb", 0);
        let read = session_spec(wire.clone(), defaults()).unwrap();
        assert_eq!(read.resources.gpu.unwrap().to_string(), "1 MIG instance of 1g.10gb");
        wire.gpu = asked("10gb", 1);
        let refused = session_spec(wire, defaults()).unwrap_err();
        assert_eq!(refused.fields[0].field, "--mig");
    }

    #[test]
    fn what_is_left_out_gets_the_defaults() {
        let spec = session_spec(v1::SessionSpec::default(), defaults()).unwrap();

        assert_eq!(spec.resources.cpu, CpuMilli::cores(1));
        assert_eq!(spec.resources.memory, MemoryBytes::gib(2));
        assert_eq!(spec.resources.gpu, None);
        assert_eq!(spec.stop_grace_ms, DEFAULT_STOP_GRACE_MS);
        assert_eq!(spec.isolation, None);
    }

    #[test]
    fn a_field_out_of_range_is_named_as_its_flag() {
        let bad = |change: fn(&mut v1::SessionSpec)| {
            let mut spec = v1::SessionSpec::from(&full());
            change(&mut spec);
            session_spec(spec, defaults()).unwrap_err().fields[0].field.clone()
        };
        assert_eq!(bad(|s| s.name = "No!".into()), "--name");
        assert_eq!(bad(|s| s.node = "-".into()), "--node");
        assert_eq!(bad(|s| s.project = "No!".into()), "--project");
        assert_eq!(bad(|s| s.class = "No!".into()), "--class");
        assert_eq!(bad(|s| s.after[0].session = "short".into()), "--after");
        assert_eq!(bad(|s| s.publish = vec![70_000]), "--publish");
        assert_eq!(bad(|s| s.gpu = Some(v1::GpuRequest::default())), "--fgpu");
    }
}
