use super::*;
use fgpu_domain::units::{CpuMilli, MemoryBytes};

fn machine() -> Machine {
    Machine {
        hostname: "GPU_Box".to_owned(),
        os: String::new(),
        kernel: String::new(),
        cpu: CpuMilli::cores(8),
        memory: MemoryBytes::gib(64),
    }
}

fn load(flags: &[(&str, &str)]) -> Result<AgentConfig, ConfigFaults> {
    let flags: Vec<(&str, &str, String)> =
        flags.iter().map(|(field, text)| ("--flag", *field, (*text).to_owned())).collect();
    AgentConfig::load(None, |_| None, &flags, &machine())
}

#[test]
fn what_nobody_says_follows_from_the_machine() {
    let config = load(&[]).unwrap();

    assert_eq!(config.node.as_str(), "gpu-box");
    assert_eq!(config.managers, ["http://127.0.0.1:7070"]);
    assert_eq!((config.cpu, config.memory), (CpuMilli::cores(8), MemoryBytes::gib(64)));
    assert_eq!(config.publish_on, IpAddr::from([127, 0, 0, 1]));
    assert!(!config.allow_shared && config.token.is_none());
}

#[test]
fn every_fault_is_told_at_once() {
    let refused = load(&[
        ("managers", "host:7070"),
        ("node", "Not A Name"),
        ("token", "short"),
        ("accelerator", "rocm"),
        ("runtime", "podman"),
        ("docker", "tcp://x"),
        ("gpu_attach", "magic"),
        ("labels", "=x"),
        ("reserve_cpu", "8"),
        ("allowed_mounts", "data"),
        ("relist", "0s"),
        ("tls.cert", "/a.crt"),
    ])
    .unwrap_err();

    let fields: Vec<&str> = refused.0.iter().map(|fault| fault.field.as_str()).collect();
    for field in [
        "managers",
        "node",
        "token",
        "accelerator",
        "runtime",
        "docker",
        "gpu_attach",
        "labels",
        "reserve_cpu",
        "allowed_mounts",
        "relist",
        "tls.key",
    ] {
        assert!(fields.contains(&field), "{field} is missing from {fields:?}");
    }
    assert!(!refused.to_string().contains("short"), "a token is never repeated: {refused}");
}

#[test]
fn a_token_does_not_travel_in_the_clear() {
    let token = format!("fgpu_abcdef_{}", "a".repeat(40));
    let away = [("managers", "http://10.0.0.1:7070"), ("token", token.as_str())];
    let here = [("managers", "http://127.0.0.1:7070"), ("token", token.as_str())];
    let tls = [
        ("managers", "https://10.0.0.1:7070"),
        ("token", token.as_str()),
        ("tls.ca", "/etc/fgpu/ca.crt"),
    ];

    assert!(load(&away).unwrap_err().to_string().contains("in the clear"));
    assert!(load(&here).is_ok());
    assert!(load(&tls).is_ok());
    assert!(load(&tls[..2]).unwrap_err().to_string().contains("tls.ca"));
}

#[test]
fn labels_come_as_a_table_or_as_a_list() {
    let text = "node = \"a1\"\n[labels]\nrack = \"r1\"\nrow = 2\n";
    let layers = Layers::new().file_text(Path::new("agent.toml"), text);
    let (settings, origins) = layers.finish::<AgentSettings>().unwrap();
    let table = settings.resolve(&origins, &machine()).unwrap();
    let list = load(&[("labels", "rack=r1,row=2")]).unwrap();

    assert_eq!(table.labels, list.labels);
    assert_eq!(list.labels["rack"], "r1");
}

#[test]
fn published_ports_listen_where_they_are_advertised() {
    let on = |advertise| load(&[("advertise_address", advertise)]).unwrap().publish_on.to_string();

    assert_eq!(on("127.0.0.1"), "127.0.0.1");
    assert_eq!(on("10.1.2.3"), "10.1.2.3");
    assert_eq!(on("node.example"), "0.0.0.0");
}

#[test]
fn every_setting_has_a_name_in_the_environment() {
    let lookup = |name: &str| match name {
        "FGPU_AGENT_RESERVE_MEMORY" => Some("4GiB".to_owned()),
        "FGPU_AGENT_LOGS_COUNT" => Some("5".to_owned()),
        _ => None,
    };
    let config = AgentConfig::load(None, lookup, &[], &machine()).unwrap();

    assert_eq!(config.memory, MemoryBytes::gib(60));
    assert_eq!(config.logs.count, 5);
}
