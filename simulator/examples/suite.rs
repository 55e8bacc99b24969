//! Compares policies on many mixes: `suite POLICY,POLICY [NODE_LIST POD_LIST [PART]]`.

use fgpu_domain::placement::Policy;
use fgpu_simulator::{Source, SuiteOptions, suite};
use std::error::Error;
use std::io::Write as _;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let names = arguments.next().ok_or("name the policies, separated by commas")?;
    let policies = names.split(',').map(str::parse::<Policy>).collect::<Result<_, _>>()?;
    let [node_list, pod_list] = [(); 2].map(|()| arguments.next().map(Into::into));
    let source = Source { node_list, pod_list, list_seed: 1, ..Source::default() };
    let only = arguments.collect();
    let options = SuiteOptions { source, policies, seeds: (42..=46).collect(), only };
    let report = suite(&options, &mut |_, _| {})?;
    std::io::stdout().write_all(report.table().as_bytes())?;
    Ok(())
}
