//! SPDY/3.1 as Kubernetes speaks it. Only the protocol: no sockets, no clock, no threads.
//!
//! A [`Connection`] turns bytes from the peer into [`Event`]s. Commands such as [`Connection::reply`] append the bytes to
//! send to [`Connection::output`]. Payload is never copied: the payload of an event is a slice of the caller's own buffer,
//! and to send some, the connection only provides the eight bytes that precede it ([`Connection::data_header`]).
//!
//! ```
//! use spdy_rs::{Config, Connection, Event, Role};
//!
//! let mut client = Connection::new(Role::Client, Config::default());
//! let mut server = Connection::new(Role::Server, Config::default());
//! let id = client.open(&[("streamtype", "data"), ("port", "80")], false).unwrap();
//! let sent = client.output().to_vec();
//! let mut input = &sent[..];
//! let Some(Event::Opened { id: seen, headers, .. }) = server.recv(&mut input).unwrap() else { panic!() };
//! assert_eq!((seen, headers.get("port")), (id, Some(&b"80"[..])));
//! server.reply(id).unwrap();
//! ```
//!
//! # How Kubernetes' peers differ from the specification
//!
//! Go's implementation (moby/spdystream) has no flow control: it ignores SETTINGS and WINDOW_UPDATE, and only TCP pushes
//! back on it. It drops data that arrives before the SYN_REPLY, hangs on HEADERS, and treats GOAWAY as the immediate end
//! of the session. So this crate sends only SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY and data.

#![forbid(unsafe_code)]

mod connection;
mod error;
mod frame;
mod header_block;
mod reader;
mod stream;
mod streams;

pub use connection::{Config, Connection, Event, Role};
pub use error::{Error, StreamClosed};
pub use frame::{MAX_FRAME_LEN, Status};
pub use header_block::{Headers, MAX_SENT_BLOCK};

/// The README's example, so that it compiles.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
