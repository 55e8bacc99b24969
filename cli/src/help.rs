//! Texts below the help of verbs: examples, and what exit codes mean.

pub(crate) const AFTER_HELP: &str = "\
Examples:
  fgpu up                                        a cluster on this machine
  fgpu run --fgpu 2.5 --image pytorch/pytorch -- python train.py
  fgpu ps; fgpu logs -f NAME; fgpu explain NAME; fgpu device list

The manager is found by --address or FGPU_ADDRESS, else by the current context (`fgpu context`),
else at http://127.0.0.1:7070.

Exit codes: 0 done, 1 failed, 2 wrong command line. `run`, `exec` and `wait` give the exit code of
the session, 125 where fgpu itself failed, 130 when detached by a second Ctrl-C.";

pub(crate) const RUN_HELP: &str = "\
Examples:
  fgpu run --fgpu 10 --image pytorch/pytorch -- python train.py
  fgpu run --fgpu 20 --devices 2 --image vllm/vllm-openai -- --model /models/llama
  fgpu run --gpu-memory 20GiB --gpu-compute 30% -d --name train --image my/image
  fgpu run --gpus 2 -it --image ubuntu -- bash
  fgpu run --mig 1g.10gb --image my/image -- python serve.py
  fgpu run --fgpu 10 --dry-run
  fgpu run -d --fgpu 1 --array 1-100%10 --image my/image -- sh -c 'python eval.py $FGPU_ARRAY_INDEX'
  fgpu run -d --gpus 8 --size 4 --image my/image -- torchrun train.py
  fgpu run -d --after train --start-at +2h --image my/image -- python report.py

While the session waits, its place in the queue and what is missing are shown. Ctrl-C stops the
session politely; a second one leaves it alone. The exit code is that of the session, or 125 where
fgpu itself failed.";

pub(crate) const EXEC_HELP: &str = "\
Examples:
  fgpu exec train -- nvidia-smi
  fgpu exec -it train -- bash

The exit code is that of the command, or 125 where fgpu itself failed.";

pub(crate) const STOP_HELP: &str = "\
Examples:
  fgpu stop train
  fgpu stop --grace 1m train eval
  fgpu stop $(fgpu ps -q)
  fgpu stop sweep; fgpu stop sweep/7              all of an array, or one of its sessions";

pub(crate) const WAIT_HELP: &str = "\
Prints a line for each session: id, outcome, exit code. The exit code is that of the first session,
as named, that did not return 0. An array or gang is all of its sessions, one line each.";

pub(crate) const CONTEXT_HELP: &str = "\
Contexts are kept in ~/.config/fgpu/config.toml, readable by you alone.

Examples:
  fgpu context set lab --address https://gpu.example:7070 --ca ca.pem --token-file token
  fgpu context set lab --project research
  fgpu context use lab";

pub(crate) const PROJECT_HELP: &str = "\
Every session belongs to a project: that of `--project`, of FGPU_PROJECT or of the context, else
`default`. Administrators make and change projects; people see those they may use.

Examples:
  fgpu project create research --weight 300 --member ann --member bob
  fgpu project set research --add-member cyd
  fgpu project get research";

pub(crate) const QUOTA_HELP: &str = "\
What a project or a user holds over a new limit is not taken away; nothing is added until it fits.

Examples:
  fgpu quota get --project research
  fgpu quota set --project research --fgpu 40 --memory 512GiB --pending 100
  fgpu quota set --project research --each-user --fgpu 10
  fgpu quota set --project research --user ann --fgpu 20 --sessions none
  fgpu quota set --project research --user ann --reset";

pub(crate) const CLASS_HELP: &str = "\
`low`, `normal` and `high` are there from the start.

Examples:
  fgpu class list
  fgpu class set urgent --priority 200 --may-preempt yes
  fgpu class set low --min-run 10m --on-preempt requeue";

pub(crate) const DEVICE_HELP: &str = "\
Examples:
  fgpu device list
  fgpu device list --node a1 -o json";

pub(crate) const DEFRAG_HELP: &str = "\
Sessions created with `--movable` are stopped and started anew where they leave no whole device in
use. The new place is kept free for each meanwhile; one that cannot start there goes back to where
it was. A plan that does not hold any more is refused with what has changed. For administrators.

Examples:
  fgpu defrag --plan
  fgpu defrag --node a1 --max-moves 10
  fgpu defrag --yes -o json";

pub(crate) const SIMULATE_HELP: &str = "\
Of a replay without time the report says how much of the cluster was given out. Of one with time
(version 2) it says who waited how long, what was used and how evenly; docs/replay-format.md
describes both.

Examples:
  fgpu simulate --trace replay.jsonl --policy fragmentation --placements out.jsonl
  fgpu simulate --stdio --policy binpack
  fgpu simulate --trace queue.jsonl --plot queue.svg";

pub(crate) const SIMULATE_GENERATE_HELP: &str = "\
The same flags give the same bytes on every machine. From the lists of the openb trace and without
shares, the replay is the one its own scripts make for that seed.

Examples:
  fgpu simulate generate --nodes 5000 --devices 8 --out large.jsonl
  fgpu simulate generate --node-list nodes.csv --pod-list pods.csv --fractional-share 60 --seed 42
  fgpu simulate generate --constrained-share 20 --load 1.3 | fgpu simulate --stdio
  fgpu simulate generate --timed --nodes 12 --load 1.1 --projects 3 --time-limits --out queue.jsonl";

pub(crate) const SIMULATE_SUITE_HELP: &str = "\
Prints a table in Markdown: GPU given out when 100 % and 130 % of it have been asked for, the mean
over all seeds; and the gain over the first policy, with that of the worst seed in brackets.

Examples:
  fgpu simulate suite --policies random,best-fit
  fgpu simulate suite --node-list nodes.csv --pod-list pods.csv --policies spread,best-fit --only multi";

pub(crate) const SIMULATE_SPEED_HELP: &str = "\
One pod goes and another comes, over and over, at each fill. A decision of placement alone is from
the request to its resources being taken. With `--waiting` it is all the manager does in memory: a
session ends, another is created, the queue is looked at, what changed is taken for the store.

Examples:
  fgpu simulate speed --nodes 5000 --devices 8
  fgpu simulate speed --nodes 5000 --devices 8 --fill 99 --waiting 10000
  fgpu simulate speed --nodes 5000 --devices 8 --waiting 10000 --kinds 2000 --near";

pub(crate) const UP_HELP: &str = "\
Examples:
  fgpu up
  fgpu up --nodes 2 --accelerator sim:4xA100-40GB --runtime process
  fgpu up --unit-memory 8GiB --data-dir /tmp/fgpu

Every setting of `fgpu manager` and `fgpu agent` also works here, by its environment variable or in
`--manager-config` and `--agent-config`.";

pub(crate) const DEMO_HELP: &str = "\
Examples:
  fgpu demo
  fgpu demo --runtime docker
  fgpu demo --keep";

pub(crate) const DOCTOR_HELP: &str = "\
Exit code 1 if a check failed; warnings are fine.";

pub(crate) const MANAGER_HELP: &str = "\
Flags win over the environment, which wins over the file. Secrets come by file or environment alone:
FGPU_BOOTSTRAP_TOKEN and FGPU_BOOTSTRAP_AGENT_TOKEN are the first tokens of a new cluster.

Examples:
  fgpu manager --data-dir /var/lib/fgpu/manager
  fgpu manager --config /etc/fgpu/manager.toml --check
  fgpu manager --listen 0.0.0.0:7070 --tls-cert cert.pem --tls-key key.pem --store-etcd http://e1:2379";

pub(crate) const AGENT_HELP: &str = "\
Flags win over the environment, which wins over the file.

Examples:
  fgpu agent --managers https://gpu.example:7070 --tls-ca ca.pem --token-file /etc/fgpu/agent.token
  fgpu agent --accelerator sim:8xH100-80GB --runtime process --state-dir /tmp/agent
  fgpu agent --print-config";
