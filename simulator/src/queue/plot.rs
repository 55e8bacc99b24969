//! The report of a simulation with time as a picture: SVG, written by hand.
//!
//! Four panels under each other: what is given out, what is fragmented, who waits, and how long
//! pods waited. Colours are of a middle lightness and there is no background, so that the picture
//! reads on light and on dark pages.

mod axis;
mod panel;

use super::report::{Bin, QueueReport};
use super::table::duration;
use axis::{Axis, logarithmic_times, nice, times};
use panel::{Line, Panel};
use std::fmt::Write as _;

/// Width and height of the picture, in its own units.
const WIDTH: u32 = 960;
const HEIGHT: u32 = 990;
/// Height of the headline.
const TOP: f64 = 64.0;
/// From one panel to the next.
const STEP: f64 = 236.0;

const BLUE: &str = "#2f7fd1";
const ORANGE: &str = "#cf7415";
const GREEN: &str = "#2c9a55";
const PURPLE: &str = "#9a63cf";
const RED: &str = "#d0504f";
const COLOURS: [&str; 5] = [BLUE, ORANGE, GREEN, PURPLE, RED];

impl QueueReport {
    /// The report as an SVG picture.
    #[must_use]
    pub fn plot(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"system-ui, sans-serif\" \
             font-size=\"12\" fill=\"#7a7a7a\" role=\"img\">\n"
        );
        self.write_head(&mut svg);
        let until = self.makespan_ms.max(1);
        let time = || times(until);
        let percent = || Axis::linear(100.0, |value| format!("{value:.0} %"));
        let line = |name: &str, colour, value: fn(&Bin) -> f64| Line {
            name: name.to_owned(),
            colour,
            points: self.over_time(value),
        };
        let fragmented = self.series.iter().map(|bin| bin.fragmented_pct).fold(0.0, f64::max);
        let queue = self.series.iter().map(|bin| bin.queue).fold(0.0, f64::max);
        let panels = [
            Panel {
                title: "Given out",
                x: time(),
                y: percent(),
                lines: vec![
                    line("GPU", BLUE, |bin| bin.gpu_pct),
                    line("CPU", ORANGE, |bin| bin.cpu_pct),
                ],
                mark: Some((self.arriving_ms as f64, "last arrival")),
            },
            Panel {
                title: "Idle GPU that a usual pod cannot use",
                x: time(),
                y: Axis::linear(nice(fragmented), |value| format!("{value:.1} %")),
                lines: vec![line("fragmented", PURPLE, |bin| bin.fragmented_pct)],
                mark: Some((self.arriving_ms as f64, "")),
            },
            Panel {
                title: "Pods that wait",
                x: time(),
                y: Axis::linear(nice(queue), |value| format!("{value}")),
                lines: vec![line("queue", RED, |bin| bin.queue)],
                mark: Some((self.arriving_ms as f64, "")),
            },
            self.waits(),
        ];
        for (panel, number) in panels.iter().zip(0_u8..) {
            panel.write(&mut svg, TOP + f64::from(number) * STEP);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn write_head(&self, svg: &mut String) {
        let head = format!(
            "{}: {} pods on {} nodes with {} GPUs, policy {}",
            self.name, self.pods.arrived, self.nodes, self.gpus, self.policy
        );
        let wait = &self.wait.all;
        let figures = format!(
            "while pods arrive: GPU {:.1} %, fragmented {:.1} %; wait: mean {}, median {}, 95 % {}, \
             longest {}; {} preemptions",
            self.while_arriving.gpu_pct,
            self.while_arriving.fragmented_pct,
            duration(wait.mean_ms),
            duration(wait.p50_ms),
            duration(wait.p95_ms),
            duration(wait.max_ms),
            self.preemptions
        );
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<title>{}</title>", escaped(&head));
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"26\" font-size=\"17\" font-weight=\"600\">{}</text>",
            escaped(&head)
        );
        let _ = writeln!(svg, "<text x=\"16\" y=\"46\">{}</text>", escaped(&figures));
    }

    fn over_time(&self, value: fn(&Bin) -> f64) -> Vec<(f64, f64)> {
        let mut points = Vec::with_capacity(self.series.len() * 2);
        let ends = self.series.iter().skip(1).map(|bin| bin.at_ms).chain([self.makespan_ms]);
        for (bin, end) in self.series.iter().zip(ends) {
            points.push((bin.at_ms as f64, value(bin)));
            points.push((end as f64, value(bin)));
        }
        points
    }

    /// Which part of the pods waited at most how long.
    fn waits(&self) -> Panel<'static> {
        let lines = self.wait.percentiles_ms.iter().zip(COLOURS.iter().cycle());
        let lines = lines.map(|((name, values), colour)| Line {
            name: name.replace('_', " "),
            colour,
            points: (0_u8..)
                .zip(values)
                .map(|(at, ms)| (*ms as f64, f64::from(at)))
                .chain([(self.wait.all.max_ms as f64, 100.0)])
                .collect(),
        });
        Panel {
            title: "Pods that waited at most",
            x: logarithmic_times(self.wait.all.max_ms),
            y: Axis::linear(100.0, |value| format!("{value:.0} %")),
            lines: lines.collect(),
            mark: None,
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
