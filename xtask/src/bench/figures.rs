//! Results that are no ratio of times.

use crate::command::print;

/// One number and what it should be.
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) target: &'static str,
    pub(super) is_met: bool,
}

/// As an aligned table; nothing when there are none.
pub(super) fn print_all(figures: &[Figure]) {
    if figures.is_empty() {
        return;
    }
    print(&format!("\n{:<52} {:>28} {:>14}", "figure", "measured", "target"));
    for figure in figures {
        print(&format!(
            "{:<52} {:>28} {:>14} {}",
            figure.name,
            figure.value,
            figure.target,
            if figure.is_met { "met" } else { "OVER" }
        ));
    }
}

/// The value below which this share of the sorted values lies.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    // The nearest rank; lengths here are in the hundreds.
    let rank = share * f64::from(u32::try_from(last).unwrap_or(u32::MAX));
    (0..=last)
        .find(|&index| f64::from(u32::try_from(index).unwrap_or(u32::MAX)) >= rank)
        .map_or(f64::NAN, |index| sorted[index])
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        for (share, expected) in [(0.0, 0.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert!((quantile(&values, share) - expected).abs() < 1e-9, "{share}");
        }
        assert!((quantile(&[7.0], 0.99) - 7.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
