//! The CRI streaming server for port-forward, generic over how a port is dialled.
//!
//! An embedder implements [`Dial`]; [`Server`] does the rest: tokens, HTTP upgrades, SPDY/3.1 sessions on the
//! connection itself and inside WebSocket, channel WebSockets, [`Tls`], limits. [`Client`] is the other end.
//!
//! ```text
//! request ─► server (token) ─► upgrade ─► session ─┬─► Dial ─► connection
//!                                                  ├─► Dial ─► connection
//!                                                  └─► …
//! ```
//!
//! A whole embedder, and a client of it:
//!
//! ```
//! use gangplank_streaming::{Client, Config, Dial, DialError, DialErrorKind, Server, Target};
//! use tokio::net::{TcpListener, TcpStream};
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio_util::sync::CancellationToken;
//!
//! struct Loopback;
//!
//! impl Dial for Loopback {
//!     type Conn = TcpStream;
//!
//!     async fn dial(&self, target: Target) -> Result<TcpStream, DialError> {
//!         let connected = TcpStream::connect(("127.0.0.1", target.port)).await;
//!         connected.map_err(|e| DialError::new(DialErrorKind::Refused, e.to_string()))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let base = format!("http://{}", listener.local_addr()?);
//! let (server, stop) = (Server::new(Config::default(), Loopback), CancellationToken::new());
//! let serving = tokio::spawn({
//!     let (server, stop) = (server.clone(), stop.clone());
//!     async move { server.serve(listener, stop).await }
//! });
//!
//! // What CRI's PortForward answers, for kubectl, crictl or our own client.
//! let url = server.url(&base, "sandbox0123", &[])?;
//! let client = Client::connect(&url).await?;
//! # let pod = TcpListener::bind("127.0.0.1:0").await?;
//! # let near = TcpListener::bind("127.0.0.1:0").await?;
//! # let (port, mut program) = (pod.local_addr()?.port(), TcpStream::connect(near.local_addr()?).await?);
//! # let local = near.accept().await?.0;
//! client.forward(port, local);
//! # pod.accept().await?.0.write_all(b"hello from the pod").await?;
//! # let mut text = String::new();
//! # program.read_to_string(&mut text).await?;
//! # assert_eq!(text, "hello from the pod");
//! drop(client);
//!
//! stop.cancel();
//! serving.await?;
//! server.drain(std::time::Duration::from_secs(30)).await;
//! # assert_eq!(server.stats().bytes_received, 18);
//! # Ok(())
//! # }
//! ```
//!
//! # What becomes of failures
//!
//! A port that can't be reached costs its client that one connection: the stream is reset, and the session goes
//! on. Text on an error stream, which makes Go clients end their session, is kept for failures that leave the
//! whole session useless ([`DialErrorKind::ends_session`]), unless [`ErrorStyle::Text`] asks for it. On a channel
//! WebSocket, text on the port's error channel is all there is, and it ends that port alone. A client that breaks
//! the protocol or passes a limit costs its own session at most.
//!
//! # Back-pressure
//!
//! Go clients know no flow control but TCP's. A connection is read only while its client takes what comes; what a
//! pod does not take is held, up to [`Limits::session_budget`], and then the client is not read either, until the
//! pod takes some or [`Limits::stream_stall_timeout`] has passed.

mod client;
mod config;
mod dial;
mod metered;
mod request_cache;
mod server;
mod session;
mod stats;
mod tls;
mod tunnel;
mod upgrade;

pub use client::{Client, ClientError, ClientEvent};
pub use config::{Config, ErrorStyle, Limits};
pub use dial::{Connection, Dial, DialError, DialErrorKind, Target};
pub use request_cache::TokenError;
pub use server::{Drained, Server};
pub use stats::{SessionInfo, Snapshot};
pub use tls::{Tls, TlsError, TlsFiles};
