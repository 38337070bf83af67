//! `gangplank pods` and `gangplank ports`: what the daemon tells, as a table.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::table::Table;
use crate::rpc::client::{CallError, Client};
use crate::unix_url::UnixUrl;

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

/// What listens in a pod, or in each of these containers of it.
///
/// # Errors
/// When the daemon does not answer, or the pod's relay does not tell.
pub(crate) async fn ports(
    rpc: &UnixUrl,
    pod: &str,
    containers: &[String],
    as_json: bool,
) -> Result<(), ShowError> {
    let mut client = Client::connect(rpc).await?;
    let of_pod = [String::new()];
    let (mut all, mut more) = (Vec::new(), false);
    for container in if containers.is_empty() { &of_pod[..] } else { containers } {
        let params = json!({ "handle": pod, "containerID": container });
        let mut result = client.call("pod.ports", params).await?;
        for port in result["ports"].as_array_mut().into_iter().flatten() {
            if !container.is_empty() {
                port["containerID"] = container.as_str().into();
            }
            all.push(port.take());
        }
        more |= result["more"] == true;
    }
    if as_json {
        return Ok(writeln!(io::stdout(), "{}", json!({ "ports": all, "more": more }))?);
    }
    let or_dash = |value: &Value| value.as_str().map_or("-".into(), str::to_owned);
    let mut table = Table::new(&["PORT", "ADDRESS", "CONTAINER", "PROCESS"]);
    for port in &all {
        table.row([
            format!("{}/{}", port["port"], text(&port["network"])),
            text(&port["address"]),
            or_dash(&port["containerID"]),
            or_dash(&port["process"]),
        ]);
    }
    write!(io::stdout(), "{table}")?;
    if more {
        writeln!(io::stderr(), "gangplank: more ports listen than are told; these are the lowest")?;
    }
    Ok(())
}

/// A text of an answer; empty for anything else.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}
