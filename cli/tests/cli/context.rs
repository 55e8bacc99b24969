//! Contexts, tokens, and where a token goes.

use crate::fake::{self, Script, always};
use crate::tool::Tool;
use fgpu_wire::v1::ListSessionsResponse;

async fn manager() -> fake::Fake {
    let list = always(Ok(ListSessionsResponse::default()));
    fake::start(Script { list, ..Script::default() }).await
}

fn bearer(fake: &fake::Fake) -> Option<String> {
    fake.script.calls("list").pop().unwrap().bearer
}

#[tokio::test]
async fn the_current_context_gives_address_and_token() {
    let (fake, tool) = (manager().await, Tool::new());

    let set = tool.run(&format!("context set lab --address {} --token sesame", fake.address)).await;
    let ran = tool.run("ps").await;

    assert_eq!((set.code, ran.code), (0, 0), "{}{}", set.err, ran.err);
    assert_eq!(bearer(&fake).as_deref(), Some("Bearer sesame"));
    let list = tool.run("context list").await;
    assert!(list.out.contains("lab") && !list.out.contains("sesame"), "{}", list.out);
}

#[tokio::test]
async fn the_token_of_a_context_goes_to_no_other_address() {
    let (fake, other, tool) = (manager().await, manager().await, Tool::new());
    tool.run(&format!("context set lab --address {} --token sesame", fake.address)).await;

    let ran = tool.run(&format!("ps --address {}", other.address)).await;

    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(bearer(&other), None);
}

#[tokio::test]
async fn the_environment_gives_address_and_token() {
    let (fake, tool) = (manager().await, Tool::new());

    let mut command = tool.command("ps");
    command.env("FGPU_ADDRESS", &fake.address).env("FGPU_TOKEN", "from-env");
    let ran = crate::tool::finish(command.spawn().unwrap(), "ps").await;

    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(bearer(&fake).as_deref(), Some("Bearer from-env"));
}

#[tokio::test]
async fn a_broken_context_file_is_an_error_that_names_it() {
    let tool = Tool::new();
    let folder = tool.home().join(".config/fgpu");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), "nonsense").unwrap();

    let ran = tool.run("ps").await;

    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("config.toml"), "{}", ran.err);
}
