//! A port-forward session over SPDY: one task that owns the client's socket and all its connections.
//!
//! ```text
//!   Running ──── something in `Ended` ────► Closing ──── client closed, or 1 s ────► over
//!      └── the client's socket broke or ended ──────────────────────────────────────►
//! ```
//!
//! `core::Core` moves bytes, the same at both ends; a [`Side`] decides what streams mean: `server::ServerSide`
//! pairs them and dials, `client::ClientSide` opens them for connections that it is given. Channel WebSockets have
//! no streams: `websocket` is a session of its own, made of the same parts.

mod backlog;
mod batch;
pub(crate) mod client;
mod core;
mod forward;
mod pairing;
mod ready;
mod scratch;
pub(crate) mod server;
mod stall;
pub(crate) mod websocket;
mod wire;

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use spdy::Headers;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite;

use self::core::Core;
pub(crate) use self::wire::ClientSocket;
use self::wire::Wire;
use crate::config::Limits;
use crate::dial::{Connection, DialError};
use crate::stats::Counters;

/// How often limits are compared while one of them may pass, at most; shorter limits are compared more often.
const TICK: Duration = Duration::from_secs(1);

/// Time for the last frames to reach the client, and for its end to come back.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client closed its connection.
    ClientClosed,
    /// The client said GOAWAY.
    ClientWentAway,
    /// The client's connection failed.
    ClientBroke(io::Error),
    /// The client broke the protocol.
    Protocol(spdy::Error),
    /// The client broke the WebSocket protocol, or sent a message that is too long.
    WebSocket(Box<tungstenite::Error>),
    /// All ports of a channel WebSocket have ended: nothing can move any more.
    AllPorts,
    /// No data for too long.
    Idle,
    /// A client that used to ping has fallen silent.
    Silent,
    /// The client took nothing of what waited for it for too long.
    WriteStalled,
    /// We were told to end it, with this reason for the client's user.
    Told(String),
    /// The server shuts down.
    Drained,
}

impl Ended {
    /// The client can still be told.
    fn is_polite(&self) -> bool {
        match self {
            Self::Idle
            | Self::Told(_)
            | Self::Drained
            | Self::ClientWentAway
            | Self::AllPorts
            | Self::WebSocket(_) => true,
            Self::Protocol(e) => e.says_goaway(),
            Self::ClientClosed | Self::ClientBroke(_) | Self::Silent | Self::WriteStalled => false,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientClosed => f.write_str("the client closed the connection"),
            Self::ClientWentAway => f.write_str("the client ended the session"),
            Self::ClientBroke(e) => write!(f, "the client's connection failed: {e}"),
            Self::Protocol(e) => write!(f, "the client broke the protocol: {e}"),
            Self::WebSocket(e) => write!(f, "the client broke the WebSocket protocol: {e}"),
            Self::AllPorts => f.write_str("all ports have ended"),
            Self::Idle => f.write_str("no data within the idle limit"),
            Self::Silent => f.write_str("the client stopped answering"),
            Self::WriteStalled => {
                f.write_str("the client did not take its data within the write stall limit")
            }
            Self::Told(why) => f.write_str(why),
            Self::Drained => f.write_str("the server shut down"),
        }
    }
}

/// What the streams of a session mean.
trait Side<C: Connection>: Sized + Send + Unpin {
    /// Our error streams get a FIN when their connection ends.
    const ENDS_ERROR_STREAM: bool;
    /// A connection that ended first waits only a limited time for the peer's end.
    const LINGERS: bool;

    /// The peer opened a stream.
    fn on_opened<W: ClientSocket>(&mut self, core: &mut Core<W, C>, id: u32, headers: &Headers);
    /// The peer reset a stream that waited for its partner.
    fn on_gone(&mut self, _id: u32) {}
    /// The peer reset a stream that it had not answered.
    fn on_refused(&mut self, _port: u16) {}
    /// The peer wrote to a connection's error stream: what has come of the text at once, in pieces.
    fn on_error_text(&mut self, _port: u16, _text: &[IoSlice<'_>]) {}
    /// A dial failed; the forward must be taken out.
    fn on_dial_failed<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize, error: DialError);
    /// A connection failed; the forward must be taken out.
    fn on_conn_failed<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize, error: io::Error);
    /// A connection held up its session; the forward must be taken out.
    fn on_stuck<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize);
    /// Does what does not come from the peer. Whether anything was done.
    fn poll<W: ClientSocket>(
        &mut self,
        _core: &mut Core<W, C>,
        _cx: &mut Context<'_>,
    ) -> Result<bool, Ended> {
        Ok(false)
    }
    /// Compares its own times with their limits.
    fn on_tick<W: ClientSocket>(&mut self, _core: &mut Core<W, C>) {}
    /// Something of its own may pass its limit soon.
    fn wants_ticks(&self) -> bool {
        false
    }
    /// The session ends now; last words to the peer.
    fn on_end<W: ClientSocket>(&mut self, _core: &mut Core<W, C>, _why: &Ended) {}
}

/// Ends a session from outside.
#[derive(Debug)]
pub(crate) enum Order {
    /// Tell the user this and end.
    Tell(String),
    /// The server shuts down.
    Drain,
}

/// Where a session's order comes from. There is at most one.
struct Orders(Option<oneshot::Receiver<Order>>);

impl Orders {
    /// An error if the session was ordered to end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let Some(orders) = &mut self.0 else { return Ok(()) };
        let Poll::Ready(order) = Pin::new(orders).poll(cx) else { return Ok(()) };
        self.0 = None;
        match order {
            Ok(Order::Tell(why)) => Err(Ended::Told(why)),
            Ok(Order::Drain) => Err(Ended::Drained),
            Err(_) => Ok(()), // nobody is left who could give orders
        }
    }
}

/// A session, to be awaited. Dropping it ends everything in it.
struct Session<W, C, S> {
    core: Core<W, C>,
    side: S,
    orders: Orders,
    closing: Option<Ended>,
    timer: Pin<Box<Sleep>>,
    tick: Duration,
}

impl<W: ClientSocket, C: Connection, S: Side<C>> Session<W, C, S> {
    fn new(
        wire: Wire<W>,
        spdy: spdy::Connection,
        side: S,
        limits: Arc<Limits>,
        counters: Arc<Counters>,
    ) -> Self {
        let core = Core::new(wire, spdy, limits, counters);
        let tick = tick_for(&core.limits);
        let timer = Box::pin(sleep_until(core.quiet_until()));
        Self { core, side, orders: Orders(None), closing: None, timer, tick }
    }

    /// Lets the session run to its end, and says why it ended.
    async fn run(&mut self, orders: oneshot::Receiver<Order>) -> Ended {
        self.orders = Orders(Some(orders));
        (&mut *self).await
    }

    /// Goes on until nothing can move any more.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        self.core.register(cx);
        self.core.now = Instant::now();
        self.orders.poll(cx)?;
        if self.is_due() {
            self.on_timer()?;
        }
        loop {
            let mut moved = self.core.recv(&mut self.side, cx)?;
            moved |= self.side.poll(&mut self.core, cx)?;
            moved |= self.core.serve(&mut self.side, cx)?;
            moved |= self.core.flush(cx)?;
            if !moved && !self.poll_timer(cx)? {
                self.core.say_held();
                return Ok(());
            }
        }
    }

    /// Compares the limits if it is time to. Whether it was: then things may have changed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let ticks = self.core.wants_ticks() || self.side.wants_ticks();
        let next = if ticks { self.core.now + self.tick } else { self.core.quiet_until() };
        let next = self.core.patience_until().map_or(next, |until| until.min(next));
        if self.timer.deadline() > next {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        self.core.now = Instant::now();
        self.on_timer()?;
        Ok(true)
    }

    fn on_timer(&mut self) -> Result<(), Ended> {
        self.core.on_tick(&mut self.side)?;
        self.side.on_tick(&mut self.core);
        let next = self.core.quiet_until().max(self.core.now + self.tick);
        self.timer.as_mut().reset(next);
        Ok(())
    }

    /// By the clock: polled, the timer of a session that spends tokio's budget every time never fires.
    fn is_due(&self) -> bool {
        Instant::now() >= self.timer.deadline()
    }

    fn begin_close(&mut self, why: Ended) -> Option<Ended> {
        if why.is_polite() {
            self.side.on_end(&mut self.core, &why);
        }
        self.core.abort_all();
        if !why.is_polite() {
            return Some(why);
        }
        self.core.spdy.go_away();
        self.timer.as_mut().reset(Instant::now() + CLOSE_LIMIT);
        self.closing = Some(why);
        None
    }
}

impl<W: ClientSocket, C: Connection, S: Side<C>> Future for Session<W, C, S> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        if this.closing.is_none() {
            let Err(why) = this.poll_running(cx) else { return Poll::Pending };
            if let Some(why) = this.begin_close(why) {
                return Poll::Ready(why);
            }
        }
        if !this.is_due()
            && this.core.poll_close(cx).is_pending()
            && this.timer.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(this.closing.take().unwrap_or(Ended::ClientClosed))
    }
}

/// A quarter of the shortest limit, so that none is passed by much.
fn tick_for(limits: &Limits) -> Duration {
    let shortest = [
        limits.pair_timeout,
        limits.write_stall_timeout,
        limits.stream_stall_timeout,
        limits.linger,
        limits.silence_timeout,
        limits.idle_timeout,
    ];
    let shortest = shortest.into_iter().min().unwrap_or(TICK);
    (shortest / 4).clamp(Duration::from_millis(5), TICK)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
    use tokio::task::coop::poll_proceed;
    use tokio::time::timeout;

    use super::server::ServerSession;
    use super::*;
    use crate::{Dial, ErrorStyle, Target};

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
        let mut spdy = spdy::Connection::new(spdy::Role::Client, spdy::Config::default());
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
}
