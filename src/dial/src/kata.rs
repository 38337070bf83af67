//! Finds the VM of a Kata Containers sandbox.
//!
//! Kata's Go runtime writes its state to `/run/vc/sbs/SANDBOX/persist.json`, where `AgentState.URL` is the address of
//! its own agent: `vsock://CID:1024` with QEMU, which has no other trace of its context id, or `hvsock://PATH:1024`
//! (virtcontainers/persist/api). The endpoint of a relay in the same VM differs only in its port.

use std::path::Path;

use serde::Deserialize;

use crate::error::{PodDialError, PodDialErrorKind};

#[derive(Deserialize)]
struct SandboxState {
    #[serde(rename = "AgentState")]
    agent: AgentState,
}

#[derive(Deserialize)]
struct AgentState {
    #[serde(rename = "URL")]
    url: String,
}

/// The endpoint of the relay at this port of the VM that the state describes. `pod` is the pod's name, for the error.
pub(crate) async fn relay(
    state: &Path,
    port: u32,
    pod: &str,
) -> Result<gangplank_channel::Endpoint, PodDialError> {
    let failed = |kind, why: String| {
        let cause = format!("find the VM of pod {pod:?} by {}: {why}", state.display());
        PodDialError::new(kind, cause)
    };
    let text =
        tokio::fs::read(state).await.map_err(|error| failed(PodDialErrorKind::PodGone, error.to_string()))?;
    endpoint(&text, port).map_err(|why| failed(PodDialErrorKind::RelayUnusable, why))
}

fn endpoint(state: &[u8], port: u32) -> Result<gangplank_channel::Endpoint, String> {
    let SandboxState { agent } =
        serde_json::from_slice(state).map_err(|error| format!("{error}; is this Kata's state?"))?;
    let beside = agent.url.rsplit_once(':').map(|(vm, _agent)| format!("{vm}:{port}"));
    let endpoint = beside.and_then(|url| url.parse().ok());
    endpoint.ok_or_else(|| {
        format!("its AgentState.URL is {:?}, which is not a vsock:// or hvsock:// address", agent.url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(url: &str) -> Result<String, String> {
        let state = format!(r#"{{"State":"running","AgentState":{{"ProxyPid":0,"URL":{url:?}}}}}"#);
        endpoint(state.as_bytes(), 1040).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn the_relay_is_beside_the_agent() {
        assert_eq!(beside("vsock://3274723:1024").unwrap(), "vsock://3274723:1040");
        assert_eq!(
            beside("hvsock:///run/vc/vm/a/clh.sock:1024").unwrap(),
            "hvsock:///run/vc/vm/a/clh.sock:1040"
        );
    }

    #[tokio::test]
    async fn errors_about_the_state_name_its_file() {
        for url in ["", "unix:///x", "mock://x:1"] {
            assert!(beside(url).unwrap_err().contains("AgentState.URL"), "{url:?}");
        }
        assert!(endpoint(b"{}", 1).unwrap_err().contains("Kata"));
        let error = relay(Path::new("/nowhere/persist.json"), 1, "demo").await.unwrap_err();
        assert_eq!(error.kind, PodDialErrorKind::PodGone);
        assert!(error.cause.contains("/nowhere/persist.json"), "{}", error.cause);
    }
}
