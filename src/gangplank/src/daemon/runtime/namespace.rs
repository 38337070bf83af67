//! The network namespace of a sandbox, as its runtime tells it.
//!
//! CRI has no field for it. containerd and CRI-O put it into the verbose answer to PodSandboxStatus: `info` has a
//! key "info" whose value is a JSON object with the sandbox's `pid` and its OCI `runtimeSpec`.

use std::path::PathBuf;

use k8s_api::cri::{NamespaceMode, PodSandboxStatus, PodSandboxStatusResponse};
use serde::Deserialize;

/// The network namespace of this process, and so of pods in the node's.
const OWN: &str = "/proc/self/ns/net";

/// Why a sandbox's namespace is not known. The runtime says less than is needed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// No verbose answer, or one of another shape.
    #[error("its runtime does not tell its network namespace: {0}")]
    NotTold(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Info {
    pid: u32,
    runtime_spec: Option<Spec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    linux: Option<Linux>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

/// The file of the namespace.
///
/// # Errors
/// When the answer does not tell.
pub(crate) fn network_namespace(answer: &PodSandboxStatusResponse) -> Result<PathBuf, NamespaceError> {
    if answer.status.as_ref().is_some_and(is_on_the_node) {
        return Ok(OWN.into());
    }
    let not_told = |why: &str| NamespaceError::NotTold(why.into());
    let text = answer.info.get("info").ok_or_else(|| not_told("its verbose status has no \"info\""))?;
    let info: Info = serde_json::from_str(text)
        .map_err(|error| not_told(&format!("its verbose status cannot be read: {error}")))?;
    let namespaces = info.runtime_spec.and_then(|spec| spec.linux).unwrap_or_default().namespaces;
    let network = namespaces.into_iter().find(|namespace| namespace.kind == "network");
    match network {
        Some(Namespace { path, .. }) if path.starts_with('/') => Ok(path.into()),
        _ if info.pid > 0 => Ok(format!("/proc/{}/ns/net", info.pid).into()),
        _ => Err(not_told("its verbose status names neither the namespace nor a process")),
    }
}

fn is_on_the_node(status: &PodSandboxStatus) -> bool {
    let options = status.linux.as_ref().and_then(|linux| linux.namespaces.as_ref()?.options.as_ref());
    options.is_some_and(|options| options.network() == NamespaceMode::Node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_api::cri::{LinuxPodSandboxStatus, Namespace as Namespaces, NamespaceOption};

    use super::*;

    fn telling(info: &str) -> PodSandboxStatusResponse {
        PodSandboxStatusResponse { status: None, info: BTreeMap::from([("info".into(), info.into())]) }
    }

    fn path(info: &str) -> String {
        network_namespace(&telling(info)).unwrap().to_str().unwrap().into()
    }

    #[test]
    fn the_path_counts_before_the_process() {
        let namespaces = r#"[{"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}]"#;
        let info =
            format!(r#"{{"pid":7,"other":{{}},"runtimeSpec":{{"linux":{{"namespaces":{namespaces}}}}}}}"#);
        assert_eq!(path(&info), "/var/run/netns/cni-1");
        assert_eq!(
            path(r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"network"}]}}}"#),
            "/proc/7/ns/net"
        );
        assert_eq!(path(r#"{"pid":7,"runtimeSpec":null}"#), "/proc/7/ns/net");
    }

    #[test]
    fn a_pod_on_the_nodes_network_has_ours() {
        let options = NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
        let linux = LinuxPodSandboxStatus { namespaces: Some(Namespaces { options: Some(options) }) };
        let mut answer = telling(r#"{"pid":7}"#);
        answer.status = Some(PodSandboxStatus { linux: Some(linux), ..PodSandboxStatus::default() });
        assert_eq!(network_namespace(&answer).unwrap(), PathBuf::from(OWN));
    }

    #[test]
    fn what_is_not_told_is_an_error() {
        for info in ["", "{}", "[]", r#"{"pid":0}"#, r#"{"pid":"x"}"#] {
            let error = network_namespace(&telling(info)).unwrap_err().to_string();
            assert!(error.contains("verbose status"), "{error}");
        }
        assert!(network_namespace(&PodSandboxStatusResponse::default()).is_err());
    }
}
