//! Text tables.

use crate::printable;

/// Formats rows of cells. Each column is as wide as its widest cell; trailing blanks are removed.
pub fn table(rows: &[Vec<String>]) -> String {
    let cells = |row: &Vec<String>| -> Vec<String> {
        (row.iter().map(|cell| printable::line(cell).into_owned())).collect()
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows = [row(&["OP", "SIZE"]), row(&["rootfs", "1"]), row(&["é", ""])];
        assert_eq!(table(&rows), "OP      SIZE\nrootfs  1\né\n");
        assert_eq!(table(&[]), "");
        assert_eq!(table(&[row(&["a\n\x1b[1m", "b"])]), "a\\n\\u{1b}[1m  b\n");
    }
}
