//! `gangplank pods` and `gangplank ports`: what the daemon tells, as a table.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::config::UnixUrl;
use crate::jsonrpc::client::{CallError, Client};
use crate::table::Table;

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShowError {
    /// The daemon does not tell.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Nobody takes it.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// The pods, each with a sign of life of its relay if that is wanted.
///
/// # Errors
/// When the daemon does not answer.
pub(crate) async fn pods(rpc: &UnixUrl, probe: bool, as_json: bool) -> Result<(), ShowError> {
    let result = Client::connect(rpc).await?.call("pod.list", json!({ "probe": probe })).await?;
    if as_json {
        return Ok(writeln!(io::stdout(), "{result}")?);
    }
    let mut table = Table::new(&["POD", "SANDBOX", "ENDPOINT", "RELAY", "PROTOCOL", "CONNECTIONS"]);
    for pod in result["pods"].as_array().into_iter().flatten() {
        table.row([
            format!("{}/{}", text(&pod["namespace"]), text(&pod["name"])),
            text(&pod["handle"]),
            text(&pod["endpoint"]),
            relay(pod),
            pod["relay"]["protocol"].as_u64().map_or("-".into(), |version| version.to_string()),
            pod["connections"].to_string(),
        ]);
    }
    Ok(write!(io::stdout(), "{table}")?)
}

fn relay(pod: &Value) -> String {
    let answers = match pod["relay"]["answers"].as_bool() {
        Some(true) if text(&pod["endpoint"]).starts_with("netns:") => "none needed",
        Some(true) => "answers",
        Some(false) => return text(&pod["relay"]["cause"]),
        None if pod["ready"] == true => "not asked",
        None => "endpoint is not there",
    };
    answers.into()
}

/// What listens in a pod.
///
/// # Errors
/// When the daemon does not answer, or does not know.
pub(crate) async fn ports(rpc: &UnixUrl, pod: &str) -> Result<(), ShowError> {
    let result = Client::connect(rpc).await?.call("pod.ports", json!({ "handle": pod })).await?;
    Ok(writeln!(io::stdout(), "{result}")?)
}

/// A text of an answer; empty for anything else.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}
