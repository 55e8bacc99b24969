//! Whether a grant may be started here: the manager decides, the agent checks.
//!
//! Defence in depth: whatever the manager says, the slices an agent starts never sum to more than
//! a device, and it never starts one on a device it does not have.

use crate::ends;
use fgpu_domain::device::Device;
use fgpu_domain::ids::{DeviceUuid, NodeName};
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::slice::{Demand, Grant};
use fgpu_domain::units::ComputeMilli;
use std::collections::BTreeMap;

/// A grant that is held on the node, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Who holds it.
    pub by: &'a PlacementId,
    /// What.
    pub grant: &'a Grant,
    /// Whether it is on its way out: then a conflict passes by itself.
    pub leaving: bool,
}

/// Whether a placement may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Start,
    /// It may when these have gone.
    WaitFor(Vec<PlacementId>),
    /// It may not.
    Refuse {
        /// Stable code.
        code: &'static str,
        /// For people, with the numbers.
        message: String,
    },
}

/// Whether `wanted` may start as `id` on the node `node` with `devices`, beside what is `held`. MIG
/// instances are among `devices`, as [`fgpu_domain::device::with_instances`] makes them.
///
/// An earlier placement of the same session always has to be gone first: a session runs once.
#[must_use]
pub fn admit(
    id: &PlacementId,
    wanted: &Grant,
    node: &NodeName,
    devices: &[Device],
    held: &[Held<'_>],
) -> Verdict {
    if wanted.node != *node {
        let message = format!("the grant is for node {}, this is {node}", wanted.node);
        return Verdict::Refuse { code: ends::BAD_ORDER, message };
    }
    let others: Vec<&Held<'_>> = held.iter().filter(|other| other.by != id).collect();
    let earlier = others.iter().filter(|other| other.by.session == id.session);
    let mut wait: Vec<PlacementId> = earlier.map(|other| other.by.clone()).collect();
    for (uuid, demand) in demands(wanted) {
        let Some(device) = devices.iter().find(|device| device.uuid == uuid) else {
            return Verdict::Refuse {
                code: ends::DEVICE_UNKNOWN,
                message: unknown(&uuid, devices),
            };
        };
        if device.is_partitioned() {
            return Verdict::Refuse { code: ends::SLICE_CONFLICT, message: partitioned(device) };
        }
        let whole = Demand { memory: device.memory, compute: ComputeMilli::WHOLE };
        let users: Vec<&&Held<'_>> = others
            .iter()
            .filter(|other| other.grant.slices.iter().any(|slice| slice.device == uuid))
            .collect();
        let staying = sum(&users, &uuid, |other| !other.leaving);
        if !demand.saturating_add(staying).fits(whole) {
            return Verdict::Refuse {
                code: ends::SLICE_CONFLICT,
                message: conflict(device, demand, staying),
            };
        }
        if !demand.saturating_add(sum(&users, &uuid, |_| true)).fits(whole) {
            let leaving = users.iter().filter(|other| other.leaving);
            wait.extend(leaving.map(|other| other.by.clone()));
        }
    }
    if wait.is_empty() {
        return Verdict::Start;
    }
    wait.sort();
    wait.dedup();
    Verdict::WaitFor(wait)
}

/// What a grant takes from each device, should it name one twice.
fn demands(grant: &Grant) -> BTreeMap<DeviceUuid, Demand> {
    let mut demands = BTreeMap::<DeviceUuid, Demand>::new();
    for slice in &grant.slices {
        let sum = demands.entry(slice.device.clone()).or_default();
        *sum = sum.saturating_add(slice.demand());
    }
    demands
}

fn sum(users: &[&&Held<'_>], uuid: &DeviceUuid, which: impl Fn(&Held<'_>) -> bool) -> Demand {
    users
        .iter()
        .filter(|other| which(other))
        .flat_map(|other| &other.grant.slices)
        .filter(|slice| slice.device == *uuid)
        .fold(Demand::default(), |sum, slice| sum.saturating_add(slice.demand()))
}

fn unknown(uuid: &DeviceUuid, devices: &[Device]) -> String {
    let known: Vec<&str> = devices.iter().map(|device| device.uuid.as_str()).collect();
    match known.is_empty() {
        true => format!("device {uuid} is not on this node, which has none"),
        false => format!("device {uuid} is not on this node, which has {}", known.join(", ")),
    }
}

fn partitioned(card: &Device) -> String {
    let instances = card.instances().len();
    format!(
        "device {} is partitioned by MIG: only its {instances} instances can be given, `--mig PROFILE`",
        card.uuid
    )
}

fn conflict(device: &Device, wanted: Demand, held: Demand) -> String {
    format!(
        "device {}: {} and {} are asked for, {} and {} of {} and {} are held by others",
        device.uuid,
        wanted.memory,
        wanted.compute,
        held.memory,
        held.compute,
        device.memory,
        ComputeMilli::WHOLE,
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::order::tests::order;
    use fgpu_domain::device::{DeviceHealth, MigInstance, MigState, with_instances};
    use fgpu_domain::ids::SessionId;
    use fgpu_domain::units::MemoryBytes;

    pub(crate) fn device(uuid: &str, index: u32) -> Device {
        Device {
            uuid: DeviceUuid::new(uuid).unwrap(),
            index,
            model: "NVIDIA H100 80GB HBM3".to_owned(),
            memory: MemoryBytes::gib(80),
            multiprocessors: Some(132),
            pci_bus_id: None,
            numa_node: Some(0),
            nvlink_peers: Vec::new(),
            mig: MigState::Disabled,
            health: DeviceHealth::Healthy,
            simulated: true,
        }
    }

    pub(crate) fn instance(uuid: &str) -> MigInstance {
        MigInstance {
            uuid: DeviceUuid::new(uuid).unwrap(),
            profile: "1g.10gb".to_owned(),
            memory: MemoryBytes::gib(10),
            multiprocessors: 16,
            health: DeviceHealth::Healthy,
        }
    }

    pub(crate) fn id(session: &str, generation: u64) -> PlacementId {
        PlacementId { session: SessionId::new(session).unwrap(), generation }
    }

    fn verdict(held: &[(&PlacementId, bool)], devices: &[&str]) -> Verdict {
        let half = order(&["GPU-1"]).grant;
        let held: Vec<Held<'_>> =
            held.iter().map(|(by, leaving)| Held { by, grant: &half, leaving: *leaving }).collect();
        let node = NodeName::new("a1").unwrap();
        admit(&id("aaaaaaaa", 2), &order(devices).grant, &node, &[device("GPU-1", 0)], &held)
    }

    #[test]
    fn slices_never_sum_to_more_than_the_device() {
        let (b, c) = (id("bbbbbbbb", 1), id("cccccccc", 1));

        assert_eq!(verdict(&[(&b, false)], &["GPU-1"]), Verdict::Start);
        let refused = verdict(&[(&b, false), (&c, false)], &["GPU-1"]);
        let Verdict::Refuse { code, message } = refused else { panic!("{refused:?}") };
        assert_eq!(code, ends::SLICE_CONFLICT);
        assert!(message.contains("80 GiB"), "{message}");
        let twice = verdict(&[(&b, false)], &["GPU-1", "GPU-1"]);
        assert!(matches!(twice, Verdict::Refuse { .. }), "{twice:?}");
    }

    #[test]
    fn what_is_on_its_way_out_is_waited_for() {
        let (b, c) = (id("bbbbbbbb", 1), id("cccccccc", 1));

        let verdict = verdict(&[(&b, false), (&c, true)], &["GPU-1"]);

        assert_eq!(verdict, Verdict::WaitFor(vec![c]));
    }

    #[test]
    fn an_earlier_placement_of_the_same_session_is_waited_for() {
        let earlier = id("aaaaaaaa", 1);

        assert_eq!(verdict(&[(&earlier, true)], &[]), Verdict::WaitFor(vec![earlier]));
    }

    #[test]
    fn of_a_partitioned_card_only_instances_start_each_once() {
        let mut card = device("GPU-1", 0);
        card.mig = MigState::Enabled { instances: vec![instance("MIG-1"), instance("MIG-2")] };
        let devices = with_instances(&[card]);
        let node = NodeName::new("a1").unwrap();
        let mut grant = order(&["MIG-1"]).grant;
        (grant.slices[0].memory, grant.slices[0].compute) =
            (MemoryBytes::gib(10), ComputeMilli::WHOLE);
        let (first, second) = (id("aaaaaaaa", 1), id("bbbbbbbb", 1));
        let held = [Held { by: &second, grant: &grant, leaving: false }];

        assert_eq!(admit(&first, &grant, &node, &devices, &[]), Verdict::Start);
        let taken = admit(&first, &grant, &node, &devices, &held);
        assert!(matches!(taken, Verdict::Refuse { code: ends::SLICE_CONFLICT, .. }), "{taken:?}");
        let mut other = grant.clone();
        other.slices[0].device = DeviceUuid::new("MIG-2").unwrap();
        assert_eq!(admit(&first, &other, &node, &devices, &held), Verdict::Start);
        let card = admit(&first, &order(&["GPU-1"]).grant, &node, &devices, &[]);
        let Verdict::Refuse { message, .. } = card else { panic!("{card:?}") };
        assert!(message.contains("only its 2 instances"), "{message}");
    }

    #[test]
    fn a_device_of_another_node_is_refused_by_name() {
        let refused = verdict(&[], &["GPU-9"]);

        let Verdict::Refuse { code, message } = refused else { panic!("{refused:?}") };
        assert_eq!(code, ends::DEVICE_UNKNOWN);
        assert_eq!(message, "device GPU-9 is not on this node, which has GPU-1");
    }

    #[test]
    fn a_grant_for_another_node_is_refused() {
        let other = NodeName::new("b2").unwrap();
        let verdict = admit(&id("aaaaaaaa", 1), &order(&[]).grant, &other, &[], &[]);

        assert!(matches!(verdict, Verdict::Refuse { code: ends::BAD_ORDER, .. }), "{verdict:?}");
    }
}
