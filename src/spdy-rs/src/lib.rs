//! SPDY/3.1 as Kubernetes speaks it, as a protocol only: no sockets, no clock, no threads.
//!
//! [`Connection`] takes bytes that came from the peer and gives [`Event`]s; commands such as
//! [`Connection::reply`] leave bytes to be sent in [`Connection::output`]. Payload is never copied: an event's
//! payload is a slice of the caller's own buffer, and for sending the connection makes only the eight bytes
//! that go in front ([`Connection::data_header`]).
//!
//! ```
//! use spdy::{Config, Connection, Event, Role};
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
//! # What Kubernetes' peers make of SPDY
//!
//! Go's implementation (moby/spdystream) has no flow control: it ignores SETTINGS and WINDOW_UPDATE and is
//! pushed back by TCP alone. It drops data that precedes a SYN_REPLY, hangs on HEADERS, and takes GOAWAY for
//! the end of everything. So this crate sends SYN_STREAM, SYN_REPLY, RST_STREAM, PING answers, GOAWAY and data,
//! and nothing else.

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
