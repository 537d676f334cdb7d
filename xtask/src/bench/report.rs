//! Figures beside what is required of them.

use comfy_table::{Table, presets};

/// On which side of the requirement a figure has to be.
pub(super) enum Required {
    AtLeast(f64),
    AtMost(f64),
}

/// One line: what, how much, and what is required.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) reached: f64,
    pub(super) required: Required,
}

impl Line {
    fn verdict(&self) -> &'static str {
        let is_met = match self.required {
            Required::AtLeast(least) => self.reached >= least,
            Required::AtMost(most) => self.reached <= most,
        };
        if is_met { "" } else { "below target" }
    }
}

/// Prints the figures; one that misses its target is no failure to measure.
pub(super) fn print(lines: &[Line]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["", "reached", "required", ""]);
    for line in lines {
        let required = match line.required {
            Required::AtLeast(least) => format!(">= {least:.2}"),
            Required::AtMost(most) => format!("<= {most:.2}"),
        };
        table.add_row([line.name, &format!("{:.3}", line.reached), &required, line.verdict()]);
    }
    println!("\n{table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_named_on_either_side() {
        let verdict = |reached, required| Line { name: "", reached, required }.verdict();
        assert_eq!(verdict(0.65, Required::AtLeast(0.65)), "");
        assert_eq!(verdict(0.64, Required::AtLeast(0.65)), "below target");
        assert_eq!(verdict(72.0, Required::AtMost(72.0)), "");
        assert_eq!(verdict(73.0, Required::AtMost(72.0)), "below target");
        assert_eq!(verdict(f64::NAN, Required::AtMost(72.0)), "below target");
    }
}
