//! One panel of a plot: axes, grid, lines and their names.

use super::axis::Axis;
use super::escaped;
use std::fmt::Write as _;

/// Where the panels begin and how large they are.
const LEFT: f64 = 68.0;
const WIDTH: f64 = 868.0;
const HEIGHT: f64 = 160.0;
/// Below the top of the panel, for its title.
const TITLE: f64 = 22.0;

/// One panel.
pub(super) struct Panel<'a> {
    pub(super) title: &'a str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    /// A value of `x` to mark, and what it is.
    pub(super) mark: Option<(f64, &'a str)>,
}

/// One line in a panel.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) colour: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

impl Panel<'_> {
    /// Draws the panel with its upper edge at `top`.
    pub(super) fn write(&self, svg: &mut String, top: f64) {
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<g transform=\"translate({LEFT} {:.0})\">", top + TITLE);
        self.write_names(svg);
        self.write_grid(svg);
        if let Some((at, what)) = self.mark {
            let x = self.x.part(at) * WIDTH;
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} 0V{HEIGHT}\" stroke=\"#7a7a7a\" stroke-dasharray=\"2 4\"/>\
                 <text x=\"{:.1}\" y=\"152\" text-anchor=\"end\" font-size=\"11\">{}</text>",
                x - 5.0,
                escaped(what)
            );
        }
        for line in &self.lines {
            let _ = writeln!(
                svg,
                "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" \
                 stroke-linejoin=\"round\"/>",
                self.path(&line.points),
                line.colour
            );
        }
        svg.push_str("</g>\n");
    }

    fn write_names(&self, svg: &mut String) {
        let _ = writeln!(
            svg,
            "<text y=\"-8\" font-weight=\"600\" font-size=\"13\">{}</text>",
            escaped(self.title)
        );
        if self.lines.len() < 2 {
            return;
        }
        let mut x = WIDTH;
        for line in self.lines.iter().rev() {
            let letters = u32::try_from(line.name.chars().count()).unwrap_or(0);
            x -= f64::from(letters) * 7.0 + 34.0;
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.0} -12h14\" stroke=\"{}\" stroke-width=\"3\"/>\
                 <text x=\"{:.0}\" y=\"-8\">{}</text>",
                line.colour,
                x + 19.0,
                escaped(&line.name)
            );
        }
    }

    fn write_grid(&self, svg: &mut String) {
        for (value, name) in &self.y.ticks {
            let y = HEIGHT - self.y.part(*value) * HEIGHT;
            let _ = writeln!(
                svg,
                "<path d=\"M0 {y:.1}H{WIDTH}\" stroke=\"#808080\" stroke-opacity=\"0.3\"/>\
                 <text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                y + 4.0,
                escaped(name)
            );
        }
        for (value, name) in &self.x.ticks {
            let x = self.x.part(*value) * WIDTH;
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {HEIGHT}v5\" stroke=\"#808080\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT + 18.0,
                escaped(name)
            );
        }
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (x, y) in points {
            let verb = if path.is_empty() { 'M' } else { 'L' };
            let (x, y) = (self.x.part(*x) * WIDTH, HEIGHT - self.y.part(*y) * HEIGHT);
            let _ = write!(path, "{verb}{x:.1} {y:.1}");
        }
        path
    }
}
