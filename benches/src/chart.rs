//! The results as a chart: at the top the phases of a cold build, ours and the peers'; below, each
//! measured value compared with its target.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Error;
use crate::phases::Phase;
use crate::report::Report;
use crate::targets::{Target, Verdict};

const WIDTH: u32 = 960;
const ABOVE: u32 = 220;
const ROW: u32 = 34;
/// The maximum length of a bar, as a multiple of the target.
const LIMIT: f64 = 1.5;
const INK: RGBColor = RGBColor(40, 40, 40);
const AIM: RGBColor = RGBColor(46, 125, 90);
const MET: RGBColor = RGBColor(66, 133, 188);
const MISSED: RGBColor = RGBColor(196, 78, 62);
const PHASES: [RGBColor; 5] = [
    RGBColor(176, 190, 197),
    RGBColor(255, 183, 77),
    RGBColor(66, 133, 188),
    RGBColor(46, 125, 90),
    RGBColor(149, 117, 205),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plane<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the report into an SVG file.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(report: &Report, path: &Path) -> Result<(), Error> {
    let rows = report.targets.len() as u32;
    let size = (WIDTH, ABOVE + 40 + ROW * rows);
    let area = SVGBackend::new(path, size).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error + '_>> {
        area.fill(&WHITE)?;
        let (above, below) = area.split_vertically(ABOVE);
        phases(report, &above)?;
        targets(&report.targets, &below)?;
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| Error::Chart(error.to_string()))
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn phases<'a>(report: &Report, area: &Area<'a>) -> Drawn<'a> {
    let total = |phases: &[Phase]| phases.iter().map(|phase| phase.millis).sum::<f64>();
    let longest = total(&report.ours).max(total(&report.peers)).max(1.0);
    title(area, "Cold build of one image, in milliseconds")?;
    for (row, who, phases) in [
        (0, "microagent", &report.ours),
        (1, "the others", &report.peers),
    ] {
        let top = 48 + row * 84;
        write(area, who, (20, top + 17), HPos::Left, &INK)?;
        let scale = f64::from(WIDTH - 250) / longest;
        let (mut left, mut legend) = (140.0, 140);
        for (phase, colour) in phases.iter().zip(PHASES.iter().cycle()) {
            let right = left + phase.millis * scale;
            let corners = [(left as i32, top), (right as i32, top + 34)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
            left = right;
            let text = format!("{} {:.0}", phase.name, phase.millis);
            let square = [(legend, top + 46), (legend + 10, top + 56)];
            area.draw(&Rectangle::new(square, colour.filled()))?;
            write(area, &text, (legend + 15, top + 51), HPos::Left, &INK)?;
            legend += 35 + 7 * text.len() as i32;
        }
        let text = format!("{:.0} ms", total(phases));
        write(area, &text, (left as i32 + 8, top + 17), HPos::Left, &INK)?;
    }
    Ok(())
}

fn targets<'a>(targets: &[Target], area: &Area<'a>) -> Drawn<'a> {
    title(
        area,
        "Results relative to their target (line); the tick is the aim; lower is better",
    )?;
    let plane = plane(area, targets.len());
    for (number, target) in targets.iter().enumerate() {
        let share = target.measured.median / target.at_least;
        let colour = match target.verdict {
            Verdict::Aim => AIM,
            Verdict::Met => MET,
            Verdict::Missed => MISSED,
        };
        let at = number as f64;
        let corners = [(0.0, at + 0.2), (share.min(LIMIT), at + 0.8)];
        plane.draw(&Rectangle::new(corners, colour.filled()))?;
        let aim = target.aim / target.at_least;
        let mark = vec![(aim, at + 0.1), (aim, at + 0.9)];
        plane.draw(&PathElement::new(mark, INK.stroke_width(2)))?;
        let middle = 40 + ROW as i32 * number as i32 + ROW as i32 / 2;
        write(area, &target.what, (20, middle), HPos::Left, &INK)?;
        let text = format!(
            "{} of {}",
            target.show(target.measured.median),
            target.show(target.at_least)
        );
        write(
            area,
            &text,
            (WIDTH as i32 - 20, middle),
            HPos::Right,
            &colour,
        )?;
    }
    let line = vec![(1.0, 0.0), (1.0, targets.len() as f64)];
    plane.draw(&PathElement::new(line, INK.stroke_width(1)))
}

/// The area of the bars: x = 1 is the target, y is the row.
fn plane<'a>(area: &Area<'a>, rows: usize) -> Plane<'a> {
    let (across, down) = (
        400..(WIDTH as i32 - 150),
        40..(40 + ROW as i32 * rows as i32),
    );
    let (left, top) = area.get_base_pixel();
    let pixels = (
        across.start + left..across.end + left,
        down.start + top..down.end + top,
    );
    area.apply_coord_spec(Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(
        0.0..LIMIT,
        0.0..rows as f64,
        pixels,
    ))
}

fn title<'a>(area: &Area<'a>, text: &str) -> Drawn<'a> {
    let style = ("sans-serif", 16).into_font().color(&INK);
    area.draw(&Text::new(text.to_owned(), (20, 12), style))
}

fn write<'a>(
    area: &Area<'a>,
    text: &str,
    at: (i32, i32),
    side: HPos,
    colour: &RGBColor,
) -> Drawn<'a> {
    let style = ("sans-serif", 12).into_font().color(colour);
    let style = style.pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}
