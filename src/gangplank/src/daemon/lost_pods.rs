//! The pods whose guest seems to be gone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::pods::Pod;

/// One search. It is over once its pod was reached, even if the pod is lost again by then.
pub(crate) type Search = (Arc<Pod>, u64);

/// A pod is lost when its last connection was cut off or its relay was not reached, until it is reached again.
#[derive(Debug)]
pub(crate) struct LostPods {
    /// Each with the number of its search.
    pods: Mutex<BTreeMap<Arc<str>, u64>>,
    searches: AtomicU64,
    new: UnboundedSender<Search>,
    /// Until it is taken by what searches.
    taken: Mutex<Option<UnboundedReceiver<Search>>>,
}

impl Default for LostPods {
    fn default() -> Self {
        let (new, taken) = mpsc::unbounded_channel();
        Self { pods: Mutex::default(), searches: AtomicU64::new(0), new, taken: Mutex::new(Some(taken)) }
    }
}

impl LostPods {
    /// The pod's guest seems to be gone: starts a search unless there is one.
    pub(crate) fn add(&self, pod: &Arc<Pod>) {
        if let Entry::Vacant(entry) = self.lock().entry(Arc::clone(&pod.id)) {
            let search = *entry.insert(self.searches.fetch_add(1, Relaxed));
            // `gangplank check` has no searcher.
            let _ = self.new.send((Arc::clone(pod), search));
        }
    }

    /// The pod was reached.
    pub(crate) fn remove(&self, pod: &str) {
        self.lock().remove(pod);
    }

    /// Whether the pod is lost.
    pub(crate) fn has(&self, pod: &str) -> bool {
        self.lock().contains_key(pod)
    }

    /// Whether this search is still the pod's current one.
    pub(crate) fn is_searched(&self, pod: &str, search: u64) -> bool {
        self.lock().get(pod) == Some(&search)
    }

    /// The searches to do; `None` if they were taken before.
    pub(crate) fn take_searches(&self) -> Option<UnboundedReceiver<Search>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, u64>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::pods::tests::pod;

    #[test]
    fn a_pod_is_lost_once_until_it_is_found() {
        let lost = LostPods::default();
        let pod = Arc::new(pod("abc", "demo"));
        lost.add(&pod);
        lost.add(&pod);
        let mut new = lost.take_searches().unwrap();
        assert!(new.try_recv().is_ok() && new.try_recv().is_err());
        assert!(lost.has("abc") && lost.is_searched("abc", 0));
        lost.remove("abc");
        assert!(!lost.has("abc"));
        lost.add(&pod);
        assert_eq!(new.try_recv().unwrap().1, 1);
        assert!(lost.has("abc") && !lost.is_searched("abc", 0), "the first search is over");
    }
}
