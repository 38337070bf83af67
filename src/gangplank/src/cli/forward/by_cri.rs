//! One pod's forwards through a port-forward session, as a CRI client has them.

use std::sync::Arc;
use std::time::Duration;

use gangplank_streaming::{Client, ClientEvent, Connection};

use super::line::{Counted, Event};
use super::{ForwardError, Local, PodLines, cri_client};
use crate::unix_url::UnixUrl;

/// How long to wait before a lost session is asked for again.
const RETRY: Duration = Duration::from_millis(250);

/// A pod's session and its forwards.
pub(super) struct ByCri {
    cri: UnixUrl,
    lines: PodLines,
    session: Client<Counted>,
}

impl ByCri {
    /// Opens a session.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(super) async fn start(cri: UnixUrl, lines: PodLines) -> Result<Self, ForwardError> {
        let session = session(&cri, &lines.pod).await?;
        Ok(Self { cri, lines, session })
    }

    /// Forwards for ever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                Some(local) = self.lines.accepted.recv() => {
                    // Of datagrams there are none by CRI.
                    if let Local::Tcp(line, socket) = local {
                        let remote = line.remote;
                        self.session.forward(remote, Counted::new(socket, line, self.lines.events.clone()));
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
        for line in self.lines.all.iter().filter(|line| line.remote == port) {
            self.lines.tell(Event::Failed(Arc::clone(line), format!("port {port} of the pod: {why}")));
        }
    }

    /// Asks for another session until there is one. Whoever connects meanwhile is sent away.
    async fn recover(&mut self, why: &str) {
        self.lines.tell(Event::Lost(Arc::clone(&self.lines.pod), why.into()));
        let (cri, pod) = (self.cri.clone(), Arc::clone(&self.lines.pod));
        let again = async move {
            loop {
                match session(&cri, &pod).await {
                    Ok(session) => return session,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        };
        self.session = self.lines.refuse_until(again, why).await;
        self.lines.tell(Event::Back(Arc::clone(&self.lines.pod)));
    }
}

async fn session<C: Connection>(cri: &UnixUrl, pod: &str) -> Result<Client<C>, ForwardError> {
    let url = cri_client::port_forward(cri, pod).await?;
    Ok(Client::carrying(&url).await?)
}
