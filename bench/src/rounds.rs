//! Several runs of the same work: in turns between what is compared, so that what the machine does meanwhile hits all of
//! them, and the medians of the figures.

use std::collections::BTreeMap;

use crate::bench::Bench;
use crate::failure::Result;
use crate::throughput::Throughput;
use crate::variant::Variant;

/// Runs `measure` for every variant in turns; the results by variant, in the order of the runs.
pub(crate) fn in_turns<T>(
    bench: &Bench,
    variants: &[Variant],
    what: &str,
    mut measure: impl FnMut(&Variant) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    let rounds = bench.args.rounds.unwrap_or(if variants.len() > 1 { 3 } else { 1 }).max(1);
    let mut results: Vec<Vec<T>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (variant, results) in variants.iter().zip(&mut results) {
            let of = if rounds > 1 { format!(", round {round} of {rounds}") } else { String::new() };
            let name = if variant.name.is_empty() { String::new() } else { format!(" [{}]", variant.name) };
            bench.progress().begin(&format!("{what}{name}{of}"));
            results.push(measure(variant)?);
            bench.progress().clear();
        }
    }
    Ok(results)
}

/// The middle one; of an even number the mean of the two in the middle. NaN of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len(), values.len() % 2) {
        (0, _) => f64::NAN,
        (_, 1) => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// What one costs by the other's costs, round by round: the median, the least and the most.
pub(crate) fn ratio(costs: &[f64], of: &[f64]) -> (f64, f64, f64) {
    let ratios: Vec<f64> = costs.iter().zip(of).map(|(cost, of)| cost / of).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    (median(ratios), least, most)
}

/// The medians of each figure.
pub(crate) fn middle(runs: &[Throughput]) -> Option<Throughput> {
    let last = runs.last()?;
    let of = |figure: fn(&Throughput) -> f64| median(runs.iter().map(figure));
    let mut threads: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, cpu_s) in runs.iter().flat_map(|run| &run.threads_cpu_s_per_million) {
        threads.entry(name.clone()).or_default().push(*cpu_s);
    }
    Some(Throughput {
        messages_per_s: of(|run| run.messages_per_s),
        messages_per_core_s: of(|run| run.messages_per_core_s),
        cpu_s_per_million: of(|run| run.cpu_s_per_million),
        threads_cpu_s_per_million: threads.into_iter().map(|(name, values)| (name, median(values))).collect(),
        resident_peak_mb: of(|run| run.resident_peak_mb),
        resident_idle_mb: of(|run| run.resident_idle_mb),
        first_row_ms: last.first_row_ms.map(|_| median(runs.iter().filter_map(|run| run.first_row_ms))),
        rows: last.rows,
        rows_expected: last.rows_expected,
        window_s: of(|run| run.window_s),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([5.0]), 5.0);
        assert!(median([]).is_nan());
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        // The second round ran on a slow machine.
        assert_eq!(ratio(&[1.0, 2.0, 1.5], &[2.0, 4.0, 2.0]), (0.5, 0.5, 0.75));
    }
}
