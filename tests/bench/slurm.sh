#!/bin/sh
# What Slurm's controller does with the mix of `fgpu bench cluster`, on the same machine.
#
#   tests/bench/slurm.sh [NODES [DEVICES [SECONDS [THREADS [SEED]]]]]
#
# Needs Debian's slurmctld, slurmd, slurm-client, libslurm-dev and gcc; says so if they are missing
# (with INSTALL=1 it installs them). Everything lies in a temporary folder; only the two daemons
# started here are stopped. See docs/measurements/throughput.md for what this can and cannot say.
set -eu

nodes=${1:-5000} devices=${2:-8} seconds=${3:-60} threads=${4:-8} seed=${5:-1}
here=$(cd "$(dirname "$0")" && pwd)

missing=
for program in slurmctld slurmd scontrol gcc; do
	command -v "$program" >/dev/null || missing="$missing $program"
done
[ -e /usr/include/slurm/slurm.h ] || missing="$missing slurm.h"
if [ -n "$missing" ]; then
	packages="slurmctld slurmd slurm-client libslurm-dev gcc libc6-dev"
	if [ "${INSTALL:-}" != 1 ]; then
		echo "missing:$missing; run with INSTALL=1, or: apt-get install --no-install-recommends $packages" >&2
		exit 1
	fi
	echo "missing:$missing; installing $packages" >&2
	# Without starting the daemons of the packages.
	RUNLEVEL=1 apt-get install -y --no-install-recommends $packages >&2
fi
[ "$(id -u)" = 0 ] || { echo "slurmd must be started as root" >&2; exit 1; }

folder=$(mktemp -d "${TMPDIR:-/tmp}/fgpu-slurm-XXXXXX")
controller= agent=
finish() {
	for process in $controller $agent; do
		kill "$process" 2>/dev/null || true
		wait "$process" 2>/dev/null || true
	done
	rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' INT TERM

host=$(hostname -s)
port=$((20000 + $$ % 10000))
mkdir "$folder/state" "$folder/spool"
cat >"$folder/slurm.conf" <<END
ClusterName=bench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 10000))
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldDebug=error
SlurmdDebug=error
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu,shard
# Straight to every node: all of them are the one slurmd.
TreeWidth=65533
SlurmdTimeout=0
MaxJobCount=500000
MinJobAge=10
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=1
END
first=1 block=1
while [ "$first" -le "$nodes" ]; do
	last=$((first + 249))
	[ "$last" -le "$nodes" ] || last=$nodes
	cat >>"$folder/slurm.conf" <<END
NodeName=n[$first-$last] NodeAddr=127.1.$block.[1-$((last - first + 1))] CPUs=128 RealMemory=2097152 Gres=gpu:$devices,shard:$((devices * 10))
END
	first=$((last + 1)) block=$((block + 1))
done
echo "PartitionName=bench Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE State=UP" >>"$folder/slurm.conf"
cat >"$folder/gres.conf" <<END
NodeName=n[1-$nodes] Name=gpu Count=$devices
NodeName=n[1-$nodes] Name=shard Count=$((devices * 10))
END
export SLURM_CONF="$folder/slurm.conf"
gcc -O2 -o "$folder/load" "$here/slurm_load.c" -lslurm -lpthread

slurmctld -D -c -f "$SLURM_CONF" >"$folder/out" 2>&1 &
controller=$!
slurmd -D -f "$SLURM_CONF" >>"$folder/out" 2>&1 &
agent=$!
wait_for() {
	tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		if [ "$tries" -gt 120 ]; then
			echo "slurm does not come up:" >&2
			tail -n 20 "$folder/out" "$folder"/*.log >&2
			exit 1
		fi
		sleep 0.5
	done
}
wait_for scontrol ping
# They never register by themselves: one slurmd answers for all of them, under its own name.
scontrol update "nodename=n[1-$nodes]" state=down reason=bench
scontrol update "nodename=n[1-$nodes]" state=resume
idle() {
	[ "$(sinfo -h -p bench -t idle -o %D | awk '{n += $1} END {print n + 0}')" = "$nodes" ]
}
wait_for idle

usage() {
	awk -v hz="$(getconf CLK_TCK)" '{sub(/.*\) /, ""); print ($12 + $13) * 1000 / hz}' "/proc/$controller/stat"
}
# Each line: seconds, jobs, containers, tenths of devices, fill, refused, CPU of the controller.
"$folder/load" "$nodes" "$devices" "$seconds" "$threads" "$seed" |
	while read -r line; do echo "$line $(usage)"; done >"$folder/samples"
peak=$(awk '/VmHWM/ {print int($2 / 1024)}' "/proc/$controller/status")
awk -v nodes="$nodes" -v devices="$devices" -v peak="$peak" '
	{ at[NR] = $1; jobs[NR] = $2; containers[NR] = $3; fill[NR] = $5; refused[NR] = $6; cpu[NR] = $7 }
	END {
		# From the moment the cluster is full on, if it was; without the first and the last tenth.
		from = 1
		for (i = NR; i >= 1; i--) if (fill[i] >= 780) from = i
		to = NR - int((NR - from) / 10); from += int((NR - from) / 10)
		n = jobs[to] - jobs[from]; m = containers[to] - containers[from]; s = at[to] - at[from]
		if (n < 1) { print "nothing was allocated" > "/dev/stderr"; exit 1 }
		printf "slurmctld, %d nodes of %d devices, %.1f s, %d to %d %% full\n", nodes, devices, s, fill[from] / 10, fill[to] / 10
		printf "jobs                        %.0f/s\n", n / s
		printf "containers (tasks)          %.0f/s\n", m / s
		printf "controller CPU a job        %.0f us\n", (cpu[to] - cpu[from]) * 1000 / n
		printf "controller CPU a container  %.0f us\n", (cpu[to] - cpu[from]) * 1000 / m
		printf "controller memory, peak     %d MiB\n", peak
		printf "refused (no room at once)   %d\n", refused[to] - refused[from]
	}' "$folder/samples"
