//! The pods that can be reached: from an id, the beginning of one, or a name to a route.

mod endpoint;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use self::endpoint::Endpoint;

/// A pod, its sandbox and the way to its ports.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// The sandbox's id.
    pub(crate) id: Arc<str>,
    /// The pod's name.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its uid.
    pub(crate) uid: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// How its ports are reached.
    pub(crate) endpoint: Endpoint,
    /// Since when it is known here.
    pub(crate) created: SystemTime,
}

impl Pod {
    /// The file of its endpoint, if that is not there. Without it the pod is not ready: its VM does not run
    /// or its namespace is gone. A file that is there promises nothing.
    pub(crate) fn missing(&self) -> Option<&Path> {
        self.endpoint.missing()
    }

    /// Whether its ports may be reachable.
    pub(crate) fn ready(&self) -> bool {
        self.missing().is_none()
    }
}

/// All pods, by their sandboxes' ids.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pods: BTreeMap<Arc<str>, Arc<Pod>>,
}

/// Why a reference leads to no pod. Whoever wrote the reference is at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// There is no such pod.
    #[error(
        "no pod sandbox has the id or name {0:?}; \"crictl pods\" lists those there are, [[pod]] in the configuration adds one"
    )]
    NotFound(String),
    /// There are several.
    #[error(
        "{0:?} is the beginning of several ids or the name of several pods: {1}; write more of the one that is meant"
    )]
    Ambiguous(String, String),
}

impl Registry {
    /// With these pods. Of two with one id, the later counts.
    pub(crate) fn new(pods: impl IntoIterator<Item = Pod>) -> Self {
        Self { pods: pods.into_iter().map(|pod| (Arc::clone(&pod.id), Arc::new(pod))).collect() }
    }

    /// All pods in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// The pod with exactly this id.
    pub(crate) fn get(&self, id: &str) -> Option<&Arc<Pod>> {
        self.pods.get(id)
    }

    /// The pod of this name in this namespace.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.iter().find(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// The pod that somebody means: by its id, its `namespace/name`, the beginning of its id, or its name,
    /// whichever fits first.
    pub(crate) fn resolve(&self, reference: &str) -> Result<&Arc<Pod>, LookupError> {
        if let Some(pod) = self.get(reference) {
            return Ok(pod);
        }
        let found: Vec<_> = match reference.split_once('/') {
            Some((namespace, name)) => self.named(namespace, name).into_iter().collect(),
            None => self.begun_by_or_named(reference),
        };
        match found[..] {
            [] => Err(LookupError::NotFound(reference.into())),
            [pod] => Ok(pod),
            _ => Err(LookupError::Ambiguous(reference.into(), list(&found))),
        }
    }

    fn begun_by_or_named(&self, reference: &str) -> Vec<&Arc<Pod>> {
        // An empty reference is the beginning of everything, and nobody means that.
        let begun: Vec<_> = self.begun_by(reference).filter(|_| !reference.is_empty()).collect();
        if begun.is_empty() { self.iter().filter(|pod| pod.name == reference).collect() } else { begun }
    }

    /// The pods whose ids begin like this.
    pub(crate) fn begun_by(&self, beginning: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let from = (Bound::Included(beginning), Bound::Unbounded);
        self.pods
            .range::<str, _>(from)
            .map(|(_, pod)| pod)
            .take_while(move |pod| pod.id.starts_with(beginning))
    }
}

/// Names at most eight of them: the list becomes part of a sentence.
fn list(pods: &[&Arc<Pod>]) -> String {
    const MOST: usize = 8;
    let mut ids: Vec<&str> = pods.iter().take(MOST).map(|pod| &*pod.id).collect();
    if pods.len() > MOST {
        ids.push("…");
    }
    ids.join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod that is always ready: its namespace is our own.
    pub(crate) fn pod(id: &str, name: &str) -> Pod {
        pod_at(id, name, "netns:///proc/self/ns/net")
    }

    pub(crate) fn pod_at(id: &str, name: &str, endpoint: &str) -> Pod {
        Pod {
            id: id.into(),
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-of-{id}"),
            labels: BTreeMap::new(),
            endpoint: endpoint.parse().unwrap(),
            created: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000),
        }
    }

    fn registry() -> Registry {
        let mut other = pod("bbb", "twin");
        other.namespace = "other".into();
        Registry::new([
            pod("abc1", "one"),
            pod("abc2", "two"),
            pod("abc", "short"),
            pod("aaa", "twin"),
            other,
        ])
    }

    #[test]
    fn pods_are_found_by_id_beginning_and_name() {
        let registry = registry();
        let name_of = |reference| registry.resolve(reference).unwrap().name.as_str();
        assert_eq!(name_of("abc1"), "one");
        assert_eq!(name_of("abc"), "short", "an id that begins others is still an id");
        assert_eq!(name_of("b"), "twin");
        assert_eq!(name_of("two"), "two");
        assert_eq!(registry.resolve("other/twin").unwrap().id.as_ref(), "bbb");
    }

    #[test]
    fn unknown_and_ambiguous_references_are_told_apart() {
        let registry = registry();
        for unknown in ["", "x", "abc12", "default/x", "/", "nowhere/one"] {
            assert_eq!(registry.resolve(unknown).unwrap_err(), LookupError::NotFound(unknown.into()));
        }
        let error = registry.resolve("ab").unwrap_err().to_string();
        assert!(error.contains("abc, abc1, abc2;"), "{error}");
        let error = registry.resolve("twin").unwrap_err().to_string();
        assert!(error.contains("aaa, bbb;"), "{error}");
    }

    #[test]
    fn long_lists_are_cut() {
        let registry = Registry::new((0..9).map(|n| pod(&format!("id{n}"), "x")));
        let error = registry.resolve("id").unwrap_err().to_string();
        assert!(error.contains("id7, …;") && !error.contains("id8"), "{error}");
    }

    #[test]
    fn a_pod_without_its_endpoint_is_not_ready() {
        assert!(pod("a", "a").ready());
        assert!(!pod_at("a", "a", "unix:///nowhere/relay.sock").ready());
    }
}
