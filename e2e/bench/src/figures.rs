//! The measurements: samples by contender and metric, and their medians.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::server::Contender;

/// A row of the table. Lower is better, except for the two rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Metric {
    Download,
    DownloadCpu,
    Upload,
    UploadCpu,
    ConnectP50,
    ConnectP99,
    ConnectCpu,
    RoundTripP50,
    RoundTripP99,
    Idle,
}

impl Metric {
    pub(crate) const ALL: [Metric; 10] = [
        Metric::Download,
        Metric::DownloadCpu,
        Metric::Upload,
        Metric::UploadCpu,
        Metric::ConnectP50,
        Metric::ConnectP99,
        Metric::ConnectCpu,
        Metric::RoundTripP50,
        Metric::RoundTripP99,
        Metric::Idle,
    ];

    /// The name, with its unit.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Metric::Download => "download, MB/s",
            Metric::DownloadCpu => "download, server CPU s/GB",
            Metric::Upload => "upload, MB/s",
            Metric::UploadCpu => "upload, server CPU s/GB",
            Metric::ConnectP50 => "connect + 1 byte p50, us",
            Metric::ConnectP99 => "connect + 1 byte p99, us",
            Metric::ConnectCpu => "server CPU, ms/connection",
            Metric::RoundTripP50 => "1-byte round trip p50, us",
            Metric::RoundTripP99 => "1-byte round trip p99, us",
            Metric::Idle => "memory, KiB/idle connection",
        }
    }

    /// Digits after the decimal point.
    pub(crate) fn digits(self) -> usize {
        match self {
            Metric::DownloadCpu | Metric::UploadCpu | Metric::ConnectCpu => 3,
            Metric::Idle => 1,
            _ => 0,
        }
    }
}

/// One sample for each process of a server. A figure that is not measured per process has one part.
type Parts = Vec<f64>;

/// All samples of a run.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(Contender, Metric), Vec<Parts>>);

impl Figures {
    pub(crate) fn add(&mut self, contender: Contender, metric: Metric, value: f64) {
        self.add_parts(contender, metric, vec![value]);
    }

    pub(crate) fn add_parts(&mut self, contender: Contender, metric: Metric, parts: Parts) {
        self.0.entry((contender, metric)).or_default().push(parts);
    }

    /// The 50th and 99th percentile, in microseconds.
    pub(crate) fn add_latencies(
        &mut self,
        contender: Contender,
        metrics: [Metric; 2],
        latencies: &mut [Duration],
    ) {
        latencies.sort_unstable();
        for (metric, percent) in metrics.into_iter().zip([50, 99]) {
            if let Some(value) = latencies.get(latencies.len() * percent / 100) {
                self.add(contender, metric, value.as_secs_f64() * 1e6);
            }
        }
    }

    /// The median of a figure over the rounds, for all processes together.
    pub(crate) fn median(&self, contender: Contender, metric: Metric) -> Option<f64> {
        let samples = self.0.get(&(contender, metric))?;
        median(samples.iter().map(|parts| parts.iter().sum()).collect())
    }

    /// The median of each process's part, if there is more than one process.
    pub(crate) fn parts(&self, contender: Contender, metric: Metric) -> Option<Vec<f64>> {
        let samples = self.0.get(&(contender, metric))?;
        let count = samples.first()?.len();
        if count < 2 {
            return None;
        }
        (0..count).map(|i| median(samples.iter().filter_map(|p| p.get(i).copied()).collect())).collect()
    }

    pub(crate) fn ratio(&self, metric: Metric, of: Contender, to: Contender) -> Option<f64> {
        Some(self.median(of, metric)? / self.median(to, metric)?)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_take_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn parts_are_summed_and_kept_apart() {
        let mut figures = Figures::default();
        figures.add_parts(Contender::OursRelay, Metric::Idle, vec![3.0, 1.0]);
        figures.add(Contender::Reference, Metric::Idle, 16.0);
        assert_eq!(figures.median(Contender::OursRelay, Metric::Idle), Some(4.0));
        assert_eq!(figures.parts(Contender::OursRelay, Metric::Idle), Some(vec![3.0, 1.0]));
        assert_eq!(figures.parts(Contender::Reference, Metric::Idle), None);
        assert_eq!(figures.ratio(Metric::Idle, Contender::OursRelay, Contender::Reference), Some(0.25));
        assert_eq!(figures.median(Contender::Floor64, Metric::Idle), None);
    }

    #[test]
    fn percentiles_are_of_the_sorted() {
        let mut figures = Figures::default();
        let mut latencies: Vec<_> = (0..100).rev().map(Duration::from_micros).collect();
        let metrics = [Metric::ConnectP50, Metric::ConnectP99];
        figures.add_latencies(Contender::Reference, metrics, &mut latencies);
        let got = metrics.map(|m| figures.median(Contender::Reference, m).map(f64::round));
        assert_eq!(got, [Some(50.0), Some(99.0)]);
    }
}
