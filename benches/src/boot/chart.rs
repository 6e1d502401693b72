//! Waterfall charts of boots, on a common scale.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::perf::Perf;
use super::report::Report;
use crate::Error;

const WIDTH: u32 = 960;
const ROW: i32 = 20;
const HEAD: i32 = 56;
/// The horizontal range of the bars, in pixels.
const BARS: (i32, i32) = (190, 860);
const INK: RGBColor = RGBColor(40, 40, 40);
const HOST: RGBColor = RGBColor(66, 133, 188);
const GUEST: RGBColor = RGBColor(255, 167, 61);
/// The parts of a boot inside the guest.
const IN_GUEST: [&str; 7] = [
    "kernel entry",
    "kernel",
    "agent ready",
    "root mounted",
    "command executed",
    "first output",
    "command exits",
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Draws the report into an SVG file.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(report: &Report, path: &Path) -> Result<(), Error> {
    let rows = |perf: &Perf| HEAD + ROW * perf.parts.len() as i32;
    let charts = report.boots.iter().flat_map(|boots| {
        let restored = format!("{}, from a snapshot", boots.kernel);
        [
            (boots.kernel.clone(), &boots.perf),
            (restored, &boots.restored),
        ]
    });
    let charts: Vec<(String, &Perf)> = charts.collect();
    let height: i32 = charts.iter().map(|(_, perf)| rows(perf)).sum();
    let area = SVGBackend::new(path, (WIDTH, height as u32 + 20)).into_drawing_area();
    let longest = report
        .boots
        .iter()
        .map(|boots| boots.perf.whole.to_exit_code_millis.median)
        .fold(1.0, f64::max);
    let drawn = || -> Drawn<'_> {
        area.fill(&WHITE)?;
        let mut top = 0;
        for (name, perf) in &charts {
            waterfall(name, perf, &area, top, longest)?;
            top += rows(perf);
        }
        area.present()
    };
    drawn().map_err(|error| Error::Chart(error.to_string()))
}

fn waterfall<'a>(name: &str, perf: &Perf, area: &Area<'a>, top: i32, longest: f64) -> Drawn<'a> {
    let whole = &perf.whole;
    let title = format!(
        "{}: {:.0} ms from the command to its exit code (deterministic clock; orange is the guest)",
        name, whole.to_exit_code_millis.median
    );
    write(area, &title, (20, top + 28), 15)?;
    let column = |millis: f64| BARS.0 + (millis / longest * f64::from(BARS.1 - BARS.0)) as i32;
    for (number, part) in perf.parts.iter().enumerate() {
        let line = top + HEAD + ROW * number as i32;
        let middle = line + ROW / 2;
        write(area, &part.name, (20, middle), 12)?;
        let end = part.start_millis + part.millis.median;
        let right = column(end).max(column(part.start_millis) + 1);
        let colour = match IN_GUEST.contains(&part.name.as_str()) {
            true => GUEST,
            false => HOST,
        };
        let corners = [
            (column(part.start_millis), line + 4),
            (right, line + ROW - 4),
        ];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        write(
            area,
            &format!("{:.1}", part.millis.median),
            (right + 6, middle),
            12,
        )?;
    }
    Ok(())
}

fn write<'a>(area: &Area<'a>, text: &str, at: (i32, i32), size: i32) -> Drawn<'a> {
    let style = ("sans-serif", size).into_font().color(&INK);
    let style = style.pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}
