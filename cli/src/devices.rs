//! `fgpu device …`: the map, device → slices → sessions.

use clap::{Args, Subcommand};
use fgpu_wire::v1::{CordonDeviceRequest, Device, ListDevicesRequest, UncordonDeviceRequest};

use crate::connect::{ConnectArgs, Link, Repeat};
use crate::failure::Failure;
use crate::output::{self, ListArgs, Table};
use crate::view::{self, DeviceView};

/// `fgpu device …`
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Show every device with its slices and the sessions that hold them
    #[command(visible_alias = "ls")]
    List(DeviceListArgs),
    /// Stop new slices on a device; those it holds stay
    Cordon(DeviceArgs),
    /// Allow new slices on a device again
    Uncordon(DeviceArgs),
}

/// `fgpu device list`
#[derive(Debug, Args)]
pub(crate) struct DeviceListArgs {
    /// Only those of this node
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    node: String,
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Verbs that take one device.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// UUID of the device, see `fgpu device list`
    #[arg(value_name = "UUID")]
    uuid: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `fgpu device …`.
pub(crate) async fn run(command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::List(args) => {
            let devices = fetch(&args.connect.link()?, &args.node).await?;
            let views: Vec<_> = devices.into_iter().map(DeviceView::from).collect();
            args.list.print(&views, |view| view.uuid.clone(), table)
        }
        DeviceCommand::Cordon(args) => {
            let request = CordonDeviceRequest { uuid: args.uuid.clone() };
            let link = args.connect.link()?;
            link.call(Repeat::Safe, async |c| c.devices().cordon_device(request.clone()).await)
                .await?;
            output::say(format!("device {} takes no new slices", args.uuid));
            Ok(())
        }
        DeviceCommand::Uncordon(args) => {
            let request = UncordonDeviceRequest { uuid: args.uuid.clone() };
            let link = args.connect.link()?;
            link.call(Repeat::Safe, async |c| c.devices().uncordon_device(request.clone()).await)
                .await?;
            output::say(format!("device {} takes new slices again", args.uuid));
            Ok(())
        }
    }
}

/// The devices of `node`, or of all nodes where it is empty.
pub(crate) async fn fetch(link: &Link, node: &str) -> Result<Vec<Device>, Failure> {
    let request = ListDevicesRequest { node: node.to_owned() };
    let answer =
        link.call(Repeat::Safe, async |c| c.devices().list_devices(request.clone()).await).await?;
    Ok(answer.devices)
}

/// The map for people: a line for each device with what is free, and below it one for each slice.
pub(crate) fn table(devices: &[DeviceView]) -> Table {
    let mut table =
        Table::new(&["NODE", "DEVICE", "MODEL", "FGPU", "MEMORY", "COMPUTE", "ISOLATION", "STATE"]);
    for device in devices {
        let simulated = if device.simulated { " (simulated)" } else { "" };
        let capacity = fgpu_domain::units::Fgpu(device.capacity_fgpu_milli);
        let free = fgpu_domain::units::Fgpu(device.free_fgpu_milli);
        table.plain_row([
            device.node.clone(),
            format!("{} {}", device.index, device.uuid),
            format!("{}{simulated}", device.model),
            format!("{free} of {capacity} free"),
            format!(
                "{} of {} free",
                view::gib(device.free_memory_bytes),
                view::gib(device.memory_bytes)
            ),
            match device.mig_mode.as_deref() {
                Some("enabled") => "by instance".to_owned(),
                _ => format!("{} free", view::percent(device.free_compute_milli)),
            },
            String::new(),
            device.state(),
        ]);
        for (at, slice) in device.slices.iter().enumerate() {
            let branch = if at + 1 == device.slices.len() { "└" } else { "├" };
            let name = slice.session_name.as_ref().map(|name| format!(" {name}"));
            let compute = match slice.compute_milli {
                0 => "shared".to_owned(),
                milli => view::percent(milli),
            };
            let used = slice.memory_used_bytes.map(|used| format!(" ({} used)", view::gib(used)));
            table.plain_row([
                String::new(),
                format!("{branch} {}{}", slice.session_id, name.unwrap_or_default()),
                slice.owner.clone(),
                fgpu_domain::units::Fgpu(slice.fgpu_milli).to_string(),
                format!("{}{}", view::gib(slice.memory_bytes), used.unwrap_or_default()),
                compute,
                slice.isolation.clone().unwrap_or_default(),
                slice.phase.clone().unwrap_or_default(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_wire::v1;

    #[test]
    fn the_map_shows_each_device_what_is_free_and_who_holds_the_rest() {
        let slice = v1::DeviceSlice {
            session_id: "abcd1234".into(),
            session_name: "train".into(),
            owner: "ann".into(),
            slice: Some(v1::Slice {
                device_uuid: "SIM-1".into(),
                memory_bytes: 20 << 30,
                compute_milli: 250,
                fgpu_milli: 2_500,
            }),
            isolation: v1::Isolation::Shared.into(),
            phase: v1::Phase::Running.into(),
            memory_used_bytes: Some(1 << 30),
        };
        let device = v1::Device {
            node: "a1".into(),
            info: Some(v1::DeviceInfo {
                uuid: "SIM-1".into(),
                model: "H100-80GB".into(),
                memory_bytes: 80 << 30,
                simulated: true,
                ..v1::DeviceInfo::default()
            }),
            capacity_fgpu_milli: 10_000,
            allocatable_fgpu_milli: 7_500,
            allocated_memory_bytes: 20 << 30,
            allocated_compute_milli: 250,
            slices: vec![slice],
            ..v1::Device::default()
        };

        assert_eq!(
            table(&[device.into()]).render(),
            "NODE  DEVICE            MODEL                  FGPU            MEMORY                 COMPUTE    ISOLATION  STATE\n\
             a1    0 SIM-1           H100-80GB (simulated)  7.5 of 10 free  60 GiB of 80 GiB free  75 % free             ready\n      \
             └ abcd1234 train  ann                    2.5             20 GiB (1 GiB used)    25 %       shared     running\n"
        );
    }

    #[test]
    fn a_partitioned_card_goes_before_its_instances() {
        let info = |uuid: &str, model: &str, gib: u64| v1::DeviceInfo {
            uuid: uuid.into(),
            model: model.into(),
            memory_bytes: gib << 30,
            ..v1::DeviceInfo::default()
        };
        let mut card = v1::Device {
            node: "a1".into(),
            info: Some(info("GPU-1", "H100", 80)),
            capacity_fgpu_milli: 10_000,
            allocatable_fgpu_milli: 8_750,
            allocated_memory_bytes: 10 << 30,
            blocked: "partitioned by MIG".into(),
            ..v1::Device::default()
        };
        card.info.as_mut().unwrap().set_mig_mode(v1::MigMode::Enabled);
        let instance = v1::Device {
            node: "a1".into(),
            info: Some(info("MIG-1", "H100 MIG 1g.10gb", 10)),
            capacity_fgpu_milli: 1_250,
            allocatable_fgpu_milli: 1_250,
            mig_profile: "1g.10gb".into(),
            mig_card: "GPU-1".into(),
            ..v1::Device::default()
        };

        assert_eq!(
            table(&[card.into(), instance.into()]).render(),
            "NODE  DEVICE   MODEL             FGPU               MEMORY                 COMPUTE      ISOLATION  STATE\n\
             a1    0 GPU-1  H100              8.75 of 10 free    70 GiB of 80 GiB free  by instance             partitioned by MIG\n\
             a1    0 MIG-1  H100 MIG 1g.10gb  1.25 of 1.25 free  10 GiB of 10 GiB free  100 % free              ready\n"
        );
    }
}
