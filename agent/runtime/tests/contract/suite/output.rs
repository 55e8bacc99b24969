//! What comes out of a container: its output, its surroundings, its events.

use std::time::Duration;

use fgpu_runtime::{EventKind, ExecSpec, LogOptions, LogStream};
use futures_util::StreamExt;

use crate::bench::{Bench, DEADLINE, of_stream, text};

pub(crate) async fn the_last_lines_of_output_are_read_with_their_times(bench: &Bench) {
    let script = "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2";
    let id = bench.started(&bench.script("s1", script)).await;
    bench.ended(&id).await;
    let logs = bench.runtime.logs(&id, LogOptions::default()).await.unwrap();
    let chunks: Vec<_> = logs.map(Result::unwrap).collect().await;
    let out = of_stream(&chunks, LogStream::Stdout);
    assert_eq!(out, "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(of_stream(&chunks, LogStream::Stderr), "oops\n");

    let options = LogOptions { tail: Some(3), timestamps: true, ..LogOptions::default() };
    let last = bench.all_output(&id, options).await;
    assert_eq!(last.lines().count(), 3, "{last}");
    for line in last.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
        assert!(rest.starts_with("line") || rest == "oops", "{line}");
    }
    let options =
        LogOptions { since_unix_s: Some(i64::from(i32::MAX) - 1), ..LogOptions::default() };
    assert_eq!(bench.all_output(&id, options).await, "");
}

pub(crate) async fn output_is_followed_to_the_end_of_the_command(bench: &Bench) {
    let script = "echo one; while [ ! -e /tmp/$GO ]; do sleep 0.05; done; rm /tmp/$GO; echo two";
    let mut spec = bench.script("s1", script);
    let go = spec.name.clone();
    spec.env.insert("GO".to_owned(), go.clone());
    let id = bench.started(&spec).await;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut output = bench.runtime.logs(&id, options).await.unwrap();
    let first = tokio::time::timeout(DEADLINE, output.next()).await.unwrap();
    assert_eq!(first.unwrap().unwrap().data, "one\n");

    let touch =
        ExecSpec { command: vec!["touch".to_owned(), format!("/tmp/{go}")], ..ExecSpec::default() };
    let session = bench.runtime.exec(&id, touch).await.unwrap();
    assert_eq!(session.exit_code().await.unwrap(), 0);
    assert_eq!(text(output).await, "two\n");
}

pub(crate) async fn events_tell_the_life_of_a_container(bench: &Bench) {
    let mut events = bench.runtime.events().await.unwrap();
    let stranger = bench.stranger();
    let mut others = stranger.events().await.unwrap();
    let id = bench.started(&bench.script("s1", "sleep 1000")).await;
    let mut wait = async |wanted: EventKind| {
        let read = async {
            loop {
                let event = events.next().await.expect("events go on");
                assert_eq!(event.id, id);
                if event.kind == wanted {
                    return;
                }
            }
        };
        let seen = tokio::time::timeout(DEADLINE, read).await;
        assert!(seen.is_ok(), "no {wanted:?}");
    };
    wait(EventKind::Started).await;
    bench.runtime.stop(&id, Duration::ZERO).await.unwrap();
    wait(EventKind::Exited).await;
    bench.runtime.remove(&id).await.unwrap();
    wait(EventKind::Removed).await;
    let none = tokio::time::timeout(Duration::from_millis(1), others.next()).await;
    assert!(none.is_err(), "{none:?}");
}

pub(crate) async fn environment_folder_and_terminal_are_as_asked(bench: &Bench) {
    let mut spec = bench.script("s1", "echo \"$A|$B|$(pwd)\"; [ -t 1 ] || echo plain");
    spec.env.insert("A".to_owned(), "one two=3".to_owned());
    spec.env.insert("B".to_owned(), String::new());
    spec.workdir = Some("/tmp".to_owned());
    assert_eq!(bench.output_of(&spec).await, "one two=3||/tmp\nplain\n");

    let mut spec = bench.script("s2", "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal");
    spec.tty = true;
    assert_eq!(bench.output_of(&spec).await, "terminal\r\n");
}
