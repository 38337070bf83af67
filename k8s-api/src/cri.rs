//! CRI v1 (`runtime.v1`): the messages that gangplank answers or reads, and where they are asked for.
//!
//! The messages are generated from `proto/cri.proto` and checked in, so that building needs no protobuf
//! compiler; `tests/generate.rs` compares the two and writes the file anew with `UPDATE_GENERATED=1`.

#![allow(clippy::doc_markdown)]

include!("generated/runtime.v1.rs");

/// The API's version, as `VersionResponse::runtime_api_version` has it.
pub const API_VERSION: &str = "v1";

/// The version that every runtime gives as `VersionResponse::version`.
pub const KUBE_API_VERSION: &str = "0.1.0";

/// The name of the condition that says containers can be run.
pub const RUNTIME_READY: &str = "RuntimeReady";

/// The name of the condition that says pods have a network.
pub const NETWORK_READY: &str = "NetworkReady";

/// HTTP paths of the methods.
pub mod method {
    /// Who answers.
    pub const VERSION: &str = "/runtime.v1.RuntimeService/Version";
    /// Whether the runtime is ready.
    pub const STATUS: &str = "/runtime.v1.RuntimeService/Status";
    /// The sandboxes.
    pub const LIST_POD_SANDBOX: &str = "/runtime.v1.RuntimeService/ListPodSandbox";
    /// One sandbox in full.
    pub const POD_SANDBOX_STATUS: &str = "/runtime.v1.RuntimeService/PodSandboxStatus";
    /// Makes a sandbox.
    pub const RUN_POD_SANDBOX: &str = "/runtime.v1.RuntimeService/RunPodSandbox";
    /// Stops one.
    pub const STOP_POD_SANDBOX: &str = "/runtime.v1.RuntimeService/StopPodSandbox";
    /// Removes one.
    pub const REMOVE_POD_SANDBOX: &str = "/runtime.v1.RuntimeService/RemovePodSandbox";
    /// A URL for a port-forward session.
    pub const PORT_FORWARD: &str = "/runtime.v1.RuntimeService/PortForward";
}

/// Labels that a kubelet puts on a sandbox and later selects it by.
pub mod label {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's uid.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
}
