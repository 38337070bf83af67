//! Datagrams: those of each sender go by an association of their own, so that answers find their way back.
//!
//! ```text
//!   senders ──► the socket here ──► a queue for each sender ──► association ──► pod
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

use super::Local;
use super::line::{Events, Line, Tally};

/// Senders at once of one socket: each is a channel of its own, and some vsock devices take 1,023. For another, the one
/// that has been silent for longest is let go.
const PEERS: usize = 256;

/// Datagrams of one sender that wait for its association. What comes then is lost.
const QUEUE: usize = 64;

/// How long to wait after the system has failed to give a datagram.
const PAUSE: Duration = Duration::from_millis(100);

/// A sender: its datagrams, until the other end of the queue lets it go.
pub(super) struct Peer {
    pub(super) line: Arc<Line>,
    address: SocketAddr,
    socket: Arc<UdpSocket>,
    datagrams: Receiver<Bytes>,
    activity: Arc<Activity>,
}

/// When a sender last sent or was sent something, as numbers that grow.
#[derive(Debug, Default)]
struct Activity(AtomicU64);

/// Sorts datagrams by their senders, for as long as somebody takes these.
pub(super) async fn serve(socket: UdpSocket, line: Arc<Line>, to: Sender<Local>) {
    let socket = Arc::new(socket);
    let (mut peers, mut buffer) = (Peers::default(), vec![0; MAX_DATAGRAM]);
    loop {
        let Ok((len, address)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let datagram = Bytes::copy_from_slice(&buffer[..len]);
        let Some((datagrams, activity)) = peers.take(address, datagram) else { continue };
        let (line, socket) = (Arc::clone(&line), Arc::clone(&socket));
        if to.send(Local::Udp(Peer { line, address, socket, datagrams, activity })).await.is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Peers {
    known: HashMap<SocketAddr, (Sender<Bytes>, Arc<Activity>)>,
}

impl Peers {
    /// Queues a datagram. Gives the other end of the queue where the sender is new.
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

/// Carries a sender's datagrams over a stream that `pod.portDial` has given, until either side has ended.
///
/// # Errors
/// What either side's socket gives.
pub(super) async fn carry(peer: Peer, stream: UnixStream, early: Bytes, events: Events) -> io::Result<()> {
    let Peer { line, address, socket, mut datagrams, activity } = peer;
    let mut tally = Tally::new(line, events);
    let (from_pod, mut to_pod) = stream.into_split();
    let mut frames = Frames { stream: from_pod, buffer: early.into() };
    loop {
        tokio::select! {
            datagram = datagrams.recv() => {
                let Some(datagram) = datagram else { return Ok(()) };
                // None from a socket is longer than its limit.
                let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
                to_pod.write_all(&[&length.to_be_bytes(), &datagram[..]].concat()).await?;
                tally.count(datagram.len() as u64, 0);
            }
            datagram = frames.next() => {
                let Some(datagram) = datagram? else { return Ok(()) };
                activity.now();
                // A sender that does not listen any more loses it, and nothing else.
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
    /// The next one; none at the end. May be dropped and asked again.
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
            peers.take(from(1), "d".into()).expect("its association has ended, and it has another");
        assert_eq!(one.try_recv().unwrap(), "d");
    }

    #[test]
    fn one_sender_more_costs_the_one_that_was_silent_for_longest() {
        let mut peers = Peers::default();
        let mut queues: Vec<_> =
            (1..=PEERS as u16).map(|port| peers.take(from(port), "a".into()).unwrap()).collect();
        assert!(peers.take(from(1), "b".into()).is_none());
        queues[1].1.now(); // it was sent something
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
    fn what_finds_no_room_is_lost_and_nothing_else() {
        let mut peers = Peers::default();
        let (mut queue, _) = peers.take(from(1), "0".into()).unwrap();
        for count in 1..QUEUE + 10 {
            assert!(peers.take(from(1), count.to_string().into()).is_none());
        }
        let kept = std::iter::from_fn(|| queue.try_recv().ok()).count();
        assert_eq!(kept, QUEUE);
    }
}
