//! Forwards datagrams. Each local sender has its own association with the pod's port, so that answers return to it.
//!
//! ```text
//!   senders ──► local socket ────► a queue for each sender ──► association ──► pod
//!      ◄────────────────────────────────────────────────────────────┘
//! ```

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use gangplank_dial::{LENGTH, MAX_DATAGRAM};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UdpSocket, UnixStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::Incoming;
use super::forwarded_port::{ConnectionTally, Events, ForwardedPort};

/// How many senders one socket serves at once. Each needs a channel, and some vsock devices support only 1,023. A further
/// sender replaces the one that has been silent longest.
const PEERS: usize = 256;

/// How many datagrams of one sender wait for its association. Further ones are dropped.
const QUEUE: usize = 64;

/// How long to wait after receiving has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// A local sender and its queue of datagrams, which ends when `Peers` forgets the sender.
pub(super) struct UdpPeer {
    pub(super) forwarded: Arc<ForwardedPort>,
    address: SocketAddr,
    socket: Arc<UdpSocket>,
    datagrams: Receiver<Bytes>,
    activity: Arc<Activity>,
}

/// When a sender last sent or received something, as the value of a global counter.
#[derive(Debug, Default)]
struct Activity(AtomicU64);

/// Sorts datagrams by sender until the receiver is dropped.
pub(super) async fn serve(socket: UdpSocket, forwarded: Arc<ForwardedPort>, to: Sender<Incoming>) {
    let socket = Arc::new(socket);
    let (mut peers, mut buffer) = (Peers::default(), vec![0; MAX_DATAGRAM]);
    loop {
        let Ok((len, address)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let datagram = Bytes::copy_from_slice(&buffer[..len]);
        let Some((datagrams, activity)) = peers.take(address, datagram) else { continue };
        let (forwarded, socket) = (Arc::clone(&forwarded), Arc::clone(&socket));
        if to.send(Incoming::Udp(UdpPeer { forwarded, address, socket, datagrams, activity })).await.is_err()
        {
            return;
        }
    }
}

#[derive(Default)]
struct Peers {
    known: HashMap<SocketAddr, (Sender<Bytes>, Arc<Activity>)>,
}

impl Peers {
    /// Queues a datagram. For a new sender, returns the receiving end of its queue.
    fn take(&mut self, from: SocketAddr, datagram: Bytes) -> Option<(Receiver<Bytes>, Arc<Activity>)> {
        let mut datagram = datagram;
        if let Some((queue, activity)) = self.known.get(&from) {
            activity.now();
            match queue.try_send(datagram) {
                Ok(()) | Err(TrySendError::Full(_)) => return None,
                // Its association has ended.
                Err(TrySendError::Closed(unsent)) => datagram = unsent,
            }
        }
        self.make_room();
        let (sender, queue) = mpsc::channel(QUEUE);
        let activity = Arc::new(Activity::default());
        activity.now();
        let _ = sender.try_send(datagram); // it has room
        self.known.insert(from, (sender, Arc::clone(&activity)));
        Some((queue, activity))
    }

    fn make_room(&mut self) {
        if self.known.len() < PEERS {
            return;
        }
        self.known.retain(|_, (queue, _)| !queue.is_closed());
        while self.known.len() >= PEERS {
            let silent = self.known.iter().min_by_key(|(_, (_, activity))| activity.0.load(Relaxed));
            let Some(address) = silent.map(|(address, _)| *address) else { return };
            self.known.remove(&address);
        }
    }
}

impl Activity {
    fn now(&self) {
        static MOMENTS: AtomicU64 = AtomicU64::new(0);
        self.0.store(MOMENTS.fetch_add(1, Relaxed), Relaxed);
    }
}

/// Carries a sender's datagrams over a stream from `pod.portDial` until either side ends.
///
/// # Errors
/// Any error of the stream.
pub(super) async fn carry(peer: UdpPeer, stream: UnixStream, early: Bytes, events: Events) -> io::Result<()> {
    let UdpPeer { forwarded, address, socket, mut datagrams, activity } = peer;
    let mut tally = ConnectionTally::new(forwarded, events);
    let (from_pod, mut to_pod) = stream.into_split();
    let mut frames = Frames { stream: from_pod, buffer: early.into() };
    loop {
        tokio::select! {
            datagram = datagrams.recv() => {
                let Some(datagram) = datagram else { return Ok(()) };
                // UDP's own length field has 16 bits, so this never saturates.
                let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
                to_pod.write_all(&[&length.to_be_bytes(), &datagram[..]].concat()).await?;
                tally.count(datagram.len() as u64, 0);
            }
            datagram = frames.next() => {
                let Some(datagram) = datagram? else { return Ok(()) };
                activity.now();
                // If the sender no longer listens, only this datagram is lost.
                let _ = socket.send_to(&datagram, address).await;
                tally.count(0, datagram.len() as u64);
            }
        }
    }
}

/// Datagrams on a stream, each preceded by its length.
struct Frames {
    stream: OwnedReadHalf,
    buffer: BytesMut,
}

impl Frames {
    /// The next datagram; `None` at the end. Cancel safe.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<LENGTH>() {
                let whole = LENGTH + usize::from(u16::from_be_bytes(*length));
                if self.buffer.len() >= whole {
                    let mut frame = self.buffer.split_to(whole).freeze();
                    frame.advance(LENGTH);
                    return Ok(Some(frame));
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn each_sender_has_a_queue_of_its_own() {
        let mut peers = Peers::default();
        let (mut one, _) = peers.take(from(1), "a".into()).unwrap();
        let (mut two, _) = peers.take(from(2), "b".into()).unwrap();
        assert!(peers.take(from(1), "c".into()).is_none());
        assert_eq!([one.try_recv().unwrap(), one.try_recv().unwrap()], ["a", "c"]);
        assert_eq!(two.try_recv().unwrap(), "b");
        drop(one);
        let (mut one, _) =
            peers.take(from(1), "d".into()).expect("a sender whose association has ended gets another");
        assert_eq!(one.try_recv().unwrap(), "d");
    }

    #[test]
    fn a_further_sender_replaces_the_longest_silent_one() {
        let mut peers = Peers::default();
        let mut queues: Vec<_> =
            (1..=PEERS as u16).map(|port| peers.take(from(port), "a".into()).unwrap()).collect();
        assert!(peers.take(from(1), "b".into()).is_none());
        queues[1].1.now(); // it received something
        let _new = peers.take(from(1000), "c".into()).unwrap();
        assert_eq!(peers.known.len(), PEERS);
        let ended = |queue: &mut (Receiver<Bytes>, Arc<Activity>)| {
            while queue.0.try_recv().is_ok() {}
            queue.0.is_closed()
        };
        let ended: Vec<_> = queues.iter_mut().map(ended).collect();
        assert!(ended[2] && ended.iter().filter(|ended| **ended).count() == 1, "{ended:?}");
    }

    #[test]
    fn datagrams_beyond_the_queue_are_dropped() {
        let mut peers = Peers::default();
        let (mut queue, _) = peers.take(from(1), "0".into()).unwrap();
        for count in 1..QUEUE + 10 {
            assert!(peers.take(from(1), count.to_string().into()).is_none());
        }
        let kept = std::iter::from_fn(|| queue.try_recv().ok()).count();
        assert_eq!(kept, QUEUE);
    }
}
