//! Pods whose guest has gone away, and how it is noticed that there is one again.
//!
//! ```text
//!   a connection ends without its end, ──► lost ──► hybrid vsock: wait for the relay's announcement ──► asked ──► found
//!   or a relay is not reached                  └──► else: ask again and again ─────────────────────────────┘
//! ```
//!
//! A hybrid device is not touched meanwhile: vhost-device-vsock stops for good when its guest boots just then.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gangplank_dial::PodDialer;
use tokio::net::UnixListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Dialer;
use crate::daemon::pods::Pod;

/// How often a relay is asked that may be asked at any time.
const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// How often it is looked for a device's folder: the quickest guests boot in a tenth of a second.
const LOOK: Duration = Duration::from_millis(25);

/// After this long without an announcement a hybrid device is tried: its relay may be of a version that makes none.
/// Guests boot in less.
const ANNOUNCEMENT_LIMIT: Duration = Duration::from_secs(60);

/// How long a relay may take to show that it is there.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The pods that are lost.
#[derive(Debug)]
pub(crate) struct LostPods {
    /// Each with the number of its search.
    pods: Mutex<BTreeMap<Arc<str>, u64>>,
    searches: AtomicU64,
    new: UnboundedSender<Search>,
    /// Until somebody looks for them.
    taken: Mutex<Option<UnboundedReceiver<Search>>>,
}

/// One search, which is over when its pod has been reached, even if that is lost again by then.
type Search = (Arc<Pod>, u64);

impl Default for LostPods {
    fn default() -> Self {
        let (new, taken) = mpsc::unbounded_channel();
        Self { pods: Mutex::default(), searches: AtomicU64::new(0), new, taken: Mutex::new(Some(taken)) }
    }
}

impl LostPods {
    /// The pod's guest seems to be gone.
    pub(crate) fn add(&self, pod: &Arc<Pod>) {
        if let Entry::Vacant(place) = self.lock().entry(Arc::clone(&pod.id)) {
            let search = *place.insert(self.searches.fetch_add(1, Relaxed));
            // Nobody looks for it in a program that only checks.
            let _ = self.new.send((Arc::clone(pod), search));
        }
    }

    /// The pod was reached.
    pub(crate) fn remove(&self, pod: &str) {
        self.lock().remove(pod);
    }

    /// Whether it seems to be gone still.
    pub(crate) fn has(&self, pod: &str) -> bool {
        self.lock().contains_key(pod)
    }

    fn goes_on(&self, pod: &str, search: u64) -> bool {
        self.lock().get(pod) == Some(&search)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, u64>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dialer {
    /// Looks for the pods that are lost, each by itself, until `stop`.
    pub(crate) async fn find_lost(self, stop: CancellationToken) {
        let lost = &self.accounts.lost;
        let Some(mut new) = lost.taken.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let mut searches = JoinSet::new();
        loop {
            tokio::select! {
                Some((pod, search)) = new.recv() => {
                    let dialer = self.clone();
                    searches.spawn(async move { dialer.find(&pod, search).await });
                }
                Some(_) = searches.join_next() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Until the pod is reached, by this or by a dial, or is not known any more.
    async fn find(&self, pod: &Pod, search: u64) {
        let lost = &self.accounts.lost;
        let goes_on = || lost.goes_on(&pod.id, search) && self.pods.get(&pod.id).is_some();
        let is_over = async {
            while goes_on() {
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        };
        tracing::info!(sandbox = &*pod.id, "the guest of a pod seems to be gone");
        let is_back = async {
            // Between the two it may have been reached, and lost again: then it is another's to ask.
            while !(self.may_be_asked(pod).await && goes_on() && self.probe(pod, PROBE_LIMIT).await.is_ok()) {
            }
        };
        tokio::select! {
            () = is_over => {}
            () = is_back => {}
        }
        if lost.goes_on(&pod.id, search) {
            lost.remove(&pod.id);
        }
        tracing::info!(sandbox = &*pod.id, "the guest of a pod is back, or the pod is gone");
    }

    /// Waits until it makes sense to ask the pod's relay, or to look again. A device's own socket need not be there yet:
    /// its guest may be quick.
    async fn may_be_asked(&self, pod: &Pod) -> bool {
        let relay = async {
            let endpoint = pod.route.endpoint().ok()??;
            PodDialer::sharing(self.sockets.clone(), endpoint).named(&pod.name).relay().await.ok()
        };
        let relay = relay.await;
        match &relay {
            Some(channel::Endpoint::Hybrid { path, port }) => {
                // Too late or not, then is the time.
                let _ =
                    tokio::time::timeout(ANNOUNCEMENT_LIMIT, announced(&announcements(path, *port))).await;
            }
            _ => tokio::time::sleep(PROBE_PAUSE).await,
        }
        relay.is_some()
    }
}

/// Where a device brings what its guest connects to at this port of the host.
fn announcements(device: &Path, port: u32) -> PathBuf {
    let mut path = device.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

/// Waits for a guest's connection there. The socket goes with this.
async fn announced(path: &Path) {
    loop {
        if let Some(socket) = Announcements::listen(path)
            && socket.listener.accept().await.is_ok()
        {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A socket at a path, both of which go together.
struct Announcements<'a> {
    listener: UnixListener,
    path: &'a Path,
}

impl<'a> Announcements<'a> {
    /// None where there is no folder yet, or somebody else listens.
    fn listen(path: &'a Path) -> Option<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_left_behind(path) => {
                let _ = std::fs::remove_file(path);
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let socket = Self { listener: listener.ok()?, path };
        // The device may run as another user. Whoever connects makes us ask the relay, and nothing else.
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666));
        Some(socket)
    }
}

impl Drop for Announcements<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path); // the folder may be gone with it
    }
}

fn is_left_behind(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::daemon::connections::Accounts;
    use crate::daemon::pods::Registry;
    use crate::daemon::pods::tests::{pod, pod_at};

    #[test]
    fn a_pod_is_lost_once_until_it_is_found() {
        let lost = LostPods::default();
        let pod = Arc::new(pod("abc", "demo"));
        lost.add(&pod);
        lost.add(&pod);
        let mut new = lost.taken.lock().unwrap().take().unwrap();
        assert!(new.try_recv().is_ok() && new.try_recv().is_err());
        assert!(lost.has("abc") && lost.goes_on("abc", 0));
        lost.remove("abc");
        assert!(!lost.has("abc"));
        lost.add(&pod);
        assert_eq!(new.try_recv().unwrap().1, 1);
        assert!(lost.has("abc") && !lost.goes_on("abc", 0), "the first search is over");
    }

    #[tokio::test]
    async fn an_announcement_is_a_connection_beside_the_devices_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = announcements(&folder.path().join("later/v.sock"), 1023);
        assert!(path.ends_with("later/v.sock_1023"));
        let device = async {
            tokio::time::sleep(PROBE_PAUSE).await; // it is waited for the folder, too
            std::fs::create_dir(folder.path().join("later")).unwrap();
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // left behind by another daemon
            loop {
                if let Ok(stream) = UnixStream::connect(&path).await {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::join!(announced(&path), device);
        assert!(!path.exists(), "the socket is gone");
    }

    #[tokio::test]
    async fn a_device_is_touched_only_after_the_announcement() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let device = UnixListener::bind(&path).unwrap();
        let endpoint = format!("hvsock://{}:1023", path.display());
        let pods = Arc::new(Registry::new([pod_at("abc", "demo", &endpoint)]));
        let accounts = Accounts::default();
        let limit = Duration::from_secs(10);
        let dialer = Dialer::new(Arc::clone(&pods), accounts.clone(), limit).unwrap();
        let stop = CancellationToken::new();
        accounts.lost.add(&pods.get("abc").unwrap());
        let search = tokio::spawn(dialer.find_lost(stop.clone()));

        let guest = folder.path().join("v.sock_1023");
        while !guest.exists() {
            tokio::time::sleep(LOOK).await;
        }
        // Other relays would have been asked by now.
        assert!(tokio::time::timeout(4 * PROBE_PAUSE, device.accept()).await.is_err());
        drop(UnixStream::connect(&guest).await.unwrap());
        let (mut asked, _) = device.accept().await.unwrap();
        let mut line = [0; 13];
        asked.read_exact(&mut line).await.unwrap();
        assert_eq!(line, *b"CONNECT 1023\n");
        assert!(accounts.lost.has("abc"), "nothing has answered yet");
        stop.cancel();
        search.await.unwrap();
    }
}
