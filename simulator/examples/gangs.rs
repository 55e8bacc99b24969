//! What gangs cost on a large cluster: `gangs NODES DEVICES [plan]`.

use fgpu_simulator::{SpeedOptions, gang_speed, plan_speed};
use std::error::Error;
use std::io::Write as _;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, devices, plan @ ..] = arguments.as_slice() else {
        return Err("gangs NODES DEVICES [plan]".into());
    };
    let options = SpeedOptions {
        fills: if plan.is_empty() { vec![50, 80] } else { vec![100] },
        ..SpeedOptions::of(nodes.parse()?, devices.parse()?)
    };
    let mut out = std::io::stdout();
    if plan.is_empty() {
        out.write_all(gang_speed(&options)?.table().as_bytes())?;
        return Ok(());
    }
    for limited in [true, false] {
        let mut laps = plan_speed(&options, limited)?;
        laps.sort_unstable();
        let (middle, most) = (laps.get(laps.len() / 2), laps.last());
        writeln!(out, "time limits {limited}: median {middle:?}, slowest {most:?}")?;
    }
    Ok(())
}
