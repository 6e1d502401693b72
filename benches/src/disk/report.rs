//! The rates as Markdown.

use std::fmt::Write;

use super::guest::WORK;
use crate::statistics::Summary;

/// A comparison of two monitors.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The place and the monitors compared.
    pub title: String,
    /// The rates of each round: ours, then QEMU's.
    pub rounds: Vec<[Vec<f64>; 2]>,
}

impl Comparison {
    fn write(&self, text: &mut String) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "**{}**, {} round(s):\n\n| what | ours, MB/s | QEMU's, MB/s | ours ÷ QEMU's |\n|---|---|---|---|",
            self.title,
            self.rounds.len()
        );
        for (index, (what, _)) in WORK.iter().enumerate() {
            let of = |value: &dyn Fn(f64, f64) -> f64| {
                let rates = self.rounds.iter();
                Summary::of(rates.map(|[ours, theirs]| value(ours[index], theirs[index])))
            };
            let (Some(ours), Some(theirs), Some(ratio)) = (
                of(&|ours, _| ours),
                of(&|_, theirs| theirs),
                of(&|ours, theirs| ours / theirs),
            ) else {
                continue;
            };
            let _ = writeln!(
                text,
                "| {what} | {:.1} | {:.1} | {:.2} ({:.2} to {:.2}) |",
                ours.median, theirs.median, ratio.median, ratio.least, ratio.most
            );
        }
        text.push('\n');
    }
}

/// All comparisons as Markdown, preceded by the command that produced them.
pub fn markdown(command: &str, comparisons: &[Comparison]) -> String {
    let mut text = format!("`{command}`\n\n");
    for comparison in comparisons {
        comparison.write(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_ratios_per_round() {
        let round = |ours: f64, theirs: f64| [vec![ours; WORK.len()], vec![theirs; WORK.len()]];
        let comparison = Comparison {
            title: "here".into(),
            rounds: vec![round(10.0, 20.0), round(30.0, 20.0), round(40.0, 40.0)],
        };
        let text = markdown("x", &[comparison]);
        let row = "| read, 1 MiB | 30.0 | 20.0 | 1.00 (0.50 to 1.50) |\n";
        assert!(text.contains(row), "{text}");
    }
}
