//! The calls that list things: pods, their ports, sessions and connections.

use std::sync::Arc;
use std::time::Duration;

use gangplank_dial::ListeningPort;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::JsonRpcFront;
use crate::daemon::pods::{Pod, Source};
use crate::rpc::{Code, RpcError};

/// How long a relay may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a lost pod is not probed: the daemon searches for it already, and some devices must not be touched while their
/// guest boots.
const LOST: &str = "the guest or its relay is gone; gangplank waits for its return and does not probe it";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListPods {
    /// Only the pod that this refers to.
    handle: Option<String>,
    /// Whether to check that each pod's relay answers.
    #[serde(default)]
    probe: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListPorts {
    handle: String,
    #[serde(default, rename = "containerID")]
    container_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Parses the parameters of a call.
pub(super) fn params<P: DeserializeOwned>(params: Value) -> Result<P, RpcError> {
    serde_json::from_value(params).map_err(|error| RpcError::new(Code::InvalidParams, error.to_string()))
}

impl JsonRpcFront {
    /// The pod that a handle refers to.
    pub(super) fn pod(&self, handle: &str) -> Result<Arc<Pod>, RpcError> {
        self.pods.resolve(handle).map_err(|error| RpcError::new(Code::UnknownPod, error.to_string()))
    }

    pub(super) async fn list_pods(&self, params: Value) -> Result<Value, RpcError> {
        let ListPods { handle, probe } = self::params(params)?;
        let pods = match handle {
            Some(handle) => vec![self.pod(&handle)?],
            None => self.pods.all(),
        };
        let mut listed: Vec<Value> = pods.iter().map(|pod| self.describe(pod)).collect();
        if probe {
            for (at, relay) in self.probe(&pods).await {
                listed[at]["relay"] = relay;
            }
        }
        Ok(json!({ "pods": listed }))
    }

    fn describe(&self, pod: &Pod) -> Value {
        json!({
            "handle": &*pod.id,
            "name": pod.name,
            "namespace": pod.namespace,
            "uid": pod.uid,
            "labels": pod.labels,
            "endpoint": pod.route.to_string(),
            "ready": pod.ready(),
            "lost": self.accounts.lost.has(&pod.id),
            "registered": pod.source == Source::Registered,
            "connections": self.accounts.connections.open_to(&pod.id),
        })
    }

    /// Probes all pods at the same time. Each result has its pod's position in the list.
    async fn probe(&self, pods: &[Arc<Pod>]) -> Vec<(usize, Value)> {
        let mut probes = JoinSet::new();
        for (at, pod) in pods.iter().enumerate() {
            let (dialer, pod) = (self.dialer.clone(), Arc::clone(pod));
            let is_lost = self.accounts.lost.has(&pod.id);
            probes.spawn(async move {
                if is_lost {
                    return (at, json!({ "answers": false, "kind": "relay", "cause": LOST }));
                }
                let answer = match (dialer.probe(&pod, PROBE_TIMEOUT).await, pod.route.kind()) {
                    (Err(error), _) => {
                        json!({ "answers": false, "kind": error.kind.name(), "cause": error.cause })
                    }
                    (Ok(()), "netns") => json!({ "answers": true }),
                    (Ok(()), _) => {
                        json!({ "answers": true, "protocol": gangplank_channel::preamble::VERSION.major })
                    }
                };
                (at, answer)
            });
        }
        probes.join_all().await
    }

    pub(super) async fn list_ports(&self, params: Value) -> Result<Value, RpcError> {
        let ListPorts { handle, container_id } = self::params(params)?;
        let pod = self.pod(&handle)?;
        let ports = self.dialer.ports(&pod, &container_id).await?;
        let listening: Vec<_> = ports.listening.iter().map(port).collect();
        Ok(json!({ "handle": &*pod.id, "ports": listening, "more": ports.is_cut }))
    }

    pub(super) fn list_sessions(&self, params: Value) -> Result<Value, RpcError> {
        let Nothing {} = self::params(params)?;
        let sessions: Vec<Value> = self
            .streaming
            .sessions()
            .iter()
            .map(|session| {
                json!({
                    "id": session.id,
                    "handle": &*session.sandbox,
                    "client": session.client.map(|client| client.to_string()),
                    "protocol": session.protocol,
                    "ageMs": millis(session.age),
                    "connectionsOpen": session.connections_open,
                    "connections": session.connections_total,
                    "bytesToPod": session.bytes_sent,
                    "bytesFromPod": session.bytes_received,
                    "bytesHeld": session.bytes_held,
                })
            })
            .collect();
        let connections: Vec<Value> = self
            .accounts
            .connections
            .open()
            .iter()
            .map(|flow| {
                let (to_pod, from_pod) = flow.moved();
                json!({
                    "id": flow.id,
                    "handle": &*flow.pod.id,
                    "name": flow.pod.name,
                    "namespace": flow.pod.namespace,
                    "caller": flow.caller.to_string(),
                    "containerID": flow.container,
                    "address": flow.address,
                    "ageMs": millis(flow.begun.elapsed()),
                    "bytesToPod": to_pod,
                    "bytesFromPod": from_pod,
                })
            })
            .collect();
        Ok(json!({ "sessions": sessions, "connections": connections }))
    }
}

/// A listening port. Its process is named only if known.
fn port(at: &ListeningPort) -> Value {
    let mut port = json!({
        "network": at.network.name(),
        "address": at.address.ip().to_string(),
        "port": at.address.port(),
    });
    if !at.process.is_empty() {
        port["process"] = at.process.as_str().into();
    }
    port
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
