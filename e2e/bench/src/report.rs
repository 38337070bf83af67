//! The table, and the targets that gangplank must meet.

use std::fmt::Write;

use crate::figures::{Figures, Metric};
use crate::server::Contender::{
    self, Floor64, Floor256, GoDirect, GoReference, GoRelay, OursDirect, OursRelay, Reference,
};

/// The width of the column of names.
const NAME: usize = 28;

/// The width of one figure.
const FIGURE: usize = 10;

/// One half of the table: its contenders and ratios. A column without a title stays empty, so that both halves have the
/// same columns.
struct Half {
    title: &'static str,
    columns: [(&'static str, Contender); 5],
    ratios: [(&'static str, Contender, Contender); 4],
}

const FAST: Half = Half {
    title: "fast client",
    columns: [
        ("floor 64K", Floor64),
        ("floor256K", Floor256),
        ("reference", Reference),
        ("direct", OursDirect),
        ("relay", OursRelay),
    ],
    ratios: [
        ("direct/ref", OursDirect, Reference),
        ("dir/f64K", OursDirect, Floor64),
        ("dir/f256K", OursDirect, Floor256),
        ("relay/ref", OursRelay, Reference),
    ],
};

/// Without the floors, which do not speak SPDY.
const GO: Half = Half {
    title: "Go client",
    columns: [
        ("", Floor64),
        ("", Floor256),
        ("reference", GoReference),
        ("direct", GoDirect),
        ("relay", GoRelay),
    ],
    ratios: [
        ("direct/ref", GoDirect, GoReference),
        ("", GoDirect, Floor64),
        ("", GoDirect, Floor256),
        ("relay/ref", GoRelay, GoReference),
    ],
};

/// A target: the largest allowed ratio of a figure to the same figure of another contender.
struct Target {
    metric: Metric,
    of: Contender,
    to: Contender,
    at_most: f64,
}

const fn target(metric: Metric, of: Contender, to: Contender, at_most: f64) -> Target {
    Target { metric, of, to, at_most }
}

/// The targets for direct dialling.
const TARGETS: [Target; 14] = [
    target(Metric::DownloadCpu, OursDirect, Floor64, 1.0),
    target(Metric::UploadCpu, OursDirect, Floor64, 1.0),
    target(Metric::DownloadCpu, OursDirect, Reference, 0.5),
    target(Metric::UploadCpu, OursDirect, Reference, 0.4),
    target(Metric::ConnectCpu, OursDirect, Reference, 1.0 / 3.0),
    target(Metric::Idle, OursDirect, Reference, 1.0 / 3.0),
    target(Metric::ConnectP50, OursDirect, Reference, 1.0),
    target(Metric::ConnectP99, OursDirect, Reference, 1.0),
    target(Metric::RoundTripP50, OursDirect, Reference, 1.0),
    target(Metric::RoundTripP99, OursDirect, Reference, 1.0),
    target(Metric::ConnectP50, GoDirect, GoReference, 1.0),
    target(Metric::ConnectP99, GoDirect, GoReference, 1.0),
    target(Metric::RoundTripP50, GoDirect, GoReference, 1.0),
    target(Metric::RoundTripP99, GoDirect, GoReference, 1.0),
];

/// The table and the targets as text.
pub(crate) fn text(figures: &Figures) -> String {
    let mut out = String::new();
    half(&mut out, figures, &FAST);
    half(&mut out, figures, &GO);
    parts(&mut out, figures);
    targets(&mut out, figures);
    out
}

/// Whether every target that was measured is met.
pub(crate) fn all_met(figures: &Figures) -> bool {
    TARGETS
        .iter()
        .all(|target| figures.ratio(target.metric, target.of, target.to).is_none_or(|r| r <= target.at_most))
}

fn targets(out: &mut String, figures: &Figures) {
    let mut title = "\ntargets (direct dialling)\n";
    for target in &TARGETS {
        if let Some(ratio) = figures.ratio(target.metric, target.of, target.to) {
            let met = if ratio <= target.at_most { "met" } else { "NOT met" };
            let who = format!("{} / {}", target.of.name(), target.to.name());
            let (name, at_most) = (target.metric.name(), target.at_most);
            push(
                out,
                format_args!("{title}  {name:<28}{who:<28}{ratio:>5.2}  at most {at_most:.2}  {met}\n"),
            );
            title = "";
        }
    }
}

fn half(out: &mut String, figures: &Figures, half: &Half) {
    push(out, format_args!("\n{:<NAME$}", half.title));
    for (title, _) in half.columns {
        push(out, format_args!("{title:>FIGURE$}"));
    }
    out.push_str("  |");
    for (title, ..) in half.ratios {
        push(out, format_args!(" {title:>FIGURE$}"));
    }
    out.push('\n');
    for metric in Metric::ALL {
        if half.columns.iter().any(|(title, c)| !title.is_empty() && figures.median(*c, metric).is_some()) {
            row(out, figures, half, metric);
        }
    }
}

fn row(out: &mut String, figures: &Figures, half: &Half, metric: Metric) {
    push(out, format_args!("{:<NAME$}", metric.name()));
    for (title, contender) in half.columns {
        cell(out, title, figures.median(contender, metric), metric.digits());
    }
    out.push_str("  |");
    for (title, of, to) in half.ratios {
        out.push(' ');
        cell(out, title, figures.ratio(metric, of, to), 2);
    }
    out.push('\n');
}

/// Empty in a column without a title; a dash if nothing was measured.
fn cell(out: &mut String, title: &str, value: Option<f64>, digits: usize) {
    match value {
        _ if title.is_empty() => push(out, format_args!("{:>FIGURE$}", "")),
        Some(value) => push(out, format_args!("{value:>FIGURE$.digits$}")),
        None => push(out, format_args!("{:>FIGURE$}", "-")),
    }
}

/// How the figures of the relay's column divide between the daemon and the relay.
fn parts(out: &mut String, figures: &Figures) {
    let metrics = [Metric::DownloadCpu, Metric::UploadCpu, Metric::ConnectCpu, Metric::Idle];
    let titles = ["download CPU", "upload CPU", "CPU/connection", "memory/idle"];
    let mut space = "\n";
    for (metric, title) in metrics.into_iter().zip(titles) {
        if let Some([daemon, relay]) = figures.parts(OursRelay, metric).as_deref() {
            let digits = metric.digits();
            push(
                out,
                format_args!(
                    "{space}of relay's {title:<17}daemon {daemon:.digits$}, relay {relay:.digits$}\n"
                ),
            );
            space = "";
        }
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_or_not() {
        let mut figures = Figures::default();
        assert!(all_met(&figures));
        figures.add(Reference, Metric::DownloadCpu, 1.0);
        figures.add(OursDirect, Metric::DownloadCpu, 0.5);
        assert!(all_met(&figures));
        assert!(text(&figures).contains("0.50  at most 0.50  met"));
        figures.add(OursDirect, Metric::DownloadCpu, 0.6);
        assert!(!all_met(&figures));
        assert!(text(&figures).contains("NOT met"));
    }
}
