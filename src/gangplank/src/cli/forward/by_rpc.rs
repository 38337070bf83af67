//! One pod's forwards by JSON-RPC: a call for each connection, which then becomes the stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gangplank_streaming::Connection;
use serde_json::json;
use tokio::io::{AsyncWriteExt, BufReader, copy_buf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::line::{Counted, Event, Events, Line};
use super::udp::{self, Peer};
use super::{ForwardError, Local, PodLines};
use crate::rpc::client::{CallError, Client};
use crate::rpc::{Code, RpcError};
use crate::unix_url::UnixUrl;

/// How long to wait before a lost daemon or pod is asked for again.
const RETRY: Duration = Duration::from_millis(250);

/// How often the daemon is asked about a pod while all seems well, at most.
const DOUBT_PAUSE: Duration = Duration::from_millis(250);

/// Bytes of each direction's buffer.
const BUFFER: usize = 64 << 10;

/// A pod's forwards, and a connection that ends when the daemon does.
pub(super) struct ByRpc {
    rpc: UnixUrl,
    lines: PodLines,
    watch: Client,
    /// A connection ended in a way that may mean that the pod is gone.
    doubts: (mpsc::Sender<()>, mpsc::Receiver<()>),
    asked: Instant,
}

impl ByRpc {
    /// Sees whether the pod is there.
    ///
    /// # Errors
    /// When it is not, or the daemon is not.
    pub(super) async fn start(rpc: UnixUrl, lines: PodLines) -> Result<Self, ForwardError> {
        let mut watch = Client::connect(&rpc).await?;
        present(&mut watch, &lines.pod).await?;
        Ok(Self { rpc, lines, watch, doubts: mpsc::channel(1), asked: Instant::now() })
    }

    /// Forwards for ever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                Some(local) = self.lines.accepted.recv() => self.forward(local),
                () = self.watch.ended() => self.recover("the daemon has gone away").await,
                Some(()) = self.doubts.1.recv() => self.look().await,
            }
        }
    }

    fn forward(&self, local: Local) {
        let (rpc, doubts, events) = (self.rpc.clone(), self.doubts.0.clone(), self.lines.events.clone());
        tokio::spawn(async move {
            let (line, ended) = match local {
                Local::Tcp(line, socket) => {
                    let counted = Counted::new(socket, Arc::clone(&line), events.clone());
                    let ended = forward(&rpc, &line, counted, &doubts).await;
                    (line, ended)
                }
                Local::Udp(peer) => {
                    (Arc::clone(&peer.line), associate(&rpc, peer, &doubts, events.clone()).await)
                }
            };
            if let Err(error) = ended {
                let _ = events.send(Event::Failed(line, error.to_string())); // nobody listens at the end
            }
        });
    }

    /// Asks the daemon whether the pod is there, unless that was seen just now.
    async fn look(&mut self) {
        tokio::time::sleep_until(self.asked + DOUBT_PAUSE).await;
        self.asked = Instant::now();
        let seen = async { present(&mut Client::connect(&self.rpc).await?, &self.lines.pod).await };
        if let Err(error) = seen.await {
            self.recover(&error.to_string()).await;
        }
    }

    /// Asks until daemon and pod answer again. Whoever connects meanwhile is sent away.
    async fn recover(&mut self, why: &str) {
        self.lines.tell(Event::Lost(Arc::clone(&self.lines.pod), why.into()));
        let (rpc, pod) = (self.rpc.clone(), Arc::clone(&self.lines.pod));
        let again = async move {
            loop {
                if let Ok(mut client) = Client::connect(&rpc).await
                    && present(&mut client, &pod).await.is_ok()
                {
                    return client;
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        self.watch = self.lines.refuse_until(again, why).await;
        self.lines.tell(Event::Back(Arc::clone(&self.lines.pod)));
    }
}

/// Whether there is such a pod and its endpoint, and the daemon has not lost its guest. The pod is not touched: some
/// devices take harm from that while their guest boots, and it is the daemon that hears of its return.
async fn present(client: &mut Client, pod: &str) -> Result<(), CallError> {
    let listed = client.call("pod.list", json!({ "handle": pod })).await?;
    let found = &listed["pods"][0];
    let cause = if found["ready"] != true {
        let endpoint = found["endpoint"].as_str().unwrap_or_default();
        format!("pod {pod:?} is not ready: nothing is at {endpoint}; start the pod and forward again")
    } else if found["lost"] == true {
        format!("the guest of pod {pod:?} or its relay has gone away")
    } else {
        return Ok(());
    };
    Err(RpcError::new(Code::GuestUnreachable, cause).into())
}

/// One connection, from the dial to both its ends. That the pod has ended its side raises doubts: if its guest is
/// gone, it looks the same from here.
async fn forward(
    rpc: &UnixUrl,
    line: &Line,
    mut local: Counted,
    doubts: &mpsc::Sender<()>,
) -> Result<(), CallError> {
    let (stream, early) = dial(rpc, line, doubts).await.inspect_err(|_| local.abort())?;
    let (from_pod, mut to_pod) = stream.into_split();
    let (from_here, mut to_here) = tokio::io::split(local);
    let mut from_here = BufReader::with_capacity(BUFFER, from_here);
    let down = async {
        to_here.write_all(&early).await?;
        copy_buf(&mut BufReader::with_capacity(BUFFER, from_pod), &mut to_here).await?;
        doubt(doubts);
        to_here.shutdown().await
    };
    let up = async {
        copy_buf(&mut from_here, &mut to_pod).await?;
        to_pod.shutdown().await
    };
    if let Err(error) = tokio::try_join!(up, down) {
        from_here.into_inner().unsplit(to_here).abort();
        tracing::debug!(%error, "a forwarded connection ended badly");
    }
    Ok(())
}

/// The datagrams of one sender, until its association has ended.
async fn associate(
    rpc: &UnixUrl,
    peer: Peer,
    doubts: &mpsc::Sender<()>,
    events: Events,
) -> Result<(), CallError> {
    let (stream, early) = dial(rpc, &peer.line, doubts).await?;
    if let Err(error) = udp::carry(peer, stream, early, events).await {
        tracing::debug!(%error, "an association ended badly");
    }
    doubt(doubts);
    Ok(())
}

async fn dial(
    rpc: &UnixUrl,
    line: &Line,
    doubts: &mpsc::Sender<()>,
) -> Result<(UnixStream, Bytes), CallError> {
    let address = format!(":{}", line.remote);
    let dialled = async { Client::connect(rpc).await?.dial(&line.pod, Some(line.network), &address).await };
    dialled.await.inspect_err(|_| doubt(doubts))
}

fn doubt(doubts: &mpsc::Sender<()>) {
    // Full: there are doubts already.
    let _ = doubts.try_send(());
}
