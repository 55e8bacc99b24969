//! Commands beside the main process.

use std::time::Duration;

use bytes::Bytes;
use fgpu_runtime::{ExecSpec, LogStream, RuntimeError};
use futures_util::StreamExt;

use crate::bench::{Bench, DEADLINE, of_stream, text};

pub(crate) async fn a_command_in_a_container_has_input_output_and_exit_code(bench: &Bench) {
    let id = bench.started(&bench.script("s1", "sleep 1000")).await;
    let spec = ExecSpec {
        command: ["sh", "-c", "cat; echo oops >&2; exit 5"].map(str::to_owned).to_vec(),
        stdin: true,
        ..ExecSpec::default()
    };
    let (stdin, output, _, exit) = bench.runtime.exec(&id, spec).await.unwrap().into_parts();
    let stdin = stdin.unwrap();
    for piece in ["hello ", "there\n"] {
        stdin.send(Bytes::from(piece)).await.unwrap();
    }
    drop(stdin);
    let chunks: Vec<_> = output.map(Result::unwrap).collect().await;
    assert_eq!(of_stream(&chunks, LogStream::Stdout), "hello there\n");
    assert_eq!(of_stream(&chunks, LogStream::Stderr), "oops\n");
    assert_eq!(exit.await.unwrap(), 5);

    // Without input it is at its end at once.
    let spec = ExecSpec { command: vec!["cat".to_owned()], ..ExecSpec::default() };
    let session = bench.runtime.exec(&id, spec).await.unwrap();
    assert!(session.stdin.is_none());
    assert_eq!(session.exit_code().await.unwrap(), 0);

    bench.runtime.stop(&id, Duration::ZERO).await.unwrap();
    let refused = bench
        .runtime
        .exec(&id, ExecSpec { command: vec!["true".to_owned()], ..ExecSpec::default() });
    let refused = refused.await.unwrap_err();
    assert!(matches!(refused, RuntimeError::NotRunning { .. }), "{refused:?}");
}

pub(crate) async fn a_command_in_a_container_has_environment_and_folder(bench: &Bench) {
    let mut spec = bench.script("s1", "sleep 1000");
    spec.env.insert("OF".to_owned(), "container".to_owned());
    spec.workdir = Some("/tmp".to_owned());
    let id = bench.started(&spec).await;
    let spec = ExecSpec {
        command: ["sh", "-c", "echo $OF $OWN $(pwd)"].map(str::to_owned).to_vec(),
        env: [("OWN".to_owned(), "command".to_owned())].into(),
        ..ExecSpec::default()
    };
    let (_, output, _, exit) = bench.runtime.exec(&id, spec).await.unwrap().into_parts();
    assert_eq!(text(output).await, "container command /tmp\n");
    assert_eq!(exit.await.unwrap(), 0);
}

pub(crate) async fn a_terminal_is_resized(bench: &Bench) {
    let id = bench.started(&bench.script("s1", "sleep 1000")).await;
    let script = "echo ready; read line; stty size; [ -t 0 ] && [ -t 1 ] && exit 4";
    let spec = ExecSpec {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        tty: true,
        stdin: true,
        ..ExecSpec::default()
    };
    let (stdin, mut output, resizer, exit) =
        bench.runtime.exec(&id, spec).await.unwrap().into_parts();
    let mut seen = String::new();
    while !seen.contains("ready") {
        let piece = tokio::time::timeout(DEADLINE, output.next()).await.unwrap();
        seen += &String::from_utf8_lossy(&piece.unwrap().unwrap().data);
    }
    resizer.resize(123, 45).await.unwrap();
    let stdin = stdin.unwrap();
    stdin.send(Bytes::from("go\n")).await.unwrap();
    let rest = text(output).await;
    assert!(rest.contains("45 123"), "{rest}");
    assert_eq!(exit.await.unwrap(), 4);

    let plain = ExecSpec { command: vec!["true".to_owned()], ..ExecSpec::default() };
    let (_, _, resizer, _) = bench.runtime.exec(&id, plain).await.unwrap().into_parts();
    let refused = resizer.resize(1, 1).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::Unsupported { .. }), "{refused:?}");
}

pub(crate) async fn a_missing_command_beside_the_main_one_is_told(bench: &Bench) {
    let id = bench.started(&bench.script("s1", "sleep 1000")).await;
    let spec = ExecSpec { command: vec!["no-such-program".to_owned()], ..ExecSpec::default() };
    match bench.runtime.exec(&id, spec).await {
        Err(RuntimeError::CommandNotFound { command, .. }) => {
            assert_eq!(command, "no-such-program");
        }
        Err(other) => panic!("{other:?}"),
        Ok(session) => {
            let code = session.exit_code().await.unwrap();
            assert!(code == 126 || code == 127, "{code}");
        }
    }
    let none = bench.runtime.exec(&id, ExecSpec::default()).await.unwrap_err();
    assert!(matches!(none, RuntimeError::InvalidSpec { field: "command", .. }), "{none:?}");
}
