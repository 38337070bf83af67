//! One pod's forwards over JSON-RPC: each connection to the socket makes one call and then becomes the stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gangplank_streaming::Connection;
use serde_json::json;
use tokio::io::{AsyncWriteExt, BufReader, copy_buf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::forwarded_port::{CountedSocket, Events, ForwardEvent, ForwardedPort};
use super::udp::{self, UdpPeer};
use super::{ForwardError, Incoming, PodForwards};
use crate::rpc::client::{CallError, RpcClient};
use crate::rpc::{Code, RpcError};
use crate::unix_url::UnixUrl;

/// How long to wait between attempts to reach a lost daemon or pod.
const RETRY: Duration = Duration::from_millis(250);

/// The shortest time between two checks of a pod that seems fine.
const DOUBT_PAUSE: Duration = Duration::from_millis(250);

/// Size of each direction's buffer, in bytes.
const BUFFER: usize = 64 << 10;

/// A pod's forwards, and an idle connection that ends when the daemon does.
pub(super) struct ByRpc {
    rpc: UnixUrl,
    forwards: PodForwards,
    watch: RpcClient,
    /// Signals that a connection ended in a way that may mean that the pod is gone.
    doubts: (mpsc::Sender<()>, mpsc::Receiver<()>),
    asked: Instant,
}

impl ByRpc {
    /// Connects to the daemon and checks that the pod is ready.
    ///
    /// # Errors
    /// If the daemon cannot be reached or the pod is not ready.
    pub(super) async fn start(rpc: UnixUrl, forwards: PodForwards) -> Result<Self, ForwardError> {
        let mut watch = RpcClient::connect(&rpc).await?;
        present(&mut watch, &forwards.pod).await?;
        Ok(Self { rpc, forwards, watch, doubts: mpsc::channel(1), asked: Instant::now() })
    }

    /// Forwards forever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                Some(local) = self.forwards.accepted.recv() => self.forward(local),
                () = self.watch.ended() => self.recover("the daemon has gone away").await,
                Some(()) = self.doubts.1.recv() => self.look().await,
            }
        }
    }

    fn forward(&self, local: Incoming) {
        let (rpc, doubts, events) = (self.rpc.clone(), self.doubts.0.clone(), self.forwards.events.clone());
        tokio::spawn(async move {
            let (forwarded, ended) = match local {
                Incoming::Tcp(forwarded, socket) => {
                    let counted = CountedSocket::new(socket, Arc::clone(&forwarded), events.clone());
                    let ended = forward(&rpc, &forwarded, counted, &doubts).await;
                    (forwarded, ended)
                }
                Incoming::Udp(peer) => {
                    (Arc::clone(&peer.forwarded), associate(&rpc, peer, &doubts, events.clone()).await)
                }
            };
            if let Err(error) = ended {
                let _ = events.send(ForwardEvent::Failed(forwarded, error.to_string())); // fails only during shutdown
            }
        });
    }

    /// Checks whether the pod is still ready, unless that was checked a moment ago.
    async fn look(&mut self) {
        tokio::time::sleep_until(self.asked + DOUBT_PAUSE).await;
        self.asked = Instant::now();
        let seen = async { present(&mut RpcClient::connect(&self.rpc).await?, &self.forwards.pod).await };
        if let Err(error) = seen.await {
            self.recover(&error.to_string()).await;
        }
    }

    /// Waits until the daemon and the pod are back, and meanwhile rejects local connections.
    async fn recover(&mut self, why: &str) {
        self.forwards.report(ForwardEvent::Lost(Arc::clone(&self.forwards.pod), why.into()));
        let (rpc, pod) = (self.rpc.clone(), Arc::clone(&self.forwards.pod));
        let again = async move {
            loop {
                if let Ok(mut client) = RpcClient::connect(&rpc).await
                    && present(&mut client, &pod).await.is_ok()
                {
                    return client;
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        self.watch = self.forwards.refuse_until(again, why).await;
        self.forwards.report(ForwardEvent::Back(Arc::clone(&self.forwards.pod)));
    }
}

/// Checks that the pod and its endpoint exist and that the daemon has not lost the guest. This does not connect to the
/// pod: a connection while a guest boots can hang some devices, and the daemon learns when a guest is back.
async fn present(client: &mut RpcClient, pod: &str) -> Result<(), CallError> {
    let listed = client.call("pod.list", json!({ "handle": pod })).await?;
    let found = &listed["pods"][0];
    let cause = if found["ready"] != true {
        let endpoint = found["endpoint"].as_str().unwrap_or_default();
        format!("pod {pod:?} is not ready: {endpoint} does not exist; start the pod and forward again")
    } else if found["lost"] == true {
        format!("the guest of pod {pod:?} or its relay has gone away")
    } else {
        return Ok(());
    };
    Err(RpcError::new(Code::GuestUnreachable, cause).into())
}

/// Forwards one connection until both directions have ended. When the pod ends its direction, the pod is checked: if its
/// guest is gone, it looks the same from here.
async fn forward(
    rpc: &UnixUrl,
    forwarded: &ForwardedPort,
    mut local: CountedSocket,
    doubts: &mpsc::Sender<()>,
) -> Result<(), CallError> {
    let (stream, early) = dial(rpc, forwarded, doubts).await.inspect_err(|_| local.abort())?;
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
        tracing::debug!(%error, "a forwarded connection failed");
    }
    Ok(())
}

/// Forwards the datagrams of one sender until its association ends.
async fn associate(
    rpc: &UnixUrl,
    peer: UdpPeer,
    doubts: &mpsc::Sender<()>,
    events: Events,
) -> Result<(), CallError> {
    let (stream, early) = dial(rpc, &peer.forwarded, doubts).await?;
    if let Err(error) = udp::carry(peer, stream, early, events).await {
        tracing::debug!(%error, "an association failed");
    }
    doubt(doubts);
    Ok(())
}

async fn dial(
    rpc: &UnixUrl,
    forwarded: &ForwardedPort,
    doubts: &mpsc::Sender<()>,
) -> Result<(UnixStream, Bytes), CallError> {
    let address = format!(":{}", forwarded.remote);
    let dialled = async {
        RpcClient::connect(rpc).await?.dial(&forwarded.pod, Some(forwarded.network), &address).await
    };
    dialled.await.inspect_err(|_| doubt(doubts))
}

fn doubt(doubts: &mpsc::Sender<()>) {
    // If the channel is full, a check is pending already.
    let _ = doubts.try_send(());
}
