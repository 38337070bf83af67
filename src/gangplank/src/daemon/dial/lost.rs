//! The search for lost pods, whose guest seems to be gone: when is it back?
//!
//! ```text
//!   a transport is cut off, ──► lost ──┬─ hybrid vsock: wait for the relay's announcement ─┬─► probe ──► found
//!   or a relay is not reached          ├─ otherwise: wait a moment ────────────────────────┘     │
//!                                      └──────────────────────◄── no answer ─────────────────────┘
//! ```
//!
//! A hybrid vsock device is not touched while its guest may boot: a connection at that moment stops vhost-device-vsock
//! for good.

use std::time::Duration;

use gangplank_dial::PodDialer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Dialer;
use super::announcements::{announced, announcement_path};
use crate::daemon::pods::Pod;

/// Time between two probes of a relay that may be probed at any time.
const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// After this long without an announcement, a hybrid device is probed: its relay may be too old to announce itself.
/// Guests boot faster.
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a relay may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Dialer {
    /// Searches for lost pods, each on its own, until `stop`.
    pub(crate) async fn find_lost(self, stop: CancellationToken) {
        let Some(mut new) = self.accounts.lost.take_searches() else { return };
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

    /// Ends when the pod was reached, by this search or by a dial, or is no longer known.
    async fn find(&self, pod: &Pod, search: u64) {
        let lost = &self.accounts.lost;
        let is_wanted = || lost.is_searched(&pod.id, search) && self.pods.get(&pod.id).is_some();
        let is_over = async {
            while is_wanted() {
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        };
        tracing::info!(sandbox = &*pod.id, "a pod's guest seems to be gone");
        let is_back = async {
            // The pod may have been reached and lost again while this waited: then another search probes it.
            while !(self.may_be_probed(pod).await
                && is_wanted()
                && self.probe(pod, PROBE_TIMEOUT).await.is_ok())
            {}
        };
        tokio::select! {
            () = is_over => {}
            () = is_back => {}
        }
        if lost.is_searched(&pod.id, search) {
            lost.remove(&pod.id);
        }
        tracing::info!(sandbox = &*pod.id, "a pod's guest is back, or the pod was removed");
    }

    /// Waits until it makes sense to probe the pod's relay, or to look again. The device's own socket need not exist yet.
    async fn may_be_probed(&self, pod: &Pod) -> bool {
        let relay = async {
            let endpoint = pod.route.endpoint().ok()??;
            PodDialer::sharing(self.sockets.clone(), endpoint).named(&pod.name).relay().await.ok()
        };
        let relay = relay.await;
        match &relay {
            Some(gangplank_channel::Endpoint::Hybrid { path, port }) => {
                // With or without an announcement, it is time to probe after this.
                let announced = announced(announcement_path(path, *port));
                let _ = tokio::time::timeout(ANNOUNCEMENT_TIMEOUT, announced).await;
            }
            _ => tokio::time::sleep(PROBE_PAUSE).await,
        }
        relay.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::daemon::connections::Accounts;
    use crate::daemon::pods::Registry;
    use crate::daemon::pods::tests::pod_at;

    #[tokio::test]
    async fn a_device_is_probed_only_after_the_announcement() {
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
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        // Other relays would have been probed by now.
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
