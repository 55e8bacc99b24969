//! Help texts are snapshots; a wrong command line is exit code 2.

use crate::tool::{Tool, snapshot};

#[tokio::test]
async fn help_is_what_it_was() {
    let tool = Tool::new();
    for (line, name) in [
        ("--help", "help.txt"),
        ("run --help", "run-help.txt"),
        ("project set --help", "project-set-help.txt"),
        ("quota set --help", "quota-set-help.txt"),
        ("defrag --help", "defrag-help.txt"),
        ("class set --help", "class-set-help.txt"),
    ] {
        let ran = tool.run(line).await;
        assert_eq!(ran.code, 0, "{line}: {}", ran.err);
        snapshot(name, &ran.out);
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_exit_code_2_and_prints_no_data() {
    let tool = Tool::new();
    for line in [
        "",
        "no-such-verb",
        "run --fgpu 0",
        "run --fgpu 1 --gpus 1",
        "run --gpu-model H100",
        "run --env-file /nowhere --fgpu x",
        "ps --address nowhere",
        "ps --context unknown",
        "simulate",
        "port-forward s1 nonsense",
    ] {
        let ran = tool.run(line).await;
        assert_eq!(ran.code, 2, "`{line}`: {}", ran.err);
        assert_eq!(ran.out, "", "`{line}`");
        assert!(!ran.err.is_empty(), "`{line}`");
    }
}

#[tokio::test]
async fn every_shell_gets_a_completion_script() {
    let tool = Tool::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = tool.run(&format!("completion {shell}")).await;
        assert_eq!(ran.code, 0, "{shell}");
        assert!(ran.out.contains("port-forward"), "{shell}");
    }
}
