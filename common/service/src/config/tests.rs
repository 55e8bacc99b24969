use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    listen: Option<Text>,
    endpoints: Option<TextList>,
    timings: Timings,
    by_model: BTreeMap<String, Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Timings {
    lost: Option<Text>,
    count: Option<Text>,
}

const FIELDS: [&str; 3] = ["listen", "endpoints", "timings.lost"];

#[test]
fn a_later_layer_wins_and_every_value_knows_where_it_came_from() {
    let file = "listen = \"a\"\nendpoints = [\"x\", \"y\"]\n\n[timings]\nlost = \"40s\"\ncount = 3\n[by_model]\n\"H100 80GB\" = 0.5\n";
    let lookup = |name: &str| (name == "FGPU_TIMINGS_LOST").then(|| "50s".to_owned());

    let (settings, origins) = Layers::new()
        .file_text(Path::new("/etc/f.toml"), file)
        .environment("FGPU", &FIELDS, lookup)
        .flag("--listen", "listen", "b")
        .finish::<Settings>()
        .unwrap();

    assert_eq!(settings.listen, Some("b".into()));
    assert_eq!(settings.endpoints, Some(TextList(vec!["x".to_owned(), "y".to_owned()])));
    assert_eq!(settings.timings.lost, Some("50s".into()));
    assert_eq!(settings.timings.count, Some("3".into()));
    assert_eq!(settings.by_model["H100 80GB"], "0.5".into());
    assert_eq!(origins.of("listen").to_string(), "--listen");
    assert_eq!(origins.of("endpoints").to_string(), "/etc/f.toml:2");
    assert_eq!(origins.of("timings.lost").to_string(), "env FGPU_TIMINGS_LOST");
    assert_eq!(origins.of("timings.count").to_string(), "/etc/f.toml:6");
    assert_eq!(origins.of("other"), Source::Default);
}

#[test]
fn all_faults_are_reported_at_once_with_file_and_line() {
    let file = "lisen = \"a\"\nendpoints = 3\n[timings]\nlost = [1]\n";

    let faults =
        Layers::new().file_text(Path::new("f.toml"), file).finish::<Settings>().unwrap_err();

    let shown = faults.to_string();
    assert_eq!(faults.0.len(), 3, "{shown}");
    assert!(shown.starts_with("the configuration has 3 faults"), "{shown}");
    for part in ["lisen = `a` (f.toml:1)", "unknown field `lisen`", "(f.toml:2)", "(f.toml:4)"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_a_fault() {
    let missing = Layers::new().file(Path::new("/no/such.toml")).finish::<Settings>().unwrap_err();
    assert!(missing.to_string().contains("/no/such.toml"), "{missing}");

    let broken = Layers::new()
        .file_text(Path::new("f.toml"), "listen = \"a\"\nx = = 1\n")
        .finish::<Settings>()
        .unwrap_err();
    assert!(broken.to_string().contains("f.toml:2"), "{broken}");
}

#[test]
fn a_list_in_the_environment_is_separated_by_commas() {
    let lookup = |name: &str| (name == "FGPU_ENDPOINTS").then(|| "a, b,".to_owned());
    let (settings, _) =
        Layers::new().environment("FGPU", &FIELDS, lookup).finish::<Settings>().unwrap();
    assert_eq!(settings.endpoints, Some(TextList(vec!["a".to_owned(), "b".to_owned()])));
}

#[test]
fn resolving_gathers_every_fault_and_names_its_origin() {
    let (settings, origins) = Layers::new()
        .flag("--lost", "timings.lost", "soon")
        .flag("--count", "timings.count", "many")
        .finish::<Settings>()
        .unwrap();
    let mut resolver = Resolver::new(&origins);

    let lost = resolver.with("timings.lost", settings.timings.lost.as_ref(), parse_duration);
    let count = resolver.value("timings.count", settings.timings.count.as_ref(), 7_u32);
    let faults = resolver.finish((lost, count)).unwrap_err();

    assert_eq!((lost, count), (None, 7));
    let fields: Vec<&str> = faults.0.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["timings.lost", "timings.count"]);
    assert!(faults.to_string().contains("timings.lost = `soon` (--lost)"), "{faults}");
    assert_eq!(parse_duration("40s"), Ok(Duration::from_secs(40)));
}
