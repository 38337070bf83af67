//! A little of core/v1: the fields of pods and namespaces that kubectl reads for `get` and `port-forward`.

use serde::Serialize;

use crate::meta_v1::ObjectMeta;

/// The body of a `Pod`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Its names and labels.
    pub metadata: ObjectMeta,
    /// The desired state.
    pub spec: PodSpec,
    /// The actual state.
    pub status: PodStatus,
}

/// The desired state of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodSpec {
    /// Its containers. kubectl expects at least one, and resolves the names of ports here.
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Its name.
    pub name: String,
}

/// The actual state of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Running` or `Pending`. kubectl only forwards to running pods.
    pub phase: &'static str,
    /// Its conditions.
    pub conditions: Vec<PodCondition>,
    /// When it was started, as RFC 3339.
    pub start_time: String,
}

/// A condition of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodCondition {
    /// `Ready`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
}

/// The body of a `Namespace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Its name.
    pub metadata: ObjectMeta,
    /// The actual state.
    pub status: NamespaceStatus,
}

/// The actual state of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamespaceStatus {
    /// `Active`.
    pub phase: &'static str,
}
