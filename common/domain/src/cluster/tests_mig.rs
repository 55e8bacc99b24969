//! MIG instances in a cluster: cards that change under their sessions, quotas, records.

use super::tests::*;
use super::tests_projects::*;
use super::*;
use crate::check::check;
use crate::device::{Device, DeviceHealth, MigInstance, MigState};
use crate::node::Inventory;
use crate::placement::{DeviceBlock, DeviceView, NodeView};
use crate::project::{Project, Quota};
use crate::session::SessionSpec;
use crate::slice::{GpuRequest, Isolation};
use crate::units::Fgpu;
use std::num::NonZeroU32;

/// An instance of an eighth of a card, or of half of it.
pub(super) fn instance(uuid: &str, profile: &str) -> MigInstance {
    MigInstance {
        uuid: uuid.parse().unwrap(),
        profile: profile.to_owned(),
        memory: MemoryBytes::gib(if profile.starts_with('1') { 10 } else { 40 }),
        multiprocessors: 16,
        health: DeviceHealth::Healthy,
    }
}

/// One ordinary card and one with these instances of 1g.10gb.
pub(super) fn partitioned(node: &str, instances: &[&str]) -> Inventory {
    let mut inventory = inventory(node, 2);
    let instances = instances.iter().map(|uuid| instance(uuid, "1g.10gb")).collect();
    inventory.devices[1].mig = MigState::Enabled { instances };
    inventory
}

pub(super) fn register_with(cluster: &mut Cluster, node: &str, inventory: Inventory) {
    let input = Input::Register {
        name: node_name(node),
        agent_id: format!("agent-{node}"),
        inventory: Box::new(inventory),
        reports: Vec::new(),
    };
    cluster.apply(input, T0).unwrap();
}

pub(super) fn mig_spec(count: u32) -> SessionSpec {
    let mut spec = spec(0);
    let count = NonZeroU32::new(count).unwrap();
    spec.resources.gpu = Some(GpuRequest::mig("1g.10gb".parse().unwrap(), count));
    spec
}

fn start(instances: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(settings());
    register_with(&mut cluster, "a1", partitioned("a1", instances));
    cluster
}

/// What the agent of `a1` finds now.
fn found(cluster: &mut Cluster, inventory: Inventory) {
    let input = Input::Inventory { node: node_name("a1"), inventory: Box::new(inventory) };
    cluster.apply(input, T0).unwrap();
    cluster.schedule(T0);
    check(cluster).unwrap();
}

fn node(cluster: &Cluster) -> &NodeView {
    cluster.view().get(&node_name("a1")).unwrap()
}

fn card(cluster: &Cluster) -> &DeviceView {
    node(cluster).devices.iter().find(|device| device.index == 1).unwrap()
}

fn holds(cluster: &Cluster, id: &SessionId) -> Vec<String> {
    let grant = cluster.session(id).unwrap().phase.grant();
    let slices = grant.map(|grant| grant.slices.as_slice()).unwrap_or_default();
    slices.iter().map(|slice| slice.device.to_string()).collect()
}

#[test]
fn instances_come_behind_all_cards_and_each_has_an_index_of_its_own() {
    let mut both = partitioned("a1", &["MIG-1", "MIG-2"]);
    both.devices[0].mig = MigState::Enabled { instances: vec![instance("MIG-3", "3g.40gb")] };
    both.devices[1].numa_node = Some(1);
    let mut cluster = Cluster::new(settings());
    register_with(&mut cluster, "a1", both);

    let seen: Vec<(u32, &str)> =
        node(&cluster).devices.iter().map(|d| (d.index, d.uuid.as_str())).collect();

    let cards = [(0, "GPU-a1-0"), (1, "GPU-a1-1")];
    assert_eq!(seen, [&cards[..], &[(2, "MIG-3"), (3, "MIG-1"), (4, "MIG-2")]].concat());
    let origin = node(&cluster).devices[3].mig.clone().unwrap();
    assert_eq!((origin.profile.as_str(), origin.card.as_str()), ("1g.10gb", "GPU-a1-1"));
    assert_eq!(node(&cluster).devices[3].numa_node, Some(1), "that of its card");
    assert_eq!(card(&cluster).blocked, Some(DeviceBlock::MigEnabled));
}

#[test]
fn an_instance_is_held_until_its_session_has_gone() {
    let mut cluster = start(&["MIG-1"]);
    let first = create(&mut cluster, 1, mig_spec(1));
    let second = create(&mut cluster, 2, mig_spec(1));
    assert_eq!(holds(&cluster, &first), ["MIG-1"]);
    let grant = cluster.session(&first).unwrap().phase.grant().unwrap();
    assert_eq!(grant.isolation, Isolation::Mig);
    assert_eq!(phase(&cluster, &second).name(), "pending");

    report(&mut cluster, "a1", &first, gone(0));

    assert_eq!(holds(&cluster, &second), ["MIG-1"]);
    check(&cluster).unwrap();
}

#[test]
fn a_new_instance_lets_what_waits_start() {
    let mut cluster = start(&["MIG-1"]);
    create(&mut cluster, 1, mig_spec(1));
    let waits = create(&mut cluster, 2, mig_spec(1));

    found(&mut cluster, partitioned("a1", &["MIG-0", "MIG-1"]));

    assert_eq!(holds(&cluster, &waits), ["MIG-0"]);
}

#[test]
fn an_instance_that_vanishes_is_not_forgotten_while_it_is_held() {
    let mut cluster = start(&["MIG-1", "MIG-2"]);
    let pair = create(&mut cluster, 1, mig_spec(2));
    found(&mut cluster, partitioned("a1", &["MIG-2", "MIG-3"]));

    let gone_one = node(&cluster).devices.iter().find(|d| d.uuid.as_str() == "MIG-1").unwrap();
    assert!(matches!(gone_one.blocked, Some(DeviceBlock::Unhealthy { .. })), "{gone_one:?}");
    assert_eq!(gone_one.sessions, 1);

    let next = create(&mut cluster, 2, mig_spec(1));
    assert_eq!(holds(&cluster, &next), ["MIG-3"]);
    report(&mut cluster, "a1", &pair, gone(0));
    let after = create(&mut cluster, 3, mig_spec(1));
    assert_eq!(holds(&cluster, &after), ["MIG-2"], "not what is no longer there");
    found(&mut cluster, partitioned("a1", &["MIG-2", "MIG-3"]));
    assert_eq!(node(&cluster).devices.len(), 4);
}

#[test]
fn a_card_whose_mig_mode_ends_is_free_when_its_instances_have_been_given_back() {
    let mut cluster = start(&["MIG-1", "MIG-2"]);
    let holder = create(&mut cluster, 1, mig_spec(1));
    let whole = create(&mut cluster, 2, spec(10_000));
    assert_eq!(holds(&cluster, &whole), ["GPU-a1-0"]);
    let held = holds(&cluster, &holder);

    found(&mut cluster, inventory("a1", 2));
    let waits = create(&mut cluster, 3, spec(10_000));
    assert_eq!(phase(&cluster, &waits).name(), "pending", "a part of the card is still held");
    assert_eq!(holds(&cluster, &holder), held);
    assert_eq!(node(&cluster).devices.len(), 3, "and the other instance is no more");
    let restored = Cluster::restore(settings(), cluster.records()).unwrap();
    assert_eq!(restored.nodes(), cluster.nodes());

    report(&mut cluster, "a1", &holder, gone(0));

    assert_eq!(holds(&cluster, &waits), ["GPU-a1-1"]);
    assert_eq!(node(&cluster).devices.len(), 2);
    check(&cluster).unwrap();
}

#[test]
fn a_card_that_is_partitioned_under_a_session_gives_no_instance_before_that_has_gone() {
    let mut cluster = Cluster::new(settings());
    register_with(&mut cluster, "a1", inventory("a1", 2));
    let (one, other) =
        (create(&mut cluster, 1, spec(10_000)), create(&mut cluster, 2, spec(10_000)));
    assert_eq!(holds(&cluster, &other), ["GPU-a1-1"]);
    found(&mut cluster, partitioned("a1", &["MIG-1"]));
    let waits = create(&mut cluster, 3, mig_spec(1));
    assert_eq!(phase(&cluster, &waits).name(), "pending");

    report(&mut cluster, "a1", &one, gone(0));
    assert_eq!(phase(&cluster, &waits).name(), "pending");
    report(&mut cluster, "a1", &other, gone(0));
    assert_eq!(holds(&cluster, &waits), ["MIG-1"]);
    check(&cluster).unwrap();
}

#[test]
fn a_card_that_vanishes_keeps_the_instances_that_are_held() {
    let mut cluster = start(&["MIG-1"]);
    let holder = create(&mut cluster, 1, mig_spec(1));
    found(&mut cluster, inventory("a1", 1));

    assert_eq!(holds(&cluster, &holder), ["MIG-1"]);
    assert!(matches!(card(&cluster).blocked, Some(DeviceBlock::Unhealthy { .. })));
    found(&mut cluster, partitioned("a1", &["MIG-1"]));
    assert_eq!(card(&cluster).blocked, Some(DeviceBlock::MigEnabled));
}

#[test]
fn what_keeps_sessions_off_a_card_keeps_them_off_its_instances() {
    let mut cluster = start(&["MIG-1", "MIG-2"]);
    let cordon = |cluster: &mut Cluster, device: &str, cordoned| {
        let input = Input::CordonDevice { device: device.parse().unwrap(), cordoned };
        cluster.apply(input, T0).unwrap();
        cluster.schedule(T0);
        check(cluster).unwrap();
    };
    cordon(&mut cluster, "GPU-a1-1", true);
    let waits = create(&mut cluster, 1, mig_spec(1));
    assert_eq!(phase(&cluster, &waits).name(), "pending");
    // One instance alone may be taken out as well.
    cordon(&mut cluster, "MIG-1", true);
    cordon(&mut cluster, "GPU-a1-1", false);
    assert_eq!(holds(&cluster, &waits), ["MIG-2"]);

    let mut sick = partitioned("a1", &["MIG-1", "MIG-2"]);
    sick.devices[1].health = DeviceHealth::Unhealthy { reason: "Xid 79".into() };
    cordon(&mut cluster, "MIG-1", false);
    found(&mut cluster, sick);
    let waits = create(&mut cluster, 2, mig_spec(1));
    let explained = cluster.explain(&waits).unwrap();
    let reason = format!("{:?}", explained.refused.unwrap().closest);
    assert!(reason.contains("Xid 79"), "{reason}");
}

#[test]
fn an_instance_counts_for_its_part_of_the_card_in_quotas_and_the_card_once_in_the_cluster() {
    let mut cluster = start(&["MIG-1", "MIG-2"]);
    assert_eq!(cluster.index.accounts.capacity.fgpu, Fgpu::whole(20), "two cards");
    let quota = Quota { fgpu: Some(Fgpu(2_000)), ..Quota::default() };
    put_project(&mut cluster, Project { quota, ..project("ml") });
    let first = create(&mut cluster, 1, in_project("ml", mig_spec(1)));
    let second = create(&mut cluster, 2, in_project("ml", mig_spec(1)));

    let ml = "ml".parse().unwrap();
    assert_eq!(cluster.held_by_project(&ml).fgpu, Fgpu(1_250));
    assert_eq!(phase(&cluster, &first).name(), "scheduled");
    assert_eq!(phase(&cluster, &second).name(), "pending", "two would be 2.5");
    let refused = try_create(&mut cluster, 3, in_project("ml", mig_spec(2)), None).unwrap_err();
    assert!(refused.to_string().contains("2.5 asked for"), "{refused}");
    check(&cluster).unwrap();
}

#[test]
fn requests_that_contradict_themselves_or_never_fit_are_refused_by_their_flag() {
    let mut cluster = start(&["MIG-1"]);
    let mut refused = |change: fn(&mut SessionSpec)| {
        let mut spec = mig_spec(1);
        change(&mut spec);
        try_create(&mut cluster, 9, spec, None).unwrap_err()
    };

    let part = refused(|spec| {
        let gpu = spec.resources.gpu.as_mut().unwrap();
        gpu.amount = crate::slice::GpuAmount::Fgpu(Fgpu(1_000));
    });
    assert_eq!(part.field(), Some("--mig"));
    assert!(part.to_string().contains("given whole"), "{part}");
    let whole = refused(|spec| spec.isolation = Some(Isolation::Whole));
    assert_eq!(whole.field(), Some("--isolation"));
    let unknown = refused(|spec| {
        spec.resources.gpu.as_mut().unwrap().mig = Some("7g.80gb".parse().unwrap());
    });
    assert_eq!(unknown.field(), Some("--mig"));
    assert!(unknown.to_string().contains("1g.10gb of H100 on 1 node"), "{unknown}");
    let many = refused(|spec| {
        spec.resources.gpu = mig_spec(2).resources.gpu;
    });
    assert_eq!((many.field(), many.code()), (Some("--mig"), "UNSATISFIABLE"));
    assert!(many.to_string().contains("the most is 1"), "{many}");
    let asked = mig_spec(3).resources.gpu.unwrap();
    assert_eq!(asked.to_string(), "3 MIG instances of 1g.10gb");
}

#[test]
fn records_from_before_instances_were_offered_are_read() {
    let old = r#"{"uuid":"MIG-1","profile":"1g.10gb","memory":10737418240,"multiprocessors":16}"#;
    let read: MigInstance = serde_json::from_str(old).unwrap();
    assert_eq!(read, instance("MIG-1", "1g.10gb"));
    assert_eq!(serde_json::to_string(&read).unwrap(), old);
    let gpu: GpuRequest = serde_json::from_str(r#"{"amount":{"whole":2}}"#).unwrap();
    assert_eq!((gpu.mig, gpu.devices), (None, None));
}

#[test]
fn an_instance_as_a_device_has_the_place_and_the_health_of_its_card() {
    let mut card = device("a1", 1);
    card.numa_node = Some(1);
    let own = instance("MIG-1", "1g.10gb");
    let seen: Device = card.of_instance(&own);
    assert_eq!((seen.model.as_str(), seen.index), ("H100 MIG 1g.10gb", 1));
    assert_eq!((seen.memory, seen.numa_node), (own.memory, Some(1)));

    card.health = DeviceHealth::Unhealthy { reason: "Xid 79".into() };
    assert_eq!(card.of_instance(&own).health, card.health);
}
