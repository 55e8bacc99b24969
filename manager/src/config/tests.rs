use super::*;
use fgpu_domain::slice::UnitRule;
use fgpu_domain::units::Fgpu;

fn nothing(_: &str) -> Option<String> {
    None
}

fn load(flags: &[(&str, &str)]) -> Result<ManagerConfig, ConfigFaults> {
    let flags: Vec<(&str, &str, String)> =
        flags.iter().map(|(field, text)| (*field, *field, (*text).to_owned())).collect();
    ManagerConfig::load(None, nothing, &flags)
}

fn fields(faults: &ConfigFaults) -> Vec<&str> {
    faults.0.iter().map(|fault| fault.field.as_str()).collect()
}

#[test]
fn without_settings_everything_has_its_default() {
    let config = load(&[]).unwrap();

    assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(config.timings, Timings::default());
    assert!(matches!(config.store, StoreConfig::Embedded { .. }));
    assert_eq!(config.ended_limit, 10_000);
}

#[test]
fn every_documented_setting_is_known_and_reaches_the_configuration() {
    for field in FIELDS {
        // A value no setting of another type takes shows that the name is known.
        if let Err(faults) = load(&[(field, "1")]) {
            assert!(!faults.to_string().contains("unknown field"), "{field}: {faults}");
        }
    }
    let config = load(&[
        ("units.unit_memory", "8GiB"),
        ("units.quantum", "0.5"),
        ("policy", "spread"),
        ("allow_shared", "true"),
        ("defaults.cpu", "500m"),
        ("defaults.memory", "1GiB"),
        ("timings.lost", "50s"),
        ("sessions.ended_limit", "5"),
        ("store.etcd", "http://a:2379,http://b:2379"),
        ("advertise", "http://m:7070/"),
    ])
    .unwrap();
    assert_eq!(config.units.default, UnitRule::UnitMemory(MemoryBytes::gib(8)));
    assert_eq!(config.units.quantum, Fgpu(500));
    assert_eq!(config.policy, Policy::Spread);
    assert!(config.allow_shared);
    assert_eq!(config.default_cpu, CpuMilli(500));
    assert_eq!(config.timings.lost, Duration::from_secs(50));
    assert_eq!(config.ended_limit, 5);
    assert_eq!(config.advertise.as_deref(), Some("http://m:7070"));
    let StoreConfig::Etcd(etcd) = config.store else { panic!("etcd was asked for") };
    assert_eq!(etcd.endpoints, ["http://a:2379", "http://b:2379"]);
}

#[test]
fn beyond_loopback_a_manager_without_certificates_is_refused_with_the_next_step() {
    let refused = load(&[("listen", "10.0.0.1:7070")]).unwrap_err();
    assert_eq!(fields(&refused), ["listen"]);
    assert!(refused.to_string().contains("tls.cert"), "{refused}");

    let tls = |listen| [("listen", listen), ("tls.cert", "/c.pem"), ("tls.key", "/k.pem")];
    assert!(load(&tls("10.0.0.1:7070")).is_ok());
    let unreachable = load(&tls("0.0.0.0:7070")).unwrap_err();
    assert_eq!(fields(&unreachable), ["advertise"]);
    assert!(load(&[("listen", "[::1]:7070")]).is_ok());
}

#[test]
fn times_out_of_order_are_refused_together_with_all_else_that_is_wrong() {
    let refused = load(&[
        ("timings.suspect", "2s"),
        ("timings.lost", "20s"),
        ("policy", "best"),
        ("units.quantum", "0"),
        ("tls.cert", "/c.pem"),
    ])
    .unwrap_err();

    let expected = ["policy", "units.quantum", "timings.suspect", "timings.lost", "tls.key"]
        .map(str::to_owned);
    let mut found: Vec<String> = fields(&refused).into_iter().map(str::to_owned).collect();
    found.sort();
    let mut sorted = expected.to_vec();
    sorted.sort();
    assert_eq!(found, sorted, "{refused}");
}

#[test]
fn a_rule_by_model_comes_from_the_file_and_two_rules_at_once_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manager.toml");
    std::fs::write(&file, "[units.by_model.\"NVIDIA H100\"]\nfgpu_per_device = 20\n").unwrap();
    let config = ManagerConfig::load(Some(&file), nothing, &[]).unwrap();
    let rule = config.units.by_model["NVIDIA H100"];
    assert_eq!(rule, UnitRule::FgpuPerDevice(Fgpu::whole(20)));

    let both = load(&[("units.fgpu_per_device", "10"), ("units.unit_memory", "8GiB")]).unwrap_err();
    assert_eq!(fields(&both), ["units.unit_memory"]);
}

#[test]
fn a_first_token_that_cannot_be_used_is_a_fault_that_does_not_show_it() {
    let lookup = |name: &str| (name == "FGPU_BOOTSTRAP_TOKEN").then(|| "hunter2".to_owned());
    let refused = ManagerConfig::load(None, lookup, &[]).unwrap_err();
    assert_eq!(fields(&refused), ["FGPU_BOOTSTRAP_TOKEN"]);
    assert!(!refused.to_string().contains("hunter2"), "{refused}");
}

#[test]
fn a_measurement_may_lower_what_is_committed_together_and_no_more() {
    let commits = |variable: &str, text: &str| {
        let lookup = |name: &str| (name == variable).then(|| text.to_owned());
        ManagerConfig::load(None, lookup, &[]).map(|config| config.commits)
    };
    let most = CommitLimits::default();
    let (batch, flight) = ("FGPU_BENCH_MAX_BATCH", "FGPU_BENCH_IN_FLIGHT");
    assert_eq!(commits(batch, "").unwrap(), most);
    assert_eq!(commits(batch, "1").unwrap(), CommitLimits { batch: 1, ..most });
    assert_eq!(commits(flight, "1").unwrap(), CommitLimits { in_flight: 1, ..most });
    for (variable, bad) in [(batch, "0"), (batch, "257"), (batch, "many"), (flight, "0")] {
        assert_eq!(fields(&commits(variable, bad).unwrap_err()), [variable]);
    }
}
