//! Text tables, and short forms of sizes and times.

use std::fmt;

/// Rows under headings, in aligned columns.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// An empty table with these headings.
    pub(crate) fn new(headings: &[&str; N]) -> Self {
        Self { rows: vec![headings.map(Into::into)] }
    }

    /// Appends a row.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..N).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += &format!("{cell:<width$}   ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A number of bytes, short: `999B`, `1.5KiB`, `20.0GiB`.
#[allow(clippy::cast_precision_loss, reason = "only one decimal is shown")]
pub(crate) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64 / 1024.0;
    if value < 1.0 {
        return format!("{count}B");
    }
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", units[unit])
}

/// A time, short: `5s`, `3m`, `2h`, `4d`.
pub(crate) fn age(millis: u64) -> String {
    match millis / 1000 {
        s @ ..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["A", "LONG", "B"]);
        table.row(["abc".into(), "x".into(), "y".into()]);
        assert_eq!(table.to_string(), "A     LONG   B\nabc   x      y\n");
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(bytes(20 << 30), "20.0GiB");
        assert_eq!(bytes(u64::MAX), "16777216.0TiB");
        assert_eq!([age(999), age(61_000), age(7_200_000), age(90_000_000)], ["0s", "1m", "2h", "1d"]);
    }
}
