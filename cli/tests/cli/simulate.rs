//! `fgpu simulate`, on a replay of two pods.

use crate::tool::Tool;

const REPLAY: &str = r#"{"kind":"replay","version":1,"name":"tiny","seed":1,"load":1.0,"shuffled":false,"nodes":1,"pods":2,"gpu_capacity_milli":1000,"gpu_demand_milli":1500}
{"kind":"node","name":"n1","cpu_milli":8000,"memory_mib":8192,"num_gpu":1,"gpu_model":"T4"}
{"kind":"pod","name":"p1","cpu_milli":1000,"memory_mib":1024,"num_gpu":1,"gpu_milli":1000,"gpu_spec":[]}
{"kind":"pod","name":"p2","cpu_milli":1000,"memory_mib":1024,"num_gpu":1,"gpu_milli":500,"gpu_spec":[]}
"#;

const PLACEMENTS: &str = r#"{"pod":"p1","node":"n1","gpus":[0]}
{"pod":"p2","node":null,"gpus":[]}
"#;

#[tokio::test]
async fn a_replay_is_reported_and_its_placements_are_written() {
    let tool = Tool::new();
    let (trace, log) = (tool.home().join("replay.jsonl"), tool.home().join("out.jsonl"));
    std::fs::write(&trace, REPLAY).unwrap();

    let line = format!(
        "simulate --trace {} --policy best-fit --placements {} -o json",
        trace.display(),
        log.display()
    );
    let ran = tool.run(&line).await;

    assert_eq!(ran.code, 0, "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["pods"], &report["failed_pods"]), (&2.into(), &1.into()));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), PLACEMENTS);
}

#[tokio::test]
async fn pods_are_answered_one_by_one_over_standard_input_and_output() {
    let ran = Tool::new().run_with_input("simulate --stdio --policy binpack", REPLAY).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, PLACEMENTS), "{}", ran.err);
}

#[tokio::test]
async fn a_trace_that_is_not_there_is_named() {
    let ran = Tool::new().run("simulate --trace /nowhere.jsonl").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("/nowhere.jsonl") && ran.err.contains("No such file"), "{}", ran.err);
}

#[tokio::test]
async fn a_generated_replay_can_be_replayed_and_is_the_same_every_time() {
    let tool = Tool::new();
    let trace = tool.home().join("made.jsonl");
    let made = tool
        .run(&format!(
            "simulate generate --nodes 8 --fractional-share 50 --out {}",
            trace.display()
        ))
        .await;
    assert_eq!((made.code, made.out.as_str()), (0, ""), "{}", made.err);

    let ran = tool.run(&format!("simulate --trace {}", trace.display())).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("catalogue, policy"), "{}", ran.out);

    let again = tool.run("simulate generate --nodes 8 --fractional-share 50").await;
    assert_eq!(again.out, std::fs::read_to_string(&trace).unwrap());
}

#[tokio::test]
async fn a_share_that_cannot_be_is_refused_with_its_flag() {
    let ran = Tool::new().run("simulate generate --cpu-only-share 100").await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("--cpu-only-share 100 is not possible"), "{}", ran.err);
}

#[tokio::test]
async fn a_replay_with_time_is_simulated_and_drawn() {
    let tool = Tool::new();
    let (trace, plot) = (tool.home().join("queue.jsonl"), tool.home().join("queue.svg"));
    let made = tool
        .run(&format!("simulate generate --timed --nodes 2 --pods 50 --out {}", trace.display()))
        .await;
    assert_eq!(made.code, 0, "{}", made.err);

    let line = format!("simulate --trace {} --plot {}", trace.display(), plot.display());
    let ran = tool.run(&line).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("50 pods in") && ran.out.contains("p95"), "{}", ran.out);
    assert!(std::fs::read_to_string(&plot).unwrap().starts_with("<svg "));

    let json = tool.run(&format!("simulate --trace {} -o json", trace.display())).await;
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["pods"]["arrived"], 50);
    let timed = tool.run(&format!("simulate --trace {} --timing", trace.display())).await;
    assert!(timed.err.contains("--timing is for replays without time"), "{}", timed.err);
}

#[tokio::test]
async fn policies_are_compared_and_their_speed_is_measured() {
    let tool = Tool::new();
    let line = "simulate suite --nodes 150 --policies random,best-fit --seeds 42 --only gpu-20";
    let ran = tool.run(line).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("| mix | random at 100 % | best-fit at 100 % | gain |"));
    assert!(ran.out.contains("| `multi-gpu-20` |"), "{}", ran.out);

    let line = "simulate speed --nodes 10 --devices 8 --decisions 50 --fill 50 --waiting 5 -o json";
    let ran = tool.run(line).await;
    let report: serde_json::Value = serde_json::from_str(&ran.out).expect(&ran.err);
    assert_eq!(report["measurements"][1]["waiting"], 5);
    assert!(report["measurements"][0]["timing"]["decisions_per_s"].as_f64().unwrap() > 0.0);
}
