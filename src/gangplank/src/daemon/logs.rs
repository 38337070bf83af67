//! Events, on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use crate::daemon::config::{Log, LogFormat, LogLevel};

/// The crates whose events the level is about. Of others only warnings are shown.
const OURS: [&str; 4] = ["gangplank", "gangplank_streaming", "channel", "spdy_rs"];

/// Writes events from now on. Only the first call of a process has an effect.
pub(crate) fn start(log: &Log) {
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed(),
    };
    let level = level(log.level);
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(OURS.map(|ours| (ours, level)));
    let mut layers = vec![lines.with_filter(filter).boxed()];
    if log.audit {
        // For machines whatever the format of the rest is, and whatever its level.
        let lines = fmt::layer().with_writer(std::io::stderr).json().flatten_event(true);
        layers.push(lines.with_filter(Targets::new().with_target("audit", LevelFilter::INFO)).boxed());
    }
    // Fails when events are written already, and then goes on as it was.
    let _ = tracing_subscriber::registry().with(layers).try_init();
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
