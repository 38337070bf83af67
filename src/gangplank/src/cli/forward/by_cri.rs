//! One pod's forwards over a port-forward session, like those of any CRI client.

use std::sync::Arc;
use std::time::Duration;

use gangplank_streaming::{Client, ClientEvent, Connection};

use super::forwarded_port::{CountedSocket, ForwardEvent};
use super::{ForwardError, Incoming, PodForwards, cri_client};
use crate::unix_url::UnixUrl;

/// How long to wait between attempts to replace a lost session.
const RETRY: Duration = Duration::from_millis(250);

/// A pod's session and its forwards.
pub(super) struct ByCri {
    cri: UnixUrl,
    forwards: PodForwards,
    session: Client<CountedSocket>,
}

impl ByCri {
    /// Opens a session.
    ///
    /// # Errors
    /// If the CRI server refuses a session.
    pub(super) async fn start(cri: UnixUrl, forwards: PodForwards) -> Result<Self, ForwardError> {
        let session = session(&cri, &forwards.pod).await?;
        Ok(Self { cri, forwards, session })
    }

    /// Forwards forever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                Some(local) = self.forwards.accepted.recv() => {
                    // `Forwarder::start` rejects UDP ports over CRI.
                    if let Incoming::Tcp(forwarded, socket) = local {
                        let remote = forwarded.remote;
                        self.session.forward(remote, CountedSocket::new(socket, forwarded, self.forwards.events.clone()));
                    }
                }
                event = self.session.event() => match event {
                    Some(ClientEvent::Refused { port }) => {
                        self.failed(port, "it cannot be reached; the daemon's log says why");
                    }
                    Some(ClientEvent::Failed { port, text }) => self.failed(port, text.trim_end()),
                    Some(ClientEvent::Closed(why)) => self.recover(&why).await,
                    None => self.recover("the session has ended").await,
                },
            }
        }
    }

    fn failed(&self, port: u16, why: &str) {
        for forwarded in self.forwards.all.iter().filter(|forwarded| forwarded.remote == port) {
            self.forwards.report(ForwardEvent::Failed(
                Arc::clone(forwarded),
                format!("port {port} of the pod: {why}"),
            ));
        }
    }

    /// Waits for another session, and meanwhile rejects local connections.
    async fn recover(&mut self, why: &str) {
        self.forwards.report(ForwardEvent::Lost(Arc::clone(&self.forwards.pod), why.into()));
        let (cri, pod) = (self.cri.clone(), Arc::clone(&self.forwards.pod));
        let again = async move {
            loop {
                match session(&cri, &pod).await {
                    Ok(session) => return session,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        };
        self.session = self.forwards.refuse_until(again, why).await;
        self.forwards.report(ForwardEvent::Back(Arc::clone(&self.forwards.pod)));
    }
}

async fn session<C: Connection>(cri: &UnixUrl, pod: &str) -> Result<Client<C>, ForwardError> {
    let url = cri_client::port_forward(cri, pod).await?;
    Ok(Client::carrying(&url).await?)
}
