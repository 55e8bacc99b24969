//! The shape of the project itself: who may depend on whom, and what its documents promise.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Each member of the workspace with the members it is built from (tests aside).
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let names = dependencies
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|name| name.starts_with("fgpu-"))
            .map(str::to_owned);
        (package["name"].as_str().unwrap().to_owned(), names.collect())
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

/// How far out a member lies; it may only depend on what lies further in.
fn ring(member: &str) -> u32 {
    match member {
        "fgpu-domain" => 0,
        "fgpu-store" | "fgpu-runtime" | "fgpu-accelerator" | "fgpu-wire" | "fgpu-simulator" => 1,
        "fgpu-service" => 2,
        "fgpu-manager" | "fgpu-agent" => 3,
        "fgpu-cli" => 4,
        "fgpu-testkit" | "fgpu-fake-nvml" | "fgpu-integration" => 9,
        other => panic!("{other} is new: say here how far out it lies"),
    }
}

#[test]
fn dependencies_point_inwards() {
    for (member, dependencies) in members() {
        if ring(&member) == 9 {
            continue;
        }
        for dependency in dependencies {
            assert!(ring(&dependency) < ring(&member), "{member} depends on {dependency}");
        }
    }
}

/// All Rust files below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_domain_knows_no_io_no_async_and_no_clock() {
    const FORBIDDEN: [&str; 14] = [
        "std::fs",
        "std::net",
        "std::io",
        "std::env",
        "std::process",
        "std::thread",
        "std::sync::mpsc",
        "SystemTime",
        "Instant",
        "tokio",
        "async fn",
        ".await",
        "println!",
        "rand::",
    ];
    for path in sources(&root().join("common/domain/src")) {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in FORBIDDEN {
                assert!(!code.contains(word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
    let allowed: BTreeSet<&str> = ["imbl", "serde", "thiserror"].into();
    let manifest = fs::read_to_string(root().join("common/domain/Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split('[').next().unwrap();
    for line in section.lines().filter(|line| line.contains('=')) {
        let name = line.split(['.', ' ', '=']).next().unwrap();
        assert!(allowed.contains(name), "the domain may not depend on {name}");
    }
}

#[test]
fn every_test_the_architecture_names_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("## What always holds").nth(1).unwrap();
    let code: String =
        sources(&root()).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let named: Vec<&str> = section
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() >= 3 && !word.contains('/'))
        .collect();
    assert!(named.len() >= 10, "the list of invariants is short: {named:?}");
    for name in named {
        assert!(
            code.contains(&format!("fn {name}(")),
            "ARCHITECTURE.md names {name}: no such test"
        );
    }
}

/// All documents of the project.
fn documents(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(documents(&path));
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found
}

#[test]
fn links_between_documents_lead_somewhere() {
    for path in documents(&root()) {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file = path.parent().unwrap().join(target);
            assert!(file.exists(), "{}: {link}", path.display());
        }
    }
}

#[test]
fn every_error_code_is_documented() {
    let text = fs::read_to_string(root().join("docs/errors.md")).unwrap();
    for code in fgpu_wire::error::ErrorCode::ALL {
        assert!(text.contains(&format!("`{code}`")), "docs/errors.md does not know {code}");
    }
}
