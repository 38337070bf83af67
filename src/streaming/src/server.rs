//! The HTTP front: tokens, upgrades, and the sessions that come of them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::dial::Dial;
use crate::metered::Metered;
use crate::request_cache::{RequestCache, TokenError};
use crate::session::server::ServerSession;
use crate::session::{ClientSocket, Ended, Order};
use crate::stats::{Live, SessionInfo, Snapshot, Stats};
use crate::tunnel::Tunnel;
use crate::upgrade::{Answer, Protocol, bad_method, negotiate, no_such_path, no_such_token, refuse};

/// Connections at once that have not become a session.
const HEADS: usize = 1_024;

/// Least room that hyper takes for a request's head.
const MIN_HEAD: usize = 8 << 10;

/// How long to wait after an accept failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for sessions to end once they were ordered to.
const ORDERED_END: Duration = Duration::from_secs(5);

/// The streaming server. Cheap to clone; all clones are one server.
pub struct Server<D> {
    inner: Arc<Inner<D>>,
}

impl<D> Clone for Server<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<D> {
    config: Config,
    limits: Arc<crate::Limits>,
    dial: Arc<D>,
    tokens: RequestCache,
    stats: Arc<Stats>,
    heads: Arc<Semaphore>,
    sessions: Mutex<Sessions>,
    /// Sessions alone: connections that have not become one are nothing to wait for.
    tracker: TaskTracker,
}

/// Invariant: an entry is here from before its task starts until that task ends.
#[derive(Default)]
struct Sessions {
    next: u64,
    draining: bool,
    open: HashMap<u64, Open>,
    /// Those that are past their upgrade, until they have ended.
    live: HashMap<u64, Live>,
}

/// A session's place among the open ones, given back when dropped, also by a session that panicked.
struct Place<D> {
    inner: Arc<Inner<D>>,
    key: u64,
    /// What a drain waits for.
    _tracked: TaskTrackerToken,
}

impl<D> Drop for Place<D> {
    fn drop(&mut self) {
        let mut sessions = self.inner.sessions();
        sessions.open.remove(&self.key);
        // With the lock held: whoever adds up meets each session's sums once.
        if let Some(live) = sessions.live.remove(&self.key) {
            self.inner.stats.session_closed(&live.counters);
        }
    }
}

struct Open {
    sandbox: Arc<str>,
    orders: oneshot::Sender<Order>,
}

/// A session that is about to start.
struct Opening {
    protocol: Protocol,
    sandbox: Arc<str>,
    /// For channel WebSockets.
    ports: Arc<[u16]>,
    client: Option<SocketAddr>,
}

/// What became of the sessions that were open when a drain began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that ended by themselves within the time.
    pub finished: usize,
    /// Sessions that had to be ended.
    pub ended: usize,
}

/// For the program around it.
impl<D: Dial> Server<D> {
    /// A server that reaches ports through `dial`.
    pub fn new(config: Config, dial: D) -> Self {
        let limits = Arc::new(config.limits.clone());
        Self {
            inner: Arc::new(Inner {
                dial: Arc::new(dial),
                tokens: RequestCache::new(limits.pending_tokens, limits.token_ttl),
                stats: Arc::default(),
                heads: Arc::new(Semaphore::new(HEADS)),
                sessions: Mutex::default(),
                tracker: TaskTracker::new(),
                limits,
                config,
            }),
        }
    }

    /// A URL under `base` (as `http://127.0.0.1:10350`, without a path; `https` with TLS) that is good for one session of this
    /// sandbox, within the life of a token. `ports` are those of the CRI request, empty from most clients.
    ///
    /// # Errors
    ///
    /// [`TokenError`]: too many tokens wait to be used, a port is invalid, the server drains, or the system gives no random
    /// bytes.
    pub fn url(&self, base: &str, sandbox: &str, ports: &[i32]) -> Result<String, TokenError> {
        if self.inner.sessions().draining {
            return Err(TokenError::ShuttingDown);
        }
        let token = self.inner.tokens.insert(sandbox, ports)?;
        Ok(format!("{}/portforward/{token}", base.trim_end_matches('/')))
    }

    /// Accepts and serves connections until `stop` is cancelled. Sessions go on after that: see
    /// [`Server::drain`]. To be run in a tokio runtime with I/O and time. A connection that can't be accepted is
    /// logged, and the next one is waited for.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        loop {
            let heads = self.inner.heads.clone();
            let next = async { (heads.acquire_owned().await, listener.accept().await) };
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                next = next => next,
            };
            match accepted {
                Ok((socket, client)) => {
                    let (server, stop) = (self.clone(), stop.clone());
                    tokio::spawn(async move {
                        server.serve_connection(socket, client, stop).await;
                        drop(permit);
                    });
                }
                Err(e) => {
                    warn!(error = %e, "accepting a connection failed; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Answers a request to forward ports of this sandbox, whoever it was authorised by, and starts the session
    /// when the connection has been upgraded. SPDY/3.1, its WebSocket tunnel, and channel WebSockets are understood;
    /// these forward `ports` and no others, which the first two don't look at.
    ///
    /// For an HTTP server of the embedder's own: it must run on hyper's HTTP/1, with upgrades, over a
    /// `TokioIo<TcpStream>`. A `SocketAddr` among the request's extensions is logged as the client's.
    pub fn port_forward<B>(&self, request: Request<B>, sandbox: Arc<str>, ports: Arc<[u16]>) -> Answer {
        self.begin(request, sandbox, ports, || Ok(())).unwrap_or_else(|refusal| refusal)
    }

    /// Ends all sessions of a sandbox, each connection's user being told why. Returns at once; the sessions
    /// have ended within about a second.
    pub fn end_sandbox(&self, sandbox: &str, why: &str) {
        let mut sessions = self.inner.sessions();
        for (_, open) in sessions.open.extract_if(|_, open| &*open.sandbox == sandbox) {
            let _ = open.orders.send(Order::Tell(why.to_owned()));
        }
    }

    /// Refuses new sessions, lets the open ones go on for `grace`, then ends them. Returns as soon as the last
    /// one has ended, and at most 5 s after `grace`. There is no way back.
    pub async fn drain(&self, grace: Duration) -> Drained {
        let open = {
            let mut sessions = self.inner.sessions();
            sessions.draining = true;
            sessions.open.len()
        };
        self.inner.tracker.close();
        let finished = timeout(grace, self.inner.tracker.wait()).await.is_ok();
        let left: Vec<_> = self.inner.sessions().open.drain().map(|(_, open)| open).collect();
        let ended = if finished { 0 } else { left.len() };
        for open in left {
            let _ = open.orders.send(Order::Drain);
        }
        // Bounded: a session closes within a second of its order. Who does not is left to the program's end.
        let _ = timeout(ORDERED_END, self.inner.tracker.wait()).await;
        Drained { finished: open.saturating_sub(ended), ended }
    }

    /// The counters.
    pub fn stats(&self) -> Snapshot {
        let sessions = self.inner.sessions();
        self.inner.stats.snapshot(sessions.live.values().map(|live| &*live.counters))
    }

    /// The open sessions, in the order in which they began.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let sessions = self.inner.sessions();
        let mut infos: Vec<_> = sessions.live.iter().map(|(id, live)| live.info(*id)).collect();
        infos.sort_unstable_by_key(|info| info.id);
        infos
    }
}

/// Connections.
impl<D: Dial> Server<D> {
    async fn serve_connection(&self, socket: TcpStream, client: SocketAddr, stop: CancellationToken) {
        let _ = socket.set_nodelay(true); // frames are small and must not wait for each other
        let Some(tls) = &self.inner.config.tls else {
            return self.serve_http(socket, client, stop).await;
        };
        let handshake =
            timeout(self.inner.limits.request_head_timeout, tls.acceptor().accept(Metered::new(socket)));
        let accepted = tokio::select! {
            accepted = handshake => accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(stream) => self.serve_http(stream, client, stop).await,
            Err(e) => debug!(%client, error = %e, "a TLS handshake failed"),
        }
    }

    async fn serve_http<S>(&self, stream: S, client: SocketAddr, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.inner.limits;
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(client);
            let answer = self.answer(request);
            async { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_head_timeout)
            .max_buf_size(limits.request_head.max(MIN_HEAD))
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = result {
            debug!(%client, error = %e, "a connection ended before it became a session");
        }
    }

    fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let path = path.strip_suffix('/').unwrap_or(path);
        let Some(token) = path.strip_prefix("/portforward/").filter(|t| !t.is_empty() && !t.contains('/'))
        else {
            return no_such_path();
        };
        if request.method() != Method::GET && request.method() != Method::POST {
            return bad_method();
        }
        let tokens = &self.inner.tokens;
        let Some(grant) = tokens.peek(token) else { return no_such_token() };
        let token = token.to_owned();
        let consume = || if tokens.consume(&token) { Ok(()) } else { Err(no_such_token()) };
        self.begin(request, grant.sandbox, grant.ports, consume).unwrap_or_else(|refusal| refusal)
    }
}

/// Sessions.
impl<D: Dial> Server<D> {
    fn negotiate<B>(&self, request: &Request<B>, ports: &[u16]) -> Result<(Protocol, Answer), Answer> {
        let agreed = negotiate(request, self.inner.config.allow_origin)?;
        if let Protocol::Channels(encoding) = agreed.0
            && ports.len() > encoding.max_ports()
        {
            let (asked, most) = (ports.len(), encoding.max_ports());
            let text =
                format!("{asked} ports are more than the {most} that this subprotocol has channels for");
            return Err(refuse(StatusCode::BAD_REQUEST, text));
        }
        Ok(agreed)
    }

    /// Starts a session that the request agrees with and that has a place. `consume` is called only then: a request
    /// that gets no session must not use a token up.
    fn begin<B>(
        &self,
        mut request: Request<B>,
        sandbox: Arc<str>,
        ports: Arc<[u16]>,
        consume: impl FnOnce() -> Result<(), Answer>,
    ) -> Result<Answer, Answer> {
        let (protocol, answer) = self.negotiate(&request, &ports)?;
        let (place, orders) = self.inner.register(&sandbox)?;
        consume()?;
        let client = request.extensions().get::<SocketAddr>().copied();
        let opening = Opening { protocol, sandbox, ports, client };
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => place.run(opening, upgraded, orders).await,
                Err(e) => {
                    debug!(sandbox = %opening.sandbox, error = %e, "the client left during the upgrade");
                }
            }
        });
        Ok(answer)
    }
}

impl<D> Inner<D> {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D> Inner<D> {
    /// A place for a session, and where its orders come from.
    fn register(
        self: &Arc<Self>,
        sandbox: &Arc<str>,
    ) -> Result<(Place<D>, oneshot::Receiver<Order>), Answer> {
        let mut sessions = self.sessions();
        if sessions.draining {
            let text = "this server is shutting down; try again when it is back".to_owned();
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        if sessions.open.len() >= self.limits.sessions {
            let text = format!("all {} sessions are in use; end some or try later", self.limits.sessions);
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        let (sender, receiver) = oneshot::channel();
        let key = sessions.next;
        sessions.next += 1;
        sessions.open.insert(key, Open { sandbox: sandbox.clone(), orders: sender });
        Ok((Place { inner: self.clone(), key, _tracked: self.tracker.token() }, receiver))
    }
}

impl<D: Dial> Place<D> {
    async fn run(&self, opening: Opening, upgraded: Upgraded, orders: oneshot::Receiver<Order>) {
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => self.converse(opening, parts.io.into_inner(), parts.read_buf, orders).await,
            Err(upgraded) => match upgraded.downcast::<TokioIo<TlsStream<Metered<TcpStream>>>>() {
                // Boxed, so that sessions without TLS don't keep room for it.
                Ok(parts) => {
                    Box::pin(self.converse(opening, parts.io.into_inner(), parts.read_buf, orders)).await;
                }
                Err(_) => {
                    warn!(sandbox = %opening.sandbox, "an upgraded connection is neither TCP nor TLS; closed it");
                }
            },
        }
    }

    async fn converse<S: ClientSocket>(
        &self,
        opening: Opening,
        socket: S,
        early: Bytes,
        orders: oneshot::Receiver<Order>,
    ) {
        let Opening { protocol, sandbox, ports, client } = opening;
        let inner = &self.inner;
        let session = ServerSession {
            dial: inner.dial.clone(),
            sandbox: sandbox.clone(),
            client,
            errors: inner.config.errors,
            limits: inner.limits.clone(),
            stats: inner.stats.clone(),
            counters: Arc::default(),
        };
        let (begun, counters) = (Instant::now(), session.counters.clone());
        let live = Live { sandbox: sandbox.clone(), client, protocol: protocol.name(), begun, counters };
        let counters = live.counters.clone();
        inner.sessions().live.insert(self.key, live);
        inner.stats.session_opened();
        let client = client.map(|c| c.to_string()).unwrap_or_default();
        info!(client, %sandbox, ?protocol, "a session opened");
        let (ended, dialled) = match protocol {
            Protocol::Spdy => session.run(socket, early, orders).await,
            Protocol::Tunnel => session.run(Tunnel::new(socket, early).await, Bytes::new(), orders).await,
            Protocol::Channels(encoding) => {
                session.run_websocket(socket, early, encoding, &ports, orders).await
            }
        };
        log_end(&client, &sandbox, &dialled, begun.elapsed(), &ended, counters.totals());
    }
}

fn log_end(
    client: &str,
    sandbox: &str,
    ports: &[u16],
    time: Duration,
    ended: &Ended,
    (connections, bytes_sent, bytes_received): (u64, u64, u64),
) {
    info!(
        client, sandbox, ?ports, connections, bytes_sent, bytes_received,
        seconds = time.as_secs_f64(), reason = %ended,
        "a session closed"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DialError, Target};

    struct Nowhere;

    impl Dial for Nowhere {
        type Conn = TcpStream;

        async fn dial(&self, _: Target) -> Result<TcpStream, DialError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_server_whose_places_are_all_taken_can_be_stopped() {
        let server = Server::new(Config::default(), Nowhere);
        let _all = server.inner.heads.clone().acquire_many_owned(HEADS as u32).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let serving = server.serve(listener, stop.clone());
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), serving).await.unwrap();
    }
}
