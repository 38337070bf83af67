//! The pods that can be reached: from an id, the beginning of one, or a name to a route.

mod route;
mod rules;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

pub(crate) use self::route::{Obstacle, Route};
pub(crate) use self::rules::{EndpointTemplate, RouteRule, RouteRules};

/// A pod, its sandbox and the way to its ports.
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
    /// The file with the token that its relay and we prove to each other; none where there is no such token.
    pub(crate) token_file: Option<PathBuf>,
    /// Who says that it is there.
    pub(crate) source: Source,
    /// Since when it is known, here or to its runtime.
    pub(crate) created: SystemTime,
}

/// From where a pod is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From our configuration. It stays.
    Configuration,
    /// From somebody who starts VMs himself. It goes when he says so.
    Registered,
    /// From the runtime behind us. It goes when the runtime says so.
    Runtime {
        /// Whether its sandbox runs.
        ready: bool,
    },
}

impl Pod {
    /// What keeps its ports from being reached, if that shows without trying. Nothing in the way promises nothing.
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

    /// Newer first among sandboxes of one pod, those that run before those that don't.
    fn precedence(&self) -> (bool, SystemTime) {
        (self.ready(), self.created)
    }
}

/// All pods, by their sandboxes' ids.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pods: BTreeMap<Arc<str>, Arc<Pod>>,
    /// Grows with every change, so that a list that was asked for before one can be told to be out of date.
    version: u64,
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

/// Why a pod is not taken in: its id or its name is another's. Whoever registers it is at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("pod {1}/{2} with id {0:?} is already there; unregister it first, or choose another id and name")]
pub(crate) struct Taken(String, String, String);

/// Looking up.
impl Registry {
    /// With these pods. Of two with one id, the later counts.
    pub(crate) fn new(pods: impl IntoIterator<Item = Pod>) -> Self {
        let pods = pods.into_iter().map(|pod| (Arc::clone(&pod.id), Arc::new(pod))).collect();
        Self { inner: RwLock::new(Inner { pods, version: 0 }) }
    }

    /// All pods in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    /// The pod with exactly this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Pod>> {
        self.read().pods.get(id).cloned()
    }

    /// The pod of this name in this namespace: of several sandboxes, the newest that is ready.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let inner = self.read();
        let named = inner.pods.values().filter(|pod| pod.namespace == namespace && pod.name == name);
        named.max_by_key(|pod| pod.precedence()).cloned()
    }

    /// The pod that somebody means: by its id, its `namespace/name`, the beginning of its id, or its name,
    /// whichever fits first.
    pub(crate) fn resolve(&self, reference: &str) -> Result<Arc<Pod>, LookupError> {
        if let Some(pod) = self.get(reference) {
            return Ok(pod);
        }
        let found = match reference.split_once('/') {
            Some((namespace, name)) => self.named(namespace, name).into_iter().collect(),
            None => self.begun_by_or_named(reference),
        };
        match &found[..] {
            [] => Err(LookupError::NotFound(reference.into())),
            [pod] => Ok(Arc::clone(pod)),
            _ => Err(LookupError::Ambiguous(reference.into(), list(&found))),
        }
    }

    fn begun_by_or_named(&self, reference: &str) -> Vec<Arc<Pod>> {
        // An empty reference is the beginning of everything, and nobody means that.
        let begun = if reference.is_empty() { Vec::new() } else { self.begun_by(reference) };
        if !begun.is_empty() {
            return begun;
        }
        // Of several sandboxes of one pod, one is meant.
        let mut by_namespace: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
        for pod in self.all().into_iter().filter(|pod| pod.name == reference) {
            let best = by_namespace.entry(pod.namespace.clone()).or_insert_with(|| Arc::clone(&pod));
            if best.precedence() < pod.precedence() {
                *best = pod;
            }
        }
        by_namespace.into_values().collect()
    }

    /// The pods whose ids begin like this.
    pub(crate) fn begun_by(&self, beginning: &str) -> Vec<Arc<Pod>> {
        let from = (Bound::Included(beginning), Bound::Unbounded);
        let inner = self.read();
        let after = inner.pods.range::<str, _>(from).map(|(_, pod)| pod);
        after.take_while(|pod| pod.id.starts_with(beginning)).cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the runtime says, and those who register pods. The runtime's word changes its own pods only.
impl Registry {
    /// Adds or replaces a pod.
    pub(crate) fn put(&self, pod: Pod) {
        let mut inner = self.write();
        if !inner.is_ours(&pod.id) {
            inner.pods.insert(Arc::clone(&pod.id), Arc::new(pod));
        }
    }

    /// Marks a pod as one that does not run any more.
    pub(crate) fn stop(&self, id: &str) {
        self.alter(id, |pod| pod.source = Source::Runtime { ready: false });
    }

    /// Notes the route that has been found to a pod.
    pub(crate) fn found(&self, id: &str, route: Route) {
        self.alter(id, |pod| pod.route = route);
    }

    /// Takes in a pod that somebody registers, unless there is one of its id or its name.
    pub(crate) fn register(&self, pod: Pod) -> Result<(), Taken> {
        let mut inner = self.write();
        let same = |other: &&Arc<Pod>| other.namespace == pod.namespace && other.name == pod.name;
        if let Some(other) = inner.pods.get(&pod.id).or_else(|| inner.pods.values().find(same)) {
            return Err(Taken(other.id.to_string(), other.namespace.clone(), other.name.clone()));
        }
        inner.pods.insert(Arc::clone(&pod.id), Arc::new(pod));
        Ok(())
    }

    /// Forgets a pod that was registered, and no other.
    pub(crate) fn unregister(&self, id: &str) -> Option<Arc<Pod>> {
        let mut inner = self.write();
        let registered = inner.pods.get(id).is_some_and(|pod| pod.source == Source::Registered);
        registered.then(|| inner.pods.remove(id)).flatten()
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, id: &str) {
        let mut inner = self.write();
        if !inner.is_ours(id) {
            inner.pods.remove(id);
        }
    }

    /// What [`Registry::replace`] wants to know, taken before the list is asked for.
    pub(crate) fn version(&self) -> u64 {
        self.read().version
    }

    /// Puts a complete list in place of all that was known from the runtime, unless something has changed since
    /// `version`: then the list may be the older news, and nothing happens.
    ///
    /// Gives the pods that do not run any more, or `None` if the list has to be asked for again.
    pub(crate) fn replace(&self, version: u64, pods: Vec<Pod>) -> Option<Vec<Arc<Pod>>> {
        let mut inner = self.write();
        // Taking the lock to write counted as one change.
        if inner.version != version + 1 {
            return None;
        }
        let (kept, mut before): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut inner.pods)
            .into_iter()
            .partition(|(_, pod)| !matches!(pod.source, Source::Runtime { .. }));
        inner.pods = kept;
        for mut pod in pods {
            if inner.is_ours(&pod.id) {
                continue;
            }
            let known = before.get(&pod.id);
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
        if !inner.is_ours(id)
            && let Some(pod) = inner.pods.get_mut(id)
        {
            change(Arc::make_mut(pod));
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.version += 1;
        inner
    }
}

impl Inner {
    fn is_ours(&self, id: &str) -> bool {
        self.pods.get(id).is_some_and(|pod| !matches!(pod.source, Source::Runtime { .. }))
    }
}

/// Names at most eight of them: the list becomes part of a sentence.
fn list(pods: &[Arc<Pod>]) -> String {
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
    fn pods_are_found_by_id_beginning_and_name() {
        let registry = registry();
        let name_of = |reference| registry.resolve(reference).unwrap().name.clone();
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
    fn pods_are_registered_but_never_two_of_one_id_or_name() {
        let registry = registry();
        let registered = |id, name| Pod { source: Source::Registered, ..pod(id, name) };
        let taken = |id, name| registry.register(registered(id, name)).unwrap_err().to_string();
        assert!(taken("abc1", "new").contains("default/one"));
        assert!(taken("new", "one").contains("\"abc1\""));
        registry.register(registered("new", "new")).unwrap();
        registry.remove("new");
        assert!(registry.get("new").is_some(), "the runtime has no say in it");
        assert!(registry.unregister("abc1").is_none(), "the configuration's stays");
        assert!(registry.unregister("new").is_some() && registry.get("new").is_none());
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
