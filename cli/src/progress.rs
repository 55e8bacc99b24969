//! What a person sees while a session is on its way: one live line on a terminal, one line per
//! change elsewhere. All of it on stderr.

use std::io::IsTerminal as _;
use std::time::Duration;

use fgpu_wire::v1;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;
use crate::view::{self, GrantView};

/// One line, cut off where the terminal ends.
const STATE: &str = "{spinner} {wide_msg}";

/// Shows how one thing goes.
#[derive(Debug)]
pub(crate) struct Progress {
    mode: Mode,
    last: String,
}

#[derive(Debug)]
enum Mode {
    Quiet,
    Lines,
    Live(ProgressBar),
}

impl Progress {
    /// A live line where stderr is a terminal, lines elsewhere, nothing if `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        let mode = if quiet {
            Mode::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(STATE));
            bar.enable_steady_tick(Duration::from_millis(120));
            Mode::Live(bar)
        } else {
            Mode::Lines
        };
        Self { mode, last: String::new() }
    }

    /// Shows the state, if it is another one.
    pub(crate) fn state(&mut self, text: &str) {
        if self.last == text {
            return;
        }
        text.clone_into(&mut self.last);
        match &self.mode {
            Mode::Quiet => {}
            Mode::Lines => output::say(text),
            Mode::Live(bar) => {
                bar.set_style(style(STATE));
                bar.set_message(text.to_owned());
            }
        }
    }

    /// Shows how far a pull is, both in bytes; a total of 0 is not known yet.
    pub(crate) fn pulling(&mut self, image: &str, done: u64, total: u64) {
        let Mode::Live(bar) = &self.mode else {
            let tenth = done.saturating_mul(10).checked_div(total).unwrap_or(0);
            let far = match total {
                0 => String::new(),
                _ => format!(": {tenth}0 % of {}", view::gib(total)),
            };
            return self.state(&format!("pulling image {image}{far}"));
        };
        "pulling".clone_into(&mut self.last);
        let template = match total {
            0 => "{spinner} {msg} {bytes}",
            _ => "{spinner} {msg} [{bar:30}] {bytes} of {total_bytes}",
        };
        bar.set_style(style(template));
        bar.set_message(format!("pulling image {image}"));
        bar.set_length(total.max(done));
        bar.set_position(done);
    }

    /// Says something that stays, above the live line.
    pub(crate) fn note(&self, text: &str) {
        match &self.mode {
            Mode::Quiet => {}
            Mode::Lines => output::say(text),
            Mode::Live(bar) => bar.suspend(|| output::say(text)),
        }
    }

    /// Takes the live line away, because other output begins.
    pub(crate) fn clear(&mut self) {
        if let Mode::Live(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// What to call a session: its name where it has one, and the id.
pub(crate) fn label(session: &v1::Session) -> String {
    match session.spec.as_ref().map(|spec| spec.name.as_str()) {
        Some(name) if !name.is_empty() => format!("{name} ({})", session.id),
        _ => session.id.clone(),
    }
}

/// Where a session is, in one line: `node a1, GPU-1: 10 fGPU, 80 GiB, 100 %, isolation shared`.
pub(crate) fn grant_line(grant: &GrantView) -> String {
    if grant.slices.is_empty() {
        return format!("node {}, no GPU", grant.node);
    }
    let devices: Vec<_> = grant.slices.iter().map(|slice| slice.device_uuid.as_str()).collect();
    format!(
        "node {}, {}: {}, {}, {}, isolation {}",
        grant.node,
        devices.join(" + "),
        view::fgpu(grant.fgpu_milli()),
        view::gib(grant.memory_bytes()),
        grant.compute(),
        grant.isolation.as_deref().unwrap_or("unknown"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_shows_fgpu_memory_percent_device_and_isolation() {
        let slice = v1::Slice {
            device_uuid: "GPU-1".into(),
            memory_bytes: 80 << 30,
            compute_milli: 1000,
            fgpu_milli: 10_000,
        };
        let grant = v1::Grant {
            node: "a1".into(),
            slices: vec![slice],
            isolation: v1::Isolation::Shared.into(),
        };

        assert_eq!(
            grant_line(&grant.into()),
            "node a1, GPU-1: 10 fGPU, 80 GiB, 100 %, isolation shared"
        );
    }
}
