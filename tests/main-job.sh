#!/usr/bin/env bash
# The main job by hand: real etcd, a manager, two agents with eight fake devices each, a real engine,
# and what happens when each of them goes away. Reads like a session at a terminal; stops at the first
# thing that is not as it should be. The same steps, and more, are the tests in
# tests/integration/tests/system (an engine without live-restore takes its containers along, for one).
#
#   cargo build && tests/main-job.sh            (as root; ./dev setup installs what it needs)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

binary=${FGPU:-target/debug/fgpu}
fake=${FAKE_NVML:-target/debug/libfgpu_fake_nvml.so}
away=${AWAY:-20} # seconds a part stays away
work=$(mktemp -d /tmp/fgpu-main-job.XXXXXX)
bridge=fgpu-mj$$
pids=()

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s (logs in %s)\n' "$*" "$work" >&2; trap - EXIT; cleanup; exit 1; }
cleanup() {
    # Containers first, while the engine can be asked: with live-restore they outlive it.
    "${docker[@]}" ps -aq 2>/dev/null | xargs -r "${docker[@]}" rm -f >/dev/null 2>&1 || true
    [ -f "$work/docker.pid" ] && kill "$(cat "$work/docker.pid")" 2>/dev/null
    for _ in $(seq 100); do [ -f "$work/docker.pid" ] || break; sleep 0.1; done
    kill -9 "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l
    ip link delete "$bridge" 2>/dev/null || true
}
done_with() { cleanup; rm -rf "$work"; }
trap done_with EXIT

# start NAME COMMAND...: in the background, with a log of its own; its pid is in $started.
start() {
    local name=$1
    shift
    "$@" >>"$work/$name.log" 2>&1 &
    started=$!
    pids+=("$started")
}

# until_true WHAT COMMAND...: asks twice a second, for two minutes at most.
until_true() {
    local what=$1
    shift
    for _ in $(seq 240); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.5
    done
    die "$what did not come about"
}

fgpu() { "$binary" "$@"; }
docker=(docker --host "unix://$work/docker.sock")
# field SESSION PATH: one field of a session, as JSON has it.
field() { fgpu get "$1" -o json | python3 -c 'import json,sys; v=json.load(sys.stdin)
for k in sys.argv[1].split("."): v=v[int(k)] if k.isdigit() else v[k]
print(v)' "$2"; }
is() { [ "$(field "$1" "$2")" = "$3" ]; }
node_is() { fgpu node get "$1" -o json | grep -q "\"state\": *\"$2\""; }
container() { "${docker[@]}" ps -aq --no-trunc --filter "label=io.fgpu.session=$1"; }
untouched() {
    [ "$(container "$id")" = "$first" ] || die "the container of $id was replaced"
    is "$id" generation 1 || die "$id was placed again"
}
# create_job NUMBER: with a name and a request id of its own.
create_job() {
    fgpu run -dq --image fgpu-test:1 --cpu 0.1 --memory 32MiB --fgpu 8 --name "job-$1" \
        --request-id "request-$1" -- sleep 3600 >/dev/null
}
# create_jobs: all of them, eight at a time.
create_jobs() {
    export -f create_job fgpu
    export binary
    seq 1 200 | xargs -P 8 -I N bash -c 'create_job N'
}
sleeping() { fgpu run -dq --image fgpu-test:1 --cpu 0.1 --memory 32MiB "$@" -- sleep 3600; }

start_etcd() {
    start etcd etcd --data-dir "$work/etcd" --listen-client-urls http://127.0.0.1:23790 \
        --advertise-client-urls http://127.0.0.1:23790 --listen-peer-urls http://127.0.0.1:23800
    etcd=$started
}
start_engine() {
    start docker dockerd --host "unix://$work/docker.sock" --data-root "$work/docker" \
        --exec-root "$work/exec" --pidfile "$work/docker.pid" --bridge "$bridge" --live-restore
    until_true "an engine that answers" "${docker[@]}" info
}
start_manager() {
    start manager env FGPU_MANAGER_LISTEN=127.0.0.1:27070 FGPU_MANAGER_DATA_DIR="$work/manager" \
        FGPU_MANAGER_BOOTSTRAP_TOKEN_FILE="$work/admin.token" FGPU_MANAGER_ALLOW_SHARED=true \
        FGPU_MANAGER_STORE_ETCD=http://127.0.0.1:23790 FGPU_MANAGER_TIMINGS_LEADER_TTL=3s \
        FGPU_MANAGER_TIMINGS_HEARTBEAT=1s FGPU_MANAGER_TIMINGS_SUSPECT=3s \
        FGPU_MANAGER_TIMINGS_FENCE=8s FGPU_MANAGER_TIMINGS_LOST=12s "$binary" manager
    manager=$started
    until_true "the first token" test -s "$work/admin.token"
    until_true "a manager that leads" fgpu cluster
}
# start_agent NODE URL
start_agent() {
    start "agent-$1" env FGPU_AGENT_MANAGERS="$2" FGPU_AGENT_NODE="$1" \
        FGPU_AGENT_TOKEN_FILE="$work/agent.token" FGPU_AGENT_STATE_DIR="$work/agent-$1" \
        FGPU_AGENT_ACCELERATOR="nvml:$work/nvml-$1.so" FGPU_AGENT_ALLOW_SHARED=true \
        FGPU_AGENT_RUNTIME=docker FGPU_AGENT_DOCKER="unix://$work/docker.sock" \
        FGPU_AGENT_GPU_ATTACH=none "$binary" agent
}
# fake_nvml NODE FIRST: the fake library with eight devices of its own.
fake_nvml() {
    cp "$fake" "$work/nvml-$1.so"
    python3 - "$2" >"$work/nvml-$1.so.json" <<'PY'
import json, sys
first = int(sys.argv[1])
print(json.dumps({"devices": [{
    "name": "NVIDIA H100 80GB HBM3", "uuid": f"GPU-00000000-0000-0000-0000-{n:012d}",
    "pci_bus_id": f"00000000:{n + 16:02X}:00.0", "memory_total": 81559 << 20,
} for n in range(first, first + 8)]}))
PY
}
# A road between agent a1 and the manager that can be cut by killing it.
start_road() {
    cat >"$work/road.py" <<'PY'
import socket, threading
listener = socket.create_server(("127.0.0.1", 27071), reuse_port=True)
def pump(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
    except OSError: pass
    for s in (a, b):
        try: s.shutdown(socket.SHUT_RDWR)
        except OSError: pass
while True:
    near, _ = listener.accept()
    try: far = socket.create_connection(("127.0.0.1", 27070))
    except OSError: near.close(); continue
    for pair in ((near, far), (far, near)): threading.Thread(target=pump, args=pair, daemon=True).start()
PY
    start road python3 "$work/road.py"
    road=$started
}

if [ ! -x "$binary" ] || [ ! -f "$fake" ]; then
    rm -rf "$work"
    trap - EXIT
    echo "error: $binary or $fake is not there: cargo build" >&2
    exit 1
fi
export FGPU_ADDRESS=http://127.0.0.1:27070 FGPU_TOKEN_FILE="$work/admin.token" XDG_CONFIG_HOME="$work"

say "etcd, an engine with an image, a manager, two agents with eight fake devices each"
start_etcd
ip link add "$bridge" type bridge && ip addr add 10.213.7.1/24 dev "$bridge" && ip link set "$bridge" up
start_engine
mkdir -p "$work/root/bin" && cp "$(command -v busybox)" "$work/root/bin/busybox"
for name in sh sleep cat echo; do ln -s busybox "$work/root/bin/$name"; done
tar -C "$work/root" -c . | "${docker[@]}" import - fgpu-test:1 >/dev/null
start_manager
fgpu token create agents --role agent >"$work/agent.token" 2>/dev/null
fake_nvml a1 0
fake_nvml b2 8
start_road
start_agent a1 http://127.0.0.1:27071
agent=$started
start_agent b2 http://127.0.0.1:27070
until_true "node a1" node_is a1 ready
until_true "node b2" node_is b2 ready
fgpu node list

say "10 fGPU: what is granted is what runs"
id=$(sleeping --fgpu 10 --node a1)
until_true "a running session" is "$id" phase running
uuid=$(field "$id" grant.slices.0.device_uuid)
first=$(container "$id")
"${docker[@]}" inspect --format '{{.HostConfig.Memory}} bytes, swap {{.HostConfig.MemorySwap}}, pids {{.HostConfig.PidsLimit}}, {{.HostConfig.CapDrop}} dropped' "$first"
pid=$("${docker[@]}" inspect --format '{{.State.Pid}}' "$first")
cat "/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' "/proc/$pid/cgroup")/memory.limit_in_bytes" 2>/dev/null \
    || cat "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")/memory.max"
fgpu exec "$id" -- cat /run/fgpu/slice.json | grep -q "$uuid" || die "the slice file names another device"
fgpu device list -o json | grep -q "$id" || die "the map does not show the session"
fgpu device list --node a1

say "kill -9 of agent a1: its container is untouched and adopted"
kill -9 "$agent"
start_agent a1 http://127.0.0.1:27071
until_true "an agent that is connected again" fgpu exec "$id" -- echo here
untouched

say "kill -9 of the manager amid 200 creates with request ids"
create_jobs 2>/dev/null &
creates=$!
some_there() { [ "$(fgpu ps -aq | wc -l)" -gt 60 ]; }
until_true "some creates" some_there
kill -9 "$manager"
start_manager
wait "$creates" || true
create_jobs
[ "$(fgpu ps -aq | wc -l)" = 201 ] || die "not 200 sessions and the first: $(fgpu ps -aq | wc -l)"
echo "every request has its one session"
fgpu ps -q | grep -v "$id" | xargs -P 4 -n 20 "$binary" stop --grace 1ms >/dev/null 2>&1
is "$id" phase running || die "the first session does not run"

say "etcd away for ${away} seconds"
kill "$etcd"
sleep "$away"
[ "$("${docker[@]}" inspect --format '{{.State.Running}}' "$first")" = true ] || die "it was stopped"
start_etcd
created() { sleeping --fgpu 1; }
until_true "a create that works again" created
until_true "the first session running" is "$id" phase running
untouched

say "the engine away for ${away} seconds, with live-restore: untouched"
kill "$(cat "$work/docker.pid")"
sleep "$away"
start_engine
until_true "node a1 ready again" node_is a1 ready
until_true "the first session running" is "$id" phase running
untouched

say "agent a1 cut off past the fence time: one session keeps, one moves"
fgpu node cordon b2 >/dev/null
moves=$(sleeping --fgpu 10 --on-disconnect stop --on-lost replace)
until_true "the second session running" is "$moves" phase running
fgpu node uncordon b2 >/dev/null
kill -9 "$road"
until_true "the first session lost" is "$id" phase lost
until_true "the second session on the other node" is "$moves" grant.node b2
until_true "the second session running" is "$moves" phase running
untouched
[ "$(container "$moves" | wc -l)" = 1 ] || die "the one that moves runs twice"
start_road
until_true "node a1 ready again" node_is a1 ready
until_true "the first session running" is "$id" phase running
untouched
fgpu ps

say "all as it should be"
