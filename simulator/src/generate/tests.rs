use super::*;
use crate::run::stdio;
use fgpu_domain::placement::Policy;
use std::collections::BTreeSet;
use std::fs;

const FILL: Fill = Fill { seed: 42, load_milli: 1300, shuffle: true };

/// Four hundred GPUs of two models, and a list with every kind of pod.
fn source() -> Source {
    Source { nodes: Some(100), list_seed: 1, ..Source::default() }
}

fn with(mix: Mix) -> Source {
    Source { mix, ..source() }
}

fn list(mix: Mix) -> Lists {
    with(mix).lists().unwrap()
}

fn demand(pods: &[PodLine], counts: impl Fn(&PodLine) -> bool) -> u64 {
    pods.iter().filter(|pod| counts(pod)).map(PodLine::gpu_demand).sum()
}

/// A share in percent, from outside the code that makes it.
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole as f64
}

fn close(found: f64, wanted: u32, tolerance: f64) {
    assert!((found - f64::from(wanted)).abs() <= tolerance, "{found} instead of {wanted}");
}

fn text(source: &Source, fill: Fill) -> String {
    let mut bytes = Vec::new();
    Replay::fill(source, fill).unwrap().write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn several(pod: &PodLine) -> bool {
    pod.num_gpu > 1 && pod.gpu_milli == 1000
}

#[test]
fn fractions_ask_for_the_share_of_the_gpu_that_is_wanted() {
    for share in [0, 20, 40, 60, 80, 100] {
        let pods = list(Mix { fractional_share: Some(share), ..Mix::default() }).pods;
        let part = demand(&pods, |pod| pod.gpu_milli < 1000);
        close(percent(part, demand(&pods, |_| true)), share, 1.0);
    }
}

#[test]
fn several_gpus_ask_for_the_share_that_is_wanted_and_the_rest_keeps_its_proportions() {
    let base = list(Mix::default()).pods;
    let fractions = |pods: &[PodLine]| {
        let part = demand(pods, |pod| pod.gpu_milli < 1000);
        percent(part, demand(pods, |pod| !several(pod)))
    };
    for share in [0, 20, 30, 40, 50, 100] {
        let pods = list(Mix { multi_gpu_share: Some(share), ..Mix::default() }).pods;
        close(percent(demand(&pods, several), demand(&pods, |_| true)), share, 1.5);
        if share < 100 {
            assert!((fractions(&pods) - fractions(&base)).abs() < 2.0, "{share}");
        }
    }
}

#[test]
fn a_mix_asks_for_as_much_gpu_as_the_list_it_was_made_of() {
    let base = demand(&list(Mix::default()).pods, |_| true);
    let mix = Mix { fractional_share: Some(30), multi_gpu_share: Some(50), ..Mix::default() };
    close(percent(demand(&list(mix).pods, |_| true), base), 100, 1.5);
}

#[test]
fn exactly_the_wanted_share_of_gpu_pods_is_constrained_to_models_that_exist_and_hold_them() {
    for (share, weights) in
        [(0, ModelWeights::Capacity), (10, ModelWeights::Capacity), (33, ModelWeights::Even)]
    {
        let mix =
            Mix { constrained_share: Some(share), constrained_models: weights, ..Mix::default() };
        let Lists { nodes, pods } = list(mix);
        let with_gpu = pods.iter().filter(|pod| pod.num_gpu > 0).count();
        let constrained: Vec<&PodLine> =
            pods.iter().filter(|pod| !pod.gpu_spec.is_empty()).collect();
        let wanted = (with_gpu * usize::try_from(share).unwrap() + 50) / 100;
        assert_eq!(constrained.len(), wanted);
        for pod in constrained {
            assert!(pod.gpu_spec.len() <= 2 && pod.num_gpu > 0, "{pod:?}");
            assert!(nodes.iter().any(|node| holds(node, pod)), "{pod:?}");
        }
    }
}

#[test]
fn models_are_named_in_proportion_to_their_capacity_or_all_alike() {
    let named = |weights| {
        let mix = Mix {
            fractional_share: Some(100),
            constrained_share: Some(100),
            constrained_models: weights,
            ..Mix::default()
        };
        let pods = list(mix).pods;
        let count = |model: &str| pods.iter().filter(|pod| pod.gpu_spec == [model]).count();
        (count("H100"), count("T4"))
    };
    let (common, rare) = named(ModelWeights::Capacity);
    // 240 GPUs of the one and 20 of the other.
    assert!(common > 8 * rare && rare > 0, "{common} and {rare}");
    let (common, rare) = named(ModelWeights::Even);
    assert!(common < 2 * rare && rare < 2 * common, "{common} and {rare}");
}

#[test]
fn pods_without_gpu_are_the_share_of_all_pods_that_is_wanted() {
    for share in [0, 5, 30, 60] {
        let pods = list(Mix { cpu_only_share: Some(share), ..Mix::default() }).pods;
        let cpu_only = pods.iter().filter(|pod| pod.num_gpu == 0).count();
        let [part, whole] = [cpu_only, pods.len()].map(|count| u64::try_from(count).unwrap());
        close(percent(part, whole), share, 0.2);
    }
}

#[test]
fn shares_that_cannot_be_are_refused_with_the_flag() {
    let refused = |mix: Mix| with(mix).lists().map(|_| ()).unwrap_err().to_string();
    let over = Mix { fractional_share: Some(60), multi_gpu_share: Some(50), ..Mix::default() };
    let said = "--multi-gpu-share 50 is not possible: the shares come to more than 100 %";
    assert_eq!(refused(over), said);
    let all = Mix { cpu_only_share: Some(100), ..Mix::default() };
    assert!(refused(all).contains("--cpu-only-share 100"));
    let narrow =
        Source { devices: Some(1), ..with(Mix { multi_gpu_share: Some(20), ..Mix::default() }) };
    assert!(narrow.lists().unwrap_err().to_string().contains("the list has no pod of a kind"));
    let none = Source { devices: Some(0), ..source() };
    assert!(matches!(none.lists().unwrap_err(), GenerateError::NoGpu));
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_seed_others() {
    let mix = Mix { constrained_share: Some(20), ..Mix::default() };
    let one = text(&with(mix), FILL);
    assert_eq!(one, text(&with(mix), FILL));
    assert_ne!(one, text(&with(mix), Fill { seed: 43, ..FILL }));
    let other_list = Source { list_seed: 2, ..with(mix) };
    assert_ne!(one, text(&other_list, FILL));
}

#[test]
fn the_order_changes_with_the_seed_and_the_usual_classes_do_not() {
    let classes = |seed| Replay::fill(&source(), Fill { seed, ..FILL }).unwrap().classes;
    assert_eq!(classes(42), classes(43));
    let pods = list(Mix::default()).pods;
    let covered: u64 = classes(42).iter().map(|class| class.weight).sum();
    let all = u64::try_from(pods.len()).unwrap();
    assert!(covered * 100 >= all * 95 && covered < all, "{covered} of {all}");
}

#[test]
fn a_replay_reaches_its_load_and_no_more() {
    for load_milli in [300, 1000, 1300] {
        let replay = Replay::fill(&source(), Fill { load_milli, ..FILL }).unwrap();
        let header = &replay.header;
        let load = header.gpu_demand_milli * 1000 / header.gpu_capacity_milli;
        assert!(load <= load_milli && load + 25 >= load_milli, "{load}");
        let names: BTreeSet<&str> = replay.pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names.len(), replay.pods.len());
    }
}

#[test]
fn what_is_generated_is_read_and_every_pod_answered() {
    let text = text(&source(), FILL);
    let mut answers = Vec::new();
    stdio(Policy::BestFit, 0, text.as_bytes(), &mut answers).unwrap();
    let pods = text.lines().filter(|line| line.starts_with(r#"{"kind":"pod""#)).count();
    assert_eq!(String::from_utf8(answers).unwrap().lines().count(), pods);
}

#[test]
fn a_large_cluster_is_as_large_as_it_was_asked_for() {
    let source = Source { nodes: Some(5_000), devices: Some(8), ..Source::default() };
    let replay = Replay::fill(&source, FILL).unwrap();
    assert_eq!(replay.header.gpu_capacity_milli, 40_000_000);
    assert_eq!(replay.nodes.len(), 5_000);
}

#[test]
fn lists_of_openb_form_are_read_and_wrong_cells_named() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let nodes = "sn,cpu_milli,memory_mib,gpu,model\nn1,8000,16384,2,T4\nn2,8000,16384,0,\n";
    let pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n\
                p1,1000,512,1,470,T4|A10|T4,LS\np2,1000.0,,0,100,,BE\n";
    let source = Source {
        node_list: Some(written("nodes.csv", nodes)),
        pod_list: Some(written("pods.csv", pods)),
        ..Source::default()
    };

    let lists = source.lists().unwrap();

    assert_eq!(lists.nodes[1].gpu_model, None);
    assert_eq!(lists.pods[0].gpu_spec, ["A10", "T4"]);
    assert_eq!((lists.pods[1].memory_mib, lists.pods[1].gpu_milli), (0, 0));
    let cases = [
        ("name,cpu_milli\n", "has no column `memory_mib`"),
        (&pods.replace("470", "much"), "line 2: `much`: a whole number is wanted"),
        (&pods.replace("470", "0"), "line 2: `0`: a pod with GPUs wants 1 to 1000"),
        (&pods.replace(",LS", ""), "7 cells without quotes are wanted"),
    ];
    for (text, said) in cases {
        let source = Source { pod_list: Some(written("bad.csv", text)), ..source.clone() };
        let refused = source.lists().map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
}
