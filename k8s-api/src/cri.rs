//! CRI v1 (`runtime.v1`): the messages that gangplank answers or reads, and the paths of their methods.
//!
//! The messages are generated from `proto/cri.proto` and checked in, so that building needs no protobuf
//! compiler; `tests/generate.rs` compares the two, or updates the file if `UPDATE_GENERATED=1` is set.

#![allow(clippy::doc_markdown)]

include!("generated/runtime.v1.rs");

/// The version of the API, for `VersionResponse::runtime_api_version`.
pub const API_VERSION: &str = "v1";

/// The version that every runtime reports as `VersionResponse::version`.
pub const KUBE_API_VERSION: &str = "0.1.0";

/// The name of the condition that says containers can be run.
pub const RUNTIME_READY: &str = "RuntimeReady";

/// The name of the condition that says pods have a network.
pub const NETWORK_READY: &str = "NetworkReady";

/// The HTTP paths of the methods.
pub mod method {
    /// The name and version of the runtime.
    pub const VERSION: &str = "/runtime.v1.RuntimeService/Version";
    /// Whether the runtime is ready.
    pub const STATUS: &str = "/runtime.v1.RuntimeService/Status";
    /// Lists the sandboxes.
    pub const LIST_POD_SANDBOX: &str = "/runtime.v1.RuntimeService/ListPodSandbox";
    /// The full status of one sandbox.
    pub const POD_SANDBOX_STATUS: &str = "/runtime.v1.RuntimeService/PodSandboxStatus";
    /// Creates and starts a sandbox.
    pub const RUN_POD_SANDBOX: &str = "/runtime.v1.RuntimeService/RunPodSandbox";
    /// Stops a sandbox.
    pub const STOP_POD_SANDBOX: &str = "/runtime.v1.RuntimeService/StopPodSandbox";
    /// Removes a sandbox.
    pub const REMOVE_POD_SANDBOX: &str = "/runtime.v1.RuntimeService/RemovePodSandbox";
    /// Returns a URL for a port-forward session.
    pub const PORT_FORWARD: &str = "/runtime.v1.RuntimeService/PortForward";
}

/// Labels that a kubelet puts on a sandbox and later uses to select it.
pub mod label {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's uid.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
}
