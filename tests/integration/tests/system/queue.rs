//! The queue from the command line to the process that runs: arrays, gangs, what follows what, and
//! quotas.

use crate::stage::{PATIENCE, await_phase};
use fgpu_integration::cli::Cli;
use fgpu_integration::wait::until;
use fgpu_integration::world::{AgentOptions, ManagerOptions, World};

/// Two nodes of two devices; members of a gang lie on both.
fn world() -> World {
    let mut world = World::new(ManagerOptions::embedded());
    for node in ["a1", "a2"] {
        world.add_agent(AgentOptions::simulated(node, "2xH100-80GB"));
    }
    world
}

/// Creates without staying, with little CPU and memory, and returns the id.
fn create(cli: &Cli, flags: &[&str], script: &str) -> String {
    let small = ["run", "-d", "-q", "--cpu", "0.1", "--memory", "64MiB"];
    let arguments = [&small, flags, &["--", "sh", "-c", script]].concat();
    cli.ok(&arguments)
}

#[test]
fn a_member_of_an_array_is_told_which_it_is_and_what_follows_the_array_waits_for_all() {
    let world = world();
    let cli = world.cli();
    let say = "echo $FGPU_ARRAY_INDEX of $FGPU_ARRAY_SIZE in $FGPU_ARRAY_ID";
    let flags =
        ["--fgpu", "1", "--array", "3-7:2", "--name", "sweep", "--env", "FGPU_ARRAY_INDEX=9"];
    let array = create(&cli, &flags, say);
    let slow = create(&cli, &["--name", "slow"], "while [ ! -e go ]; do sleep 0.1; done");
    let after = format!("{slow}:any");
    let follower = create(&cli, &["--after", &array, "--after", &after], "echo last");

    cli.ok(&["wait", &array]);
    for index in [3, 5, 7] {
        let said = cli.ok(&["logs", &format!("{array}/{index}")]);
        assert_eq!(said, format!("{index} of 3 in {array}"));
    }
    let session = cli.json(&["get", &follower]);
    assert_eq!(session["phase"], "pending", "it follows `slow` too: {session}");
    assert!(cli.ok(&["explain", &follower]).contains(&slow));

    cli.ok(&["stop", &slow]);
    await_phase(&cli, &follower, "ended");
    assert_eq!(cli.ok(&["logs", &follower]), "last");
}

#[test]
fn members_of_a_gang_start_together_and_know_where_the_others_are() {
    let world = world();
    let cli = world.cli();
    let blocker = create(&cli, &["--gpus", "2"], "sleep 600");
    let say = "echo $FGPU_CLUSTER_INDEX $FGPU_CLUSTER_ROLE $FGPU_CLUSTER_SIZE \
               $FGPU_CLUSTER_HEAD $FGPU_CLUSTER_HOSTS; sleep 600";
    let gang = create(&cli, &["--gpus", "1", "--size", "3"], say);
    let members = || cli.json(&["ps", "--group", &gang]).as_array().unwrap().clone();
    assert!(members().iter().all(|member| member["phase"] == "pending"), "{:?}", members());

    cli.ok(&["stop", &blocker]);
    for (index, role) in ["head", "worker", "worker"].into_iter().enumerate() {
        let name = format!("{gang}/{index}");
        until("what the member says", PATIENCE, || {
            let said = cli.ok(&["logs", &name]);
            let words: Vec<&str> = said.split_whitespace().collect();
            let [at, part, size, head, hosts] = words[..] else { return Err(said) };
            assert_eq!((at, part, size), (index.to_string().as_str(), role, "3"));
            let hosts: Vec<&str> = hosts.split(',').collect();
            assert_eq!((hosts.len(), hosts[0]), (3, head));
            Ok(())
        });
    }

    cli.ok(&["stop", &format!("{gang}/1")]);
    for member in members() {
        await_phase(&cli, member["id"].as_str().unwrap(), "ended");
    }
}

#[test]
fn a_quota_refuses_what_it_never_allows_and_keeps_the_rest_waiting_across_a_restart() {
    let mut world = world();
    let cli = world.cli();
    cli.ok(&["project", "create", "research"]);
    cli.ok(&["quota", "set", "--project", "research", "--fgpu", "10"]);
    let research = ["--project", "research", "--fgpu", "6"];
    let first = create(&cli, &research, "sleep 600");
    await_phase(&cli, &first, "running");
    let second = create(&cli, &research, "echo second");

    let said = cli.refused(&["run", "-d", "--project", "research", "--fgpu", "11", "--", "true"]);
    for word in ["research", "10", "11", "QUOTA_EXCEEDED"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    world.kill_manager();
    world.start_manager();
    let why = cli.ok(&["explain", &second]);
    assert!(why.contains("6 in use, 6 asked for"), "{why}");

    cli.ok(&["stop", &first]);
    await_phase(&cli, &second, "ended");
    assert_eq!(cli.ok(&["logs", &second]), "second");
}
