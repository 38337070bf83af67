use bytes::Bytes;
use std::io::IoSlice;
use std::sync::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::coop::poll_proceed;
use tokio::time::timeout;

use super::server::ServerSession;
use super::*;
use crate::{Connection, Dial, DialError, ErrorStyle, Target};

const LONG: Duration = Duration::from_secs(20);

struct Nowhere;

impl Dial for Nowhere {
    type Conn = DuplexStream;

    async fn dial(&self, _: Target) -> Result<DuplexStream, DialError> {
        std::future::pending().await
    }
}

/// A client that sends a few frames and then, for ever and as fast as it is read, data for no stream. Like a
/// socket of tokio's it gives way to other tasks when its budget is spent.
struct Endless {
    first: Vec<u8>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(poll_proceed(cx)).made_progress();
        let n = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.drain(..n).collect::<Vec<_>>());
        let empty_frame = [0, 0, 0, 99, 0, 0, 0, 0];
        while buf.remaining() >= empty_frame.len() {
            buf.put_slice(&empty_frame);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.heard.lock().unwrap().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write(cx, slices.iter().find(|s| !s.is_empty()).map_or(&[], |s| s))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl ClientSocket for Endless {}

fn session(pair_timeout: Duration) -> ServerSession<Nowhere> {
    ServerSession {
        dial: Arc::new(Nowhere),
        sandbox: "sandbox0123".into(),
        errors: ErrorStyle::Reset,
        limits: Arc::new(Limits { pair_timeout, ..Limits::default() }),
        stats: Arc::default(),
        client: None,
        counters: Arc::default(),
    }
}

#[tokio::test]
async fn a_client_that_never_stops_can_be_left() {
    let client = Endless { first: Vec::new(), heard: Arc::default() };
    let (orders, receiver) = oneshot::channel();
    orders.send(Order::Drain).unwrap();
    let run = session(LONG).run(client, Bytes::new(), receiver);
    let (ended, ..) = timeout(LONG, tokio::spawn(run)).await.expect("it goes on").unwrap();
    assert!(matches!(ended, Ended::Drained));
}

#[tokio::test]
async fn limits_are_compared_however_busy_the_session_is() {
    let mut spdy = spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default());
    spdy.open(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")], false).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let client = Endless { first: spdy.output().to_vec(), heard: heard.clone() };
    let (_orders, receiver) = oneshot::channel();
    let run = tokio::spawn(session(Duration::from_millis(200)).run(client, Bytes::new(), receiver));
    let gives_up = async {
        while heard.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, gives_up).await.expect("the lone stream is left open");
    assert_eq!(heard.lock().unwrap()[..4], [0x80, 3, 0, 3]);
    run.abort();
}

/// What both framings share, by the same tests.
mod both {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::channels::Encoding;
    use super::*;
    use crate::stats::Stats;

    const PORT: u16 = 80;

    impl ClientSocket for DuplexStream {}

    #[derive(Debug, Clone, Copy)]
    enum Kind {
        Spdy,
        Channels,
    }

    /// A pod that has endless data, or takes none.
    #[derive(Clone, Default)]
    struct Pod {
        gives: bool,
        reads: Arc<Mutex<Vec<usize>>>,
    }

    impl Connection for Pod {}

    impl AsyncRead for Pod {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !self.gives {
                return Poll::Pending;
            }
            self.reads.lock().unwrap().push(buf.remaining());
            buf.put_slice(&vec![7; buf.remaining()]);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Pod {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl Dial for Pod {
        type Conn = Self;

        async fn dial(&self, _: Target) -> Result<Self, DialError> {
            Ok(self.clone())
        }
    }

    /// A client of one connection, in the middle of its session.
    struct Talk {
        socket: DuplexStream,
        spdy: Option<spdy_rs::Connection>,
        counters: Arc<Counters>,
        _orders: oneshot::Sender<Order>,
    }

    impl Talk {
        /// The client's socket holds `room` bytes each way.
        async fn begin(kind: Kind, pod: Pod, room: usize) -> Self {
            let (socket, server) = duplex(room);
            let (orders, receiver) = oneshot::channel();
            let counters = Arc::new(Counters::default());
            let setup = ServerSession {
                dial: Arc::new(pod),
                sandbox: "sandbox0123".into(),
                errors: ErrorStyle::Reset,
                limits: Arc::default(),
                stats: Arc::default(),
                client: None,
                counters: counters.clone(),
            };
            let early = Bytes::new();
            match kind {
                Kind::Spdy => drop(tokio::spawn(setup.run(server, early, receiver))),
                Kind::Channels => drop(tokio::spawn(async move {
                    setup.run_websocket(server, early, Encoding::Binary, &[PORT], receiver).await
                })),
            }
            let spdy = matches!(kind, Kind::Spdy)
                .then(|| spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default()));
            let mut talk = Self { socket, spdy, counters, _orders: orders };
            talk.open().await;
            talk
        }

        async fn open(&mut self) {
            let Some(spdy) = &mut self.spdy else { return };
            for kind in ["error", "data"] {
                spdy.open(&[("streamtype", kind), ("port", "80"), ("requestid", "0")], false).unwrap();
            }
            let sent = spdy.output().to_vec();
            self.socket.write_all(&sent).await.unwrap();
        }

        /// Sends a frame or message to the pod and lets the session do all it wants to, while the clock stands.
        async fn send(&mut self, payload: &[u8]) {
            let len = (payload.len() as u16 + u16::from(self.spdy.is_none())).to_be_bytes();
            let header = match &mut self.spdy {
                Some(_) => vec![0, 0, 0, 3, 0, 0, len[0], len[1]],
                None => vec![0x82, 0x80 | 126, len[0], len[1], 0, 0, 0, 0, 0], // masked by zeros; channel 0
            };
            self.socket.write_all(&[&header, payload].concat()).await.unwrap();
            settle().await;
        }

        fn held(&self) -> u64 {
            Stats::default().snapshot(std::iter::once(&*self.counters)).bytes_held
        }
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_a_moment_for_a_pod_that_did_not_take_its_data() {
        for kind in [Kind::Spdy, Kind::Channels] {
            let mut talk = Talk::begin(kind, Pod::default(), 1 << 20).await;
            settle().await;
            talk.send(&[1; 4 << 10]).await;
            assert_eq!(talk.held(), 4 << 10, "{kind:?}");
            talk.send(&[2; 4 << 10]).await;
            assert_eq!(talk.held(), 4 << 10, "{kind:?}: the second is not read yet");
            tokio::time::advance(Duration::from_millis(6)).await;
            settle().await;
            assert_eq!(talk.held(), 8 << 10, "{kind:?}: one pod may not hold up the others for longer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_read_in_chunks_that_the_client_takes() {
        for kind in [Kind::Spdy, Kind::Channels] {
            let pod = Pod { gives: true, ..Pod::default() };
            let reads = pod.reads.clone();
            let mut talk = Talk::begin(kind, pod, 1 << 20).await;
            settle().await;
            assert_eq!(
                reads.lock().unwrap().iter().max(),
                Some(&(256 << 10)),
                "{kind:?}: it takes everything"
            );
            // Now the client takes a little at a time.
            let mut little = vec![0; 8 << 10];
            for _ in 0..500 {
                talk.socket.read_exact(&mut little).await.unwrap();
                settle().await;
            }
            assert_eq!(reads.lock().unwrap().last(), Some(&(16 << 10)), "{kind:?}: it takes little");
        }
    }
}
