//! The log, on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use crate::daemon::config::{LogFormat, LogLevel, LogSection};

/// Prefixes of the crates to which the level applies. Other crates log warnings and errors at most.
const OUR_CRATES: [&str; 2] = ["gangplank", "spdy_rs"];

/// Starts the log. Only the first call in a process has an effect.
pub(crate) fn start(log: &LogSection) {
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed(),
    };
    let level = level(log.level);
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(OUR_CRATES.map(|name| (name, level)));
    let mut layers = vec![lines.with_filter(filter).boxed()];
    if log.audit {
        // Audit lines are for machines: always JSON, and independent of the level.
        let lines = fmt::layer().with_writer(std::io::stderr).json().flatten_event(true);
        layers.push(lines.with_filter(Targets::new().with_target("audit", LevelFilter::INFO)).boxed());
    }
    // Fails if the log has already been started, which then goes on unchanged.
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
