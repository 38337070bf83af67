//! `pod.register` and `pod.unregister`: pods that a program adds and removes itself.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};

use super::JsonRpcFront;
use super::list::params;
use crate::daemon::config::PodSection;
use crate::daemon::pods::Source;
use crate::rpc::{Code, RpcError};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Register {
    handle: String,
    endpoint: String,
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    token_file: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unregister {
    handle: String,
}

impl Register {
    /// The pod, checked by the same rules as one in the configuration. Name and uid default to the handle.
    fn into_section(self) -> Result<PodSection, RpcError> {
        let or_handle = |given: Option<String>| given.unwrap_or_else(|| self.handle.clone());
        let mut pod = json!({
            "id": self.handle,
            "name": or_handle(self.name),
            "uid": or_handle(self.uid),
            "endpoint": self.endpoint,
            "labels": self.labels,
        });
        for (key, given) in [("namespace", self.namespace), ("token_file", self.token_file)] {
            if let Some(given) = given {
                pod[key] = given.into();
            }
        }
        serde_path_to_error::deserialize(pod).map_err(|error| {
            RpcError::new(Code::InvalidParams, format!("{}: {}", error.path(), error.inner()))
        })
    }
}

impl JsonRpcFront {
    pub(super) fn register(&self, params: Value) -> Result<Value, RpcError> {
        let pod =
            self::params::<Register>(params)?.into_section()?.to_pod(Source::Registered, SystemTime::now());
        let (handle, route) = (pod.id.to_string(), pod.route.to_string());
        self.pods.register(pod).map_err(|taken| RpcError::new(Code::InvalidParams, taken.to_string()))?;
        tracing::info!(sandbox = handle, endpoint = route, "a pod was registered");
        Ok(json!({ "handle": handle }))
    }

    /// Ends the pod's sessions. Connections that calls have dialled go on until they end.
    pub(super) fn unregister(&self, params: Value) -> Result<Value, RpcError> {
        let Unregister { handle } = self::params(params)?;
        let pod = self.pod(&handle)?;
        if self.pods.unregister(&pod.id).is_none() {
            let cause =
                format!("pod {:?} was not added by pod.register; remove it where it was added", pod.name);
            return Err(RpcError::new(Code::InvalidParams, cause));
        }
        self.streaming.end_sandbox(&pod.id, "the pod was unregistered");
        tracing::info!(sandbox = &*pod.id, "a pod was unregistered");
        Ok(json!({ "handle": &*pod.id }))
    }
}
