//! A little of core/v1: pods and namespaces, as far as kubectl reads them for `get` and `port-forward`.

use serde::Serialize;

use crate::meta_v1::ObjectMeta;

/// The body of a `Pod`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Its names.
    pub metadata: ObjectMeta,
    /// What was asked for.
    pub spec: PodSpec,
    /// What there is.
    pub status: PodStatus,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodSpec {
    /// Its containers. kubectl expects at least one, and looks here for the names of ports.
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Its name.
    pub name: String,
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Running` or `Pending`. kubectl forwards to running pods only.
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
    /// What there is.
    pub status: NamespaceStatus,
}

/// What there is of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamespaceStatus {
    /// `Active`.
    pub phase: &'static str,
}
