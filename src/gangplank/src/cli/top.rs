//! `gangplank top`: live sessions and connections.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::cli::show::{ShowError, text};
use crate::cli::table::{Table, age, bytes};
use crate::cli::terminal::Screen;
use crate::rpc::client::{CallError, RpcClient};
use crate::signals::Signals;
use crate::unix_url::UnixUrl;

/// How often the table is refreshed.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows the table until q or a signal; if standard output is not a terminal, prints it once.
///
/// # Errors
/// If the daemon does not answer the first call.
pub(crate) async fn run(rpc: &UnixUrl) -> Result<(), ShowError> {
    let mut client = RpcClient::connect(rpc).await?;
    let mut view = View::default();
    let first = view.draw(&client.call("session.list", json!({})).await?);
    if !io::stdout().is_terminal() {
        return Ok(write!(io::stdout(), "{first}")?);
    }
    let mut signals = Signals::catch()?;
    let mut screen = Screen::whole()?;
    screen.draw(&first)?;
    let mut quit = pin!(quit());
    loop {
        tokio::select! {
            _ = signals.next() => return Ok(()),
            () = quit.as_mut() => return Ok(()),
            () = tokio::time::sleep(PERIOD) => {}
        }
        let listed = match client.call("session.list", json!({})).await {
            Ok(listed) => Ok(listed),
            // It may have been restarted in the meantime.
            Err(CallError::Lost { .. }) => again(rpc, &mut client).await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(listed) => screen.draw(&view.draw(&listed))?,
            Err(error) => screen.draw(&format!("{error}\n"))?,
        }
    }
}

async fn again(rpc: &UnixUrl, client: &mut RpcClient) -> Result<Value, CallError> {
    *client = RpcClient::connect(rpc).await?;
    client.call("session.list", json!({})).await
}

/// Waits for the q key. Never returns if standard input ends.
async fn quit() {
    let mut input = tokio::io::stdin();
    let mut key = [0];
    while let Ok(1..) = input.read(&mut key).await {
        if key == *b"q" {
            return;
        }
    }
    std::future::pending().await
}

/// The totals shown last, from which speeds are computed.
#[derive(Default)]
struct View {
    last: Option<(Instant, HashMap<u64, u64>)>,
}

impl View {
    fn draw(&mut self, listed: &Value) -> String {
        let now = Instant::now();
        let rows = |of: &str| listed[of].as_array().cloned().unwrap_or_default();
        let (sessions, connections) = (rows("sessions"), rows("connections"));
        let mut text = format!("{} sessions, {} connections\n\n", sessions.len(), connections.len());
        text += &sessions_table(&sessions).to_string();
        text.push('\n');
        text += &self.connections_table(&connections, now).to_string();
        let totals = connections.iter().map(|connection| (number(connection, "id"), moved(connection)));
        self.last = Some((now, totals.collect()));
        text
    }

    fn connections_table(&self, connections: &[Value], now: Instant) -> Table<7> {
        let mut table = Table::new(&["CONNECTION", "ADDRESS", "TO POD", "FROM POD", "SPEED", "AGE", "WHO"]);
        for connection in connections {
            table.row([
                format!("{}/{}", text(&connection["namespace"]), text(&connection["name"])),
                text(&connection["address"]),
                bytes(number(connection, "bytesToPod")),
                bytes(number(connection, "bytesFromPod")),
                self.speed(connection, now),
                age(number(connection, "ageMs")),
                text(&connection["caller"]),
            ]);
        }
        table
    }

    fn speed(&self, connection: &Value, now: Instant) -> String {
        let Some((then, totals)) = &self.last else { return "-".into() };
        let before = totals.get(&number(connection, "id")).copied().unwrap_or(0);
        let millis = u64::try_from(now.duration_since(*then).as_millis()).unwrap_or(u64::MAX).max(1);
        format!("{}/s", bytes(moved(connection).saturating_sub(before).saturating_mul(1000) / millis))
    }
}

fn sessions_table(sessions: &[Value]) -> Table<8> {
    let mut table =
        Table::new(&["SESSION", "CLIENT", "PROTOCOL", "OPEN", "TO POD", "FROM POD", "HELD", "AGE"]);
    for session in sessions {
        table.row([
            text(&session["handle"]),
            text(&session["client"]),
            text(&session["protocol"]),
            number(session, "connectionsOpen").to_string(),
            bytes(number(session, "bytesToPod")),
            bytes(number(session, "bytesFromPod")),
            bytes(number(session, "bytesHeld")),
            age(number(session, "ageMs")),
        ]);
    }
    table
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn moved(connection: &Value) -> u64 {
    number(connection, "bytesToPod") + number(connection, "bytesFromPod")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_a_speed_from_the_second_refresh() {
        let listed = |moved: u64| {
            json!({ "sessions": [], "connections": [{ "id": 3, "name": "demo", "namespace": "default",
                "address": ":80", "bytesToPod": moved, "bytesFromPod": 0, "ageMs": 5000, "caller": "uid 0" }] })
        };
        let mut view = View::default();
        let first = view.draw(&listed(10));
        assert!(first.contains("0 sessions, 1 connections") && first.contains("default/demo"), "{first}");
        assert!(!first.contains("/s"), "{first}");
        let second = view.draw(&listed(1 << 20));
        assert!(second.contains("1.0MiB") && second.contains("/s"), "{second}");
    }
}
