//! Signals become a cancellation token.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal: as a shell reports SIGINT.
const SECOND_SIGNAL_EXIT: i32 = 130;

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once, without
/// waiting for anything.
///
/// # Errors
/// If the system does not let the process handle these signals.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "shutting down; once more to stop at once");
        cancelled.cancel();
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "stopped at once");
        std::process::exit(SECOND_SIGNAL_EXIT);
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    #[tokio::test]
    async fn a_signal_cancels_the_token() {
        let token = on_signals().unwrap();
        assert!(!token.is_cancelled());

        let own = std::process::id().to_string();
        assert!(Command::new("kill").args(["-TERM", &own]).status().unwrap().success());

        let seen = tokio::time::timeout(Duration::from_secs(10), token.cancelled()).await;
        assert!(seen.is_ok(), "SIGTERM did not cancel the token within 10 s");
    }
}
