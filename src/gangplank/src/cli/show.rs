//! `gangplank pods` and `gangplank ports`: tables from the daemon's answers.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::table::Table;
use crate::rpc::client::{CallError, RpcClient};
use crate::unix_url::UnixUrl;

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShowError {
    /// The call to the daemon failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Standard output is closed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Prints the pods, after probing each relay if `probe` is set.
///
/// # Errors
/// If the daemon does not answer.
pub(crate) async fn pods(rpc: &UnixUrl, probe: bool, as_json: bool) -> Result<(), ShowError> {
    let result = RpcClient::connect(rpc).await?.call("pod.list", json!({ "probe": probe })).await?;
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
        None if pod["ready"] == true => "not probed",
        None => "endpoint does not exist",
    };
    answers.into()
}

/// Prints the listening ports of a pod, or of each of these containers.
///
/// # Errors
/// If the daemon or the pod's relay does not answer.
pub(crate) async fn ports(
    rpc: &UnixUrl,
    pod: &str,
    containers: &[String],
    as_json: bool,
) -> Result<(), ShowError> {
    let mut client = RpcClient::connect(rpc).await?;
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
        writeln!(io::stderr(), "gangplank: more ports are listening; only the lowest are shown")?;
    }
    Ok(())
}

/// The text in a JSON value; empty if it is not a string.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}
