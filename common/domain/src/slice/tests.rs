use super::*;
use crate::units::GIB;
use proptest::prelude::*;

fn policy() -> UnitPolicy {
    UnitPolicy::default()
}

fn h100() -> DeviceUnits {
    policy().units_of("H100", MemoryBytes::gib(80))
}

fn fgpu(milli: u64) -> GpuRequest {
    GpuRequest::new(GpuAmount::Fgpu(Fgpu(milli)))
}

fn node(count: usize) -> Vec<DeviceUnits> {
    vec![h100(); count]
}

fn amounts(request: &GpuRequest, devices: &[DeviceUnits], count: u32, split: Split) -> Vec<u64> {
    let parts = request.parts(devices, count, split, policy().quantum).unwrap();
    parts
        .iter()
        .map(|part| match part {
            Part::Fgpu(amount) => amount.0,
            other => panic!("not an amount of fGPU: {other:?}"),
        })
        .collect()
}

#[test]
fn one_device_is_ten_fgpu_and_a_slice_is_its_exact_part() {
    let slice = h100().slice(DeviceUuid::new("GPU-1").unwrap(), Part::Fgpu(Fgpu(2_500)));

    assert_eq!(slice.memory, MemoryBytes::gib(20));
    assert_eq!(slice.compute, ComputeMilli(250));
}

#[test]
fn what_a_unit_leaves_below_a_mib_stays_with_the_device() {
    let units = policy().units_of("H100", MemoryBytes::mib(81_559));

    assert_eq!(units.memory_per_fgpu, MemoryBytes::mib(8_155));
    assert_eq!(units.leftover_memory(), MemoryBytes::mib(9));
    assert_eq!(units.demand(Part::Whole).memory, MemoryBytes::mib(81_559));
}

#[test]
fn a_unit_of_memory_makes_the_capacity_follow_the_device() {
    let unit = UnitRule::UnitMemory(MemoryBytes::gib(8));
    let policy = UnitPolicy { default: unit, ..UnitPolicy::default() };

    assert_eq!(policy.units_of("T4", MemoryBytes::gib(15)).capacity, Fgpu(1_800));
    assert_eq!(policy.units_of("H100", MemoryBytes::gib(80)).capacity, Fgpu::whole(10));
}

#[test]
fn an_amount_off_the_quantum_is_refused_with_its_neighbours() {
    let refused = policy().check(&fgpu(7_930)).unwrap_err();

    assert_eq!(
        refused.to_string(),
        "7.93 fGPU is not a multiple of the quantum 0.1: ask for 7.9 or 8"
    );
    assert!(matches!(policy().check(&fgpu(0)), Err(SliceError::Zero { .. })));
    assert_eq!(policy().check(&fgpu(7_900)), Ok(()));
}

#[test]
fn what_one_empty_device_holds_is_never_split_unasked() {
    let plan = fgpu(10_000).device_plan(&[node(8)], policy().quantum).unwrap();
    assert_eq!(plan.counts, [1]);

    let asked = GpuRequest { split: Some(Split::Even), ..fgpu(10_000) };
    let plan = asked.device_plan(&[node(3)], policy().quantum).unwrap();
    assert_eq!(plan.counts, [1, 2, 3]);
}

#[test]
fn a_larger_request_takes_the_fewest_devices_then_the_most_even_split() {
    let request = fgpu(15_100);
    let plan = request.device_plan(&[node(8)], policy().quantum).unwrap();

    assert_eq!(plan.counts, [2]);
    assert_eq!(amounts(&request, &node(8), 2, Split::Even), [7_600, 7_500]);
    assert_eq!(amounts(&request, &node(8), 2, Split::Fill), [10_000, 5_100]);
}

#[test]
fn more_than_any_node_holds_is_refused_with_the_most_there_is() {
    let refused = fgpu(90_000).device_plan(&[node(8), node(2)], policy().quantum).unwrap_err();

    assert!(refused.to_string().contains("80 fGPU"), "{refused}");
}

#[test]
fn asked_for_on_n_devices_it_lies_on_exactly_n() {
    let request = GpuRequest { devices: NonZeroU32::new(4), ..fgpu(10_000) };
    let plan = request.device_plan(&[node(8)], policy().quantum).unwrap();

    assert_eq!(plan.counts, [4]);
    assert_eq!(amounts(&request, &node(8), 4, Split::Even), [2_500; 4]);
}

#[test]
fn memory_alone_brings_compute_in_proportion_and_the_reverse() {
    let memory =
        Part::Direct { memory: Some(MemoryBytes::gib(20)), compute: ComputeRequest::Proportional };
    assert_eq!(h100().demand(memory).compute, ComputeMilli(250));

    let compute = Part::Direct { memory: None, compute: ComputeRequest::Share(ComputeMilli(300)) };
    assert_eq!(h100().demand(compute).memory, MemoryBytes::gib(24));

    let shared =
        Part::Direct { memory: Some(MemoryBytes(GIB + 1)), compute: ComputeRequest::Shared };
    assert_eq!(
        h100().demand(shared),
        Demand { memory: MemoryBytes(GIB + 1), compute: ComputeMilli::ZERO }
    );
}

#[test]
fn a_model_is_matched_as_a_part_of_its_name() {
    let request = GpuRequest { models: vec!["h100".to_owned()], ..fgpu(1_000) };

    assert!(request.allows_model("NVIDIA H100 80GB HBM3"));
    assert!(!request.allows_model("NVIDIA A100-SXM4-40GB"));
}

proptest! {
    #[test]
    fn parts_sum_to_the_request_and_no_device_is_overfilled(
        quanta in 1_u64..400,
        devices in 1_usize..9,
        asked in proptest::option::of(1_u32..9),
        fill in any::<bool>(),
    ) {
        let split = if fill { Split::Fill } else { Split::Even };
        let request = GpuRequest {
            devices: asked.and_then(NonZeroU32::new),
            split: Some(split),
            ..fgpu(quanta * 100)
        };
        let devices = node(devices);
        if let Ok(plan) = request.device_plan(std::slice::from_ref(&devices), policy().quantum) {
            for count in plan.counts {
                let parts = amounts(&request, &devices, count, plan.split);
                prop_assert_eq!(parts.iter().sum::<u64>(), quanta * 100);
                prop_assert!(parts.iter().all(|part| *part > 0 && *part <= 10_000 && part % 100 == 0));
            }
        }
    }

    #[test]
    fn slices_that_sum_to_the_capacity_fit_the_device(
        memory_mib in 1_000_u64..200_000,
        cuts in proptest::collection::vec(1_u64..100, 1..20),
    ) {
        let units = policy().units_of("any", MemoryBytes::mib(memory_mib));
        let mut left = units.capacity.0;
        let mut taken = Demand::default();
        for cut in cuts {
            let amount = (cut * 100).min(left);
            left -= amount;
            taken = taken.saturating_add(units.demand(Part::Fgpu(Fgpu(amount))));
        }
        taken = taken.saturating_add(units.demand(Part::Fgpu(Fgpu(left))));
        prop_assert!(taken.fits(units.whole()));
    }
}
