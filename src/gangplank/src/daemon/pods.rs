//! The registry of pods, which finds a pod by its id, a prefix of that, or its name.
//!
//! Pods come from three sources, and each source changes only its own:
//!
//! ```text
//! configuration ──► stays
//! pod.register ───► until pod.unregister          ids of these two win over the runtime's
//! the runtime ────► put, stop, remove, and replace by a whole list
//! ```

mod route;
mod rules;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

pub(crate) use self::route::{Obstacle, Route};
pub(crate) use self::rules::{EndpointTemplate, RouteRule, RouteRules};

/// A pod, its sandbox and the route to its ports.
#[derive(Debug, Clone, PartialEq)]
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
    pub(crate) route: Route,
    /// The file with the token that the daemon and the pod's relay prove to each other, if they have one.
    pub(crate) token_file: Option<PathBuf>,
    /// Where it is known from.
    pub(crate) source: Source,
    /// Since when the daemon or the runtime has known it.
    pub(crate) created: SystemTime,
}

/// Where a pod is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The configuration. It stays.
    Configuration,
    /// A program that starts VMs itself and registers them. It stays until that program unregisters it.
    Registered,
    /// The container runtime. It stays until the runtime removes it.
    Runtime {
        /// Whether its sandbox is running.
        ready: bool,
    },
}

impl Pod {
    /// What keeps its ports from being reached, if that can be told without dialling. A dial may fail even if this is
    /// `None`.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        if self.source == (Source::Runtime { ready: false }) {
            return Some(Obstacle::Stopped);
        }
        self.route.obstacle()
    }

    /// Whether its ports may be reachable.
    pub(crate) fn ready(&self) -> bool {
        self.obstacle().is_none()
    }

    /// Orders the sandboxes of one pod: a ready one is preferred, then the newest.
    fn precedence(&self) -> (bool, SystemTime) {
        (self.ready(), self.created)
    }
}

/// All pods, by their sandboxes' ids.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: RwLock<Pods>,
}

#[derive(Debug, Default)]
struct Pods {
    pods: BTreeMap<Arc<str>, Arc<Pod>>,
    /// Grows with every change, which shows that a list requested earlier is out of date.
    version: u64,
}

/// Why a reference does not lead to one pod. The caller is at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// There is no such pod.
    #[error(
        "no pod sandbox has the id or name {0:?}; \"crictl pods\" lists them, and [[pod]] in the configuration adds one"
    )]
    NotFound(String),
    /// There are several such pods.
    #[error(
        "{0:?} is the prefix of several ids or the name of several pods: {1}; use a longer prefix or the whole id"
    )]
    Ambiguous(String, String),
}

/// Why a pod is not registered: another pod has its id or its name. The caller is at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("pod {1}/{2} with id {0:?} already exists; unregister it first, or choose another id and name")]
pub(crate) struct Taken(String, String, String);

/// Look-ups.
impl Registry {
    /// A registry of these pods. Of two with the same id, the later one counts.
    pub(crate) fn new(pods: impl IntoIterator<Item = Pod>) -> Self {
        let pods = pods.into_iter().map(|pod| (Arc::clone(&pod.id), Arc::new(pod))).collect();
        Self { inner: RwLock::new(Pods { pods, version: 0 }) }
    }

    /// All pods, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    /// The pod with exactly this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Pod>> {
        self.read().pods.get(id).cloned()
    }

    /// The pod with this name in this namespace. Of several sandboxes, the newest that is ready.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let inner = self.read();
        let named = inner.pods.values().filter(|pod| pod.namespace == namespace && pod.name == name);
        named.max_by_key(|pod| pod.precedence()).cloned()
    }

    /// The pod that a reference means. The first that matches counts: its id, its `namespace/name`, a prefix of its id,
    /// its name.
    pub(crate) fn resolve(&self, reference: &str) -> Result<Arc<Pod>, LookupError> {
        if let Some(pod) = self.get(reference) {
            return Ok(pod);
        }
        let found = match reference.split_once('/') {
            Some((namespace, name)) => self.named(namespace, name).into_iter().collect(),
            None => self.with_prefix_or_name(reference),
        };
        match &found[..] {
            [] => Err(LookupError::NotFound(reference.into())),
            [pod] => Ok(Arc::clone(pod)),
            _ => Err(LookupError::Ambiguous(reference.into(), list(&found))),
        }
    }

    fn with_prefix_or_name(&self, reference: &str) -> Vec<Arc<Pod>> {
        // An empty reference is a prefix of every id, which no caller means.
        let prefixed = if reference.is_empty() { Vec::new() } else { self.with_prefix(reference) };
        if !prefixed.is_empty() {
            return prefixed;
        }
        // Several sandboxes of one pod are not ambiguous: the preferred one counts.
        let mut by_namespace: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
        for pod in self.all().into_iter().filter(|pod| pod.name == reference) {
            let best = by_namespace.entry(pod.namespace.clone()).or_insert_with(|| Arc::clone(&pod));
            if best.precedence() < pod.precedence() {
                *best = pod;
            }
        }
        by_namespace.into_values().collect()
    }

    /// The pods whose ids have this prefix.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<Arc<Pod>> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let inner = self.read();
        let after = inner.pods.range::<str, _>(from).map(|(_, pod)| pod);
        after.take_while(|pod| pod.id.starts_with(prefix)).cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Pods> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes, by the runtime and by programs that register pods. The runtime changes only its own pods.
impl Registry {
    /// Adds or replaces a pod of the runtime.
    pub(crate) fn put(&self, pod: Pod) {
        let mut inner = self.write();
        if !inner.is_not_the_runtimes(&pod.id) {
            inner.pods.insert(Arc::clone(&pod.id), Arc::new(pod));
        }
    }

    /// Marks a pod of the runtime as stopped.
    pub(crate) fn stop(&self, id: &str) {
        self.alter(id, |pod| pod.source = Source::Runtime { ready: false });
    }

    /// Sets the route that has been found to a pod of the runtime.
    pub(crate) fn found(&self, id: &str, route: Route) {
        self.alter(id, |pod| pod.route = route);
    }

    /// Adds a pod that a program registers, unless another has its id or its name.
    pub(crate) fn register(&self, pod: Pod) -> Result<(), Taken> {
        let mut inner = self.write();
        let same = |other: &&Arc<Pod>| other.namespace == pod.namespace && other.name == pod.name;
        if let Some(other) = inner.pods.get(&pod.id).or_else(|| inner.pods.values().find(same)) {
            return Err(Taken(other.id.to_string(), other.namespace.clone(), other.name.clone()));
        }
        inner.pods.insert(Arc::clone(&pod.id), Arc::new(pod));
        Ok(())
    }

    /// Removes a pod, if it was registered.
    pub(crate) fn unregister(&self, id: &str) -> Option<Arc<Pod>> {
        let mut inner = self.write();
        let registered = inner.pods.get(id).is_some_and(|pod| pod.source == Source::Registered);
        registered.then(|| inner.pods.remove(id)).flatten()
    }

    /// Removes a pod of the runtime.
    pub(crate) fn remove(&self, id: &str) {
        let mut inner = self.write();
        if !inner.is_not_the_runtimes(id) {
            inner.pods.remove(id);
        }
    }

    /// The version to hand to [`Registry::replace`]. Take it before requesting the list.
    pub(crate) fn version(&self) -> u64 {
        self.read().version
    }

    /// Replaces all pods of the runtime by a complete list, unless anything has changed since `version`. Then the list may
    /// be older than the change, and nothing happens.
    ///
    /// Returns the pods that are no longer running, or `None` if the list must be requested again.
    pub(crate) fn replace(&self, version: u64, pods: Vec<Pod>) -> Option<Vec<Arc<Pod>>> {
        let mut inner = self.write();
        // Taking the lock for this write counted as one change.
        if inner.version != version + 1 {
            return None;
        }
        let (kept, mut before): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut inner.pods)
            .into_iter()
            .partition(|(_, pod)| !matches!(pod.source, Source::Runtime { .. }));
        inner.pods = kept;
        for mut pod in pods {
            if inner.is_not_the_runtimes(&pod.id) {
                continue;
            }
            let known = before.get(&pod.id);
            // The list does not know namespaces. One that was found by a dial is kept, or every dial would ask again.
            if let Some(known) = known.filter(|_| pod.route == Route::Namespace) {
                pod.route = known.route.clone();
            }
            if pod.source == (Source::Runtime { ready: true }) {
                before.remove(&pod.id);
            }
            inner.pods.insert(Arc::clone(&pod.id), Arc::new(pod));
        }
        Some(before.into_values().filter(|pod| pod.source == Source::Runtime { ready: true }).collect())
    }

    fn alter(&self, id: &str, change: impl FnOnce(&mut Pod)) {
        let mut inner = self.write();
        if !inner.is_not_the_runtimes(id)
            && let Some(pod) = inner.pods.get_mut(id)
        {
            change(Arc::make_mut(pod));
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Pods> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.version += 1;
        inner
    }
}

impl Pods {
    fn is_not_the_runtimes(&self, id: &str) -> bool {
        self.pods.get(id).is_some_and(|pod| !matches!(pod.source, Source::Runtime { .. }))
    }
}

/// The ids, at most eight of them: the list is part of a sentence.
fn list(pods: &[Arc<Pod>]) -> String {
    const MAX_IDS: usize = 8;
    let mut ids: Vec<&str> = pods.iter().take(MAX_IDS).map(|pod| &*pod.id).collect();
    if pods.len() > MAX_IDS {
        ids.push("…");
    }
    ids.join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod that is always ready: its network namespace is that of this process.
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
            route: Route::Endpoint(endpoint.parse().unwrap()),
            token_file: None,
            source: Source::Configuration,
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
    fn pods_are_found_by_id_prefix_and_name() {
        let registry = registry();
        let name_of = |reference| registry.resolve(reference).unwrap().name.clone();
        assert_eq!(name_of("abc1"), "one");
        assert_eq!(name_of("abc"), "short", "an exact id wins over being a prefix of others");
        assert_eq!(name_of("b"), "twin");
        assert_eq!(name_of("two"), "two");
        assert_eq!(registry.resolve("other/twin").unwrap().id.as_ref(), "bbb");
    }

    #[test]
    fn unknown_and_ambiguous_references_are_different_errors() {
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
    fn no_two_registered_pods_share_an_id_or_a_name() {
        let registry = registry();
        let registered = |id, name| Pod { source: Source::Registered, ..pod(id, name) };
        let taken = |id, name| registry.register(registered(id, name)).unwrap_err().to_string();
        assert!(taken("abc1", "new").contains("default/one"));
        assert!(taken("new", "one").contains("\"abc1\""));
        registry.register(registered("new", "new")).unwrap();
        registry.remove("new");
        assert!(registry.get("new").is_some(), "the runtime does not remove it");
        assert!(registry.unregister("abc1").is_none(), "a pod of the configuration stays");
        assert!(registry.unregister("new").is_some() && registry.get("new").is_none());
    }

    #[test]
    fn long_lists_are_shortened() {
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
