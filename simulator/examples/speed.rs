//! How fast decisions are: `speed POLICY NODES DEVICES [WAITING [KINDS [near|far [DECISIONS]]]]`.

use fgpu_simulator::{SpeedOptions, queue_speed, speed};
use std::error::Error;
use std::io::Write as _;

/// The allocator of `fgpu`, so that both measure the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [policy, nodes, devices, waiting @ ..] = arguments.as_slice() else {
        return Err("speed POLICY NODES DEVICES [WAITING [KINDS [near|far [DECISIONS]]]]".into());
    };
    let count = |at: usize| waiting.get(at).map(|count| count.parse::<usize>()).transpose();
    let (sessions, kinds, decisions) = (count(0)?, count(1)?, count(3)?);
    let usual = SpeedOptions::of(nodes.parse()?, devices.parse()?);
    let options = SpeedOptions {
        policy: policy.parse()?,
        waiting: sessions.unwrap_or(0),
        kinds: kinds.unwrap_or(200),
        near: waiting.get(2).is_some_and(|word| word == "near"),
        decisions: decisions.unwrap_or(usual.decisions),
        ..usual
    };
    let report = if sessions.is_some() { queue_speed(&options)? } else { speed(&options)? };
    std::io::stdout().write_all(report.table().as_bytes())?;
    Ok(())
}
