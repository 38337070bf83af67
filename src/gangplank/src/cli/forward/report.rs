//! What a person or a program is told of forwards.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use serde_json::json;

use super::line::{Event, Line};
use super::suffix;
use crate::cli::table::{Table, bytes};
use crate::cli::terminal::Screen;

/// How it is told.
pub(crate) enum Report {
    /// A table that is drawn again and again, with what happens above it.
    Live(Screen),
    /// Lines: where we listen on standard output, what happens on standard error.
    Plain,
    /// A JSON object a line, on standard output.
    Json,
    /// Not at all.
    Quiet,
}

impl Report {
    /// Live where standard output is a terminal, plain elsewhere.
    pub(crate) fn new(as_json: bool) -> Self {
        match as_json {
            true => Self::Json,
            false if io::stdout().is_terminal() => Self::Live(Screen::below()),
            false => Self::Plain,
        }
    }

    /// Where we listen.
    pub(super) fn begin(&mut self, ports: &[super::Port], lines: &[Arc<Line>]) -> io::Result<()> {
        let one_pod = lines.windows(2).all(|two| two[0].pod == two[1].pod);
        match self {
            Self::Quiet => Ok(()),
            Self::Live(_) => self.refresh(lines),
            Self::Plain => ports.iter().try_for_each(|port| {
                let pod = if one_pod { String::new() } else { format!("{}:", port.pod) };
                let remote = format!("{}{}", port.remote, suffix(port.network));
                writeln!(io::stdout(), "Forwarding from {} -> {pod}{remote}", port.here)
            }),
            Self::Json => ports.iter().try_for_each(|port| {
                let line = json!({
                    "event": "listening", "pod": &*port.pod, "local": port.here, "port": port.remote,
                    "network": port.network.name(),
                });
                writeln!(io::stdout(), "{line}")
            }),
        }
    }

    /// What has happened.
    pub(super) fn event(&mut self, event: &Event) -> io::Result<()> {
        if let Self::Json = self {
            return writeln!(io::stdout(), "{}", as_json(event));
        }
        let said = match event {
            Event::Closed(..) => return Ok(()),
            Event::Failed(line, why) => {
                // The table has a place for it.
                if let Self::Live(_) = self {
                    return Ok(());
                }
                format!("{}: {why}", line.pod)
            }
            Event::Lost(pod, why) => format!("lost {pod}: {why}; trying to get it back"),
            Event::Back(pod) => format!("{pod} is back"),
        };
        match self {
            Self::Quiet => Ok(()),
            Self::Live(screen) => screen.say(&format!("gangplank: {said}")),
            _ => writeln!(io::stderr(), "gangplank: {said}"),
        }
    }

    /// Draws the table again, where there is one.
    pub(super) fn refresh(&mut self, lines: &[Arc<Line>]) -> io::Result<()> {
        let Self::Live(screen) = self else { return Ok(()) };
        let mut table = Table::new(&["LOCAL", "POD", "OPEN", "TOTAL", "TO POD", "FROM POD", "LAST ERROR"]);
        for line in lines {
            let shown = line.shown();
            table.row([
                line.here.to_string(),
                format!("{}:{}{}", line.pod, line.remote, suffix(line.network)),
                shown.open.to_string(),
                shown.total.to_string(),
                bytes(shown.to_pod),
                bytes(shown.from_pod),
                shown.error,
            ]);
        }
        screen.draw(&table.to_string())
    }
}

fn as_json(event: &Event) -> serde_json::Value {
    match event {
        Event::Closed(line, to_pod, from_pod) => json!({
            "event": "closed", "pod": &*line.pod, "local": line.here, "port": line.remote,
            "network": line.network.name(), "bytesToPod": to_pod, "bytesFromPod": from_pod,
        }),
        Event::Failed(line, why) => json!({
            "event": "failed", "pod": &*line.pod, "local": line.here, "port": line.remote,
            "network": line.network.name(), "cause": why,
        }),
        Event::Lost(pod, why) => json!({ "event": "lost", "pod": &**pod, "cause": why }),
        Event::Back(pod) => json!({ "event": "back", "pod": &**pod }),
    }
}
