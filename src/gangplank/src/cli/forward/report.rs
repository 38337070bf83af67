//! Reports events of forwards to a person or a program.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use serde_json::json;

use super::forwarded_port::{ForwardEvent, ForwardedPort};
use super::suffix;
use crate::cli::table::{Table, bytes};
use crate::cli::terminal::Screen;

/// Where and how events are reported.
pub(crate) enum Report {
    /// A table that is redrawn in place, with events above it.
    Live(Screen),
    /// Lines of text: local ports on standard output, events on standard error.
    Plain,
    /// One JSON object per line, on standard output.
    Json,
    /// Not at all.
    Quiet,
}

impl Report {
    /// JSON if asked for; otherwise live on a terminal and plain elsewhere.
    pub(crate) fn new(as_json: bool) -> Self {
        match as_json {
            true => Self::Json,
            false if io::stdout().is_terminal() => Self::Live(Screen::below()),
            false => Self::Plain,
        }
    }

    /// Reports the local ports.
    pub(super) fn begin(
        &mut self,
        ports: &[super::BoundPort],
        forwards: &[Arc<ForwardedPort>],
    ) -> io::Result<()> {
        let one_pod = forwards.windows(2).all(|two| two[0].pod == two[1].pod);
        match self {
            Self::Quiet => Ok(()),
            Self::Live(_) => self.refresh(forwards),
            Self::Plain => ports.iter().try_for_each(|port| {
                let pod = if one_pod { String::new() } else { format!("{}:", port.pod) };
                let remote = format!("{}{}", port.remote, suffix(port.network));
                writeln!(io::stdout(), "Forwarding from {} -> {pod}{remote}", port.here)
            }),
            Self::Json => ports.iter().try_for_each(|port| {
                let event = json!({
                    "event": "listening", "pod": &*port.pod, "local": port.here, "port": port.remote,
                    "network": port.network.name(),
                });
                writeln!(io::stdout(), "{event}")
            }),
        }
    }

    /// Reports an event.
    pub(super) fn event(&mut self, event: &ForwardEvent) -> io::Result<()> {
        if let Self::Json = self {
            return writeln!(io::stdout(), "{}", as_json(event));
        }
        let said = match event {
            ForwardEvent::Closed(..) => return Ok(()),
            ForwardEvent::Failed(forwarded, why) => {
                // The table shows it.
                if let Self::Live(_) = self {
                    return Ok(());
                }
                format!("{}: {why}", forwarded.pod)
            }
            ForwardEvent::Lost(pod, why) => format!("lost {pod}: {why}; trying to reconnect"),
            ForwardEvent::Back(pod) => format!("{pod} is back"),
        };
        match self {
            Self::Quiet => Ok(()),
            Self::Live(screen) => screen.say(&format!("gangplank: {said}")),
            _ => writeln!(io::stderr(), "gangplank: {said}"),
        }
    }

    /// Redraws the table, if there is one.
    pub(super) fn refresh(&mut self, forwards: &[Arc<ForwardedPort>]) -> io::Result<()> {
        let Self::Live(screen) = self else { return Ok(()) };
        let mut table = Table::new(&["LOCAL", "POD", "OPEN", "TOTAL", "TO POD", "FROM POD", "LAST ERROR"]);
        for forwarded in forwards {
            let stats = forwarded.stats();
            table.row([
                forwarded.here.to_string(),
                format!("{}:{}{}", forwarded.pod, forwarded.remote, suffix(forwarded.network)),
                stats.open.to_string(),
                stats.total.to_string(),
                bytes(stats.to_pod),
                bytes(stats.from_pod),
                stats.error,
            ]);
        }
        screen.draw(&table.to_string())
    }
}

fn as_json(event: &ForwardEvent) -> serde_json::Value {
    match event {
        ForwardEvent::Closed(forwarded, to_pod, from_pod) => json!({
            "event": "closed", "pod": &*forwarded.pod, "local": forwarded.here, "port": forwarded.remote,
            "network": forwarded.network.name(), "bytesToPod": to_pod, "bytesFromPod": from_pod,
        }),
        ForwardEvent::Failed(forwarded, why) => json!({
            "event": "failed", "pod": &*forwarded.pod, "local": forwarded.here, "port": forwarded.remote,
            "network": forwarded.network.name(), "cause": why,
        }),
        ForwardEvent::Lost(pod, why) => json!({ "event": "lost", "pod": &**pod, "cause": why }),
        ForwardEvent::Back(pod) => json!({ "event": "back", "pod": &**pod }),
    }
}
