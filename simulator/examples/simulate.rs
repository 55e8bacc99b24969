//! Replays a trace: `simulate --trace FILE [--policy P] [--seed S] [--placements FILE] [--json]
//! [--timing] [--plot FILE] [--plain-queue]`, or `simulate --stdio [--policy P] [--seed S]` to answer pod by pod.

use fgpu_domain::placement::Policy;
use fgpu_simulator::{SimulateOptions, run, stdio};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = SimulateOptions::new(PathBuf::new(), Policy::default());
    let mut by_stdio = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--trace" => options.trace = value()?.into(),
            "--policy" => options.policy = value()?.parse()?,
            "--seed" => options.seed = value()?.parse()?,
            "--placements" => options.placements = Some(value()?.into()),
            "--json" => options.json = true,
            "--plot" => options.plot = Some(value()?.into()),
            "--plain-queue" => options.plain_queue = true,
            "--no-reservations" => options.no_reservations = true,
            "--timing" => options.timing = true,
            "--stdio" => by_stdio = true,
            _ => return Err(format!("unknown argument {argument}").into()),
        }
    }
    if by_stdio {
        stdio(options.policy, options.seed, std::io::stdin().lock(), std::io::stdout().lock())?;
    } else {
        run(&options, &mut std::io::stdout().lock(), &mut |_, _| {})?;
    }
    Ok(())
}
