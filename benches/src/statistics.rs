//! Summaries of repeated measurements.

use serde::Serialize;

/// A summary of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The minimum.
    pub least: f64,
    /// The maximum.
    pub most: f64,
    /// The number of measurements.
    pub count: usize,
}

impl Summary {
    /// Summarises `values`; `None` when there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len();
        Some(Summary {
            median: (values.get(count / 2)? + values.get(count.checked_sub(1)? / 2)?) / 2.0,
            least: *values.first()?,
            most: *values.last()?,
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_depend_on_the_order() {
        let summary = |values: &[f64]| Summary::of(values.iter().copied());
        let three = summary(&[9.0, 1.0, 2.0]).unwrap();
        assert_eq!((three.median, three.least, three.most), (2.0, 1.0, 9.0));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 100.0]).unwrap().median, 3.0);
        assert_eq!(summary(&[7.0]).unwrap().median, 7.0);
        assert_eq!(summary(&[]), None);
    }
}
