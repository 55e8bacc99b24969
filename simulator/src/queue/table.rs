//! The report of a simulation with time, for people.

use super::report::{Distribution, QueueReport, Use};
use std::fmt::Write as _;

impl QueueReport {
    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}, policy {}, seed {}{}: {} nodes, {} GPUs\n",
            self.name,
            self.policy,
            self.seed,
            if self.plain_queue { ", plain queue" } else { "" },
            self.nodes,
            self.gpus
        );
        self.write_pods(&mut text);
        self.write_use(&mut text);
        self.write_waits(&mut text);
        self.write_fairness(&mut text);
        text
    }

    fn write_pods(&self, text: &mut String) {
        let pods = &self.pods;
        line(
            text,
            format!(
                "{} pods in {}: {} completed, {} stopped, {} refused, {} waiting, {} running; \
                 {} preemptions; all over after {}",
                pods.arrived,
                duration(self.arriving_ms),
                pods.completed,
                pods.stopped,
                pods.refused,
                pods.waiting,
                pods.running,
                self.preemptions,
                duration(self.makespan_ms)
            ),
        );
        for (code, count) in &self.refused_by_code {
            line(text, format!("refused with {code}: {count}"));
        }
    }

    fn write_use(&self, text: &mut String) {
        text.push('\n');
        let head = ["gpu%", "cpu%", "fragmented%", "idle wanted%", "queue"];
        row(text, "", head.map(str::to_owned));
        let cells = |used: &Use| {
            [used.gpu_pct, used.cpu_pct, used.fragmented_pct, used.idle_wanted_pct, used.queue]
                .map(|value| format!("{value:.1}"))
        };
        row(text, "while pods arrive", cells(&self.while_arriving));
        row(text, "whole time", cells(&self.whole_time));
    }

    fn write_waits(&self, text: &mut String) {
        text.push('\n');
        let head = ["started", "mean", "p50", "p95", "p99", "max"];
        row(text, "wait", head.map(str::to_owned));
        let wait = &self.wait;
        row(text, "all", times(&wait.all));
        for (what, by) in
            [("", &wait.by_kind), ("class ", &wait.by_class), ("project ", &wait.by_project)]
        {
            for (name, waits) in by {
                row(text, &format!("{what}{name}"), times(waits));
            }
        }
    }

    fn write_fairness(&self, text: &mut String) {
        let fairness = &self.fairness;
        if fairness.projects.len() < 2 {
            return;
        }
        text.push('\n');
        let head = ["weight", "weight%", "GPU hours", "share%", "all wait%"];
        row(text, "while pods arrive", head.map(str::to_owned));
        for (name, project) in &fairness.projects {
            let cells = [
                project.weight.to_string(),
                format!("{:.1}", project.weight_pct),
                format!("{:.1}", project.gpu_hours),
                format!("{:.1}", project.share_pct),
                format!("{:.1}", project.share_all_wait_pct),
            ];
            row(text, name, cells);
        }
        line(
            text,
            format!(
                "Jain's index of GPU time by weight {:.3}, least to largest {:.3}; several waited \
                 {:.1} % of the time, then {:.3}; all waited {:.1} %",
                fairness.jain,
                fairness.min_to_max,
                fairness.contended_pct,
                fairness.jain_contended,
                fairness.all_wait_pct
            ),
        );
    }
}

fn times(waits: &Distribution) -> [String; 6] {
    let millis = [waits.mean_ms, waits.p50_ms, waits.p95_ms, waits.p99_ms, waits.max_ms];
    let [mean, p50, p95, p99, max] = millis.map(duration);
    [waits.count.to_string(), mean, p50, p95, p99, max]
}

fn line(text: &mut String, words: impl AsRef<str>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {}", words.as_ref());
}

fn row<const N: usize>(text: &mut String, head: &str, cells: [String; N]) {
    let _ = write!(text, "  {head:<18}");
    for cell in cells {
        let _ = write!(text, "  {cell:>12}");
    }
    text.push('\n');
}

/// `850ms`, `12.5s`, `3m20s`, `5h07m`, `2d03h`: as exact as it matters.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        _ if ms < 1000 => format!("{ms}ms"),
        0..60 => format!("{}.{}s", seconds, ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn times_are_shown_in_two_units_at_most() {
        let cases = [
            (0, "0ms"),
            (999, "999ms"),
            (12_540, "12.5s"),
            (200_000, "3m20s"),
            (18_420_000, "5h07m"),
            (183_600_000, "2d03h"),
        ];
        for (ms, text) in cases {
            assert_eq!(duration(ms), text);
        }
    }
}
