#!/bin/sh
# fgpu's manager and Slurm's controller under the same mix, one after the other in one run.
#
#   tests/bench/beside.sh [NODES [SECONDS]]
#
# FGPU names the program (default: target/release/fgpu); SECONDS is for Slurm. What the two do is not
# the same: see docs/measurements/throughput.md. What is needed is said by the two benches.
set -eu

nodes=${1:-500} seconds=${2:-60} devices=8 seed=1
here=$(cd "$(dirname "$0")" && pwd)
fgpu=${FGPU:-$here/../../target/release/fgpu}
[ -x "$fgpu" ] || { echo "no $fgpu: build it (cargo build --release -p fgpu-cli) or set FGPU" >&2; exit 1; }

results=$(mktemp -d "${TMPDIR:-/tmp}/fgpu-beside-XXXXXX")
trap 'rm -rf "$results"' EXIT
trap 'exit 1' INT TERM

"$fgpu" bench cluster --nodes "$nodes" --devices "$devices" --seed "$seed" \
	--sessions "$((nodes * 10))" --unbatched-seconds 0 >"$results/fgpu"
"$here/slurm.sh" "$nodes" "$devices" "$seconds" 8 "$seed" >"$results/slurm"
cat "$results/fgpu"
echo
cat "$results/slurm"
echo
# Both print one figure a line, the number being the first one after the name.
awk '
	FNR == 1 { file++ }
	file == 1 && /^sessions placed/ { ours = $3 + 0 }
	file == 1 && /^containers placed/ { containers = $3 + 0 }
	file == 1 && /^manager CPU a placement/ { cpu = $5 + 0 }
	file == 2 && /^jobs/ { theirs = $2 + 0 }
	file == 2 && /^controller CPU a job/ { theirs_cpu = $5 + 0 }
	END {
		if (!ours || !theirs) { print "one of the two has no figures" > "/dev/stderr"; exit 1 }
		ours_cpu = cpu * containers / ours
		printf "jobs (sessions) a second:  fgpu %d, slurm %d: %.0f times\n", ours, theirs, ours / theirs
		printf "CPU a job (session):       fgpu %.0f us, slurm %.0f us: 1/%.0f\n", ours_cpu, theirs_cpu, theirs_cpu / ours_cpu
	}' "$results/fgpu" "$results/slurm"
