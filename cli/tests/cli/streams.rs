//! `exec` and `port-forward`: bytes both ways.

use crate::fake::{self, Script, always, session};
use crate::tool::Tool;
use fgpu_wire::v1::Phase;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

#[tokio::test]
async fn exec_passes_input_prints_output_and_gives_the_command_s_exit_code() {
    let fake = fake::start(Script::default()).await;
    let tool = Tool::new();

    let line = format!("exec -i --address {} train -- cat -n", fake.address);
    let with_input = tool.run_with_input(&line, "hello").await;
    let without = tool.run(&format!("exec --address {} train -- ls", fake.address)).await;

    assert_eq!((with_input.code, with_input.out.as_str()), (5, "hello"), "{}", with_input.err);
    assert_eq!(without.code, 3, "{}", without.err);
}

#[tokio::test]
async fn a_terminal_is_asked_for_only_where_there_is_one() {
    let fake = fake::start(Script::default()).await;

    let ran = Tool::new().run(&format!("exec -it --address {} train sh", fake.address)).await;

    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("-i"), "{}", ran.err);
}

#[tokio::test]
async fn several_connections_are_forwarded_at_once() {
    let get = always(Ok(session(Phase::Running)));
    let fake = fake::start(Script { get, ..Script::default() }).await;
    let tool = Tool::new();
    let line = format!("port-forward train :80 --address {}", fake.address);
    let mut child = tool.command(&line).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = out.next_line().await.unwrap().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");

    let mut first = TcpStream::connect(&address).await.unwrap();
    let mut second = TcpStream::connect(&address).await.unwrap();
    second.write_all(b"two").await.unwrap();
    first.write_all(b"one").await.unwrap();

    let mut answer = [0; 3];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ONE");
    second.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"TWO");
    first.shutdown().await.unwrap();
    assert_eq!(first.read(&mut answer).await.unwrap(), 0, "our end is passed on, and comes back");
    child.kill().await.unwrap();
}
