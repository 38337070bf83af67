//! The guest's end of a channel: a small static program that dials ports inside the pod.
//!
//! One process, one thread, one epoll loop. A connection from the host is a channel (docs/protocol.md). Its request names
//! what to dial; its bytes then move between the channel and the pod's port.
//!
//! All connections share one scratch buffer. A connection owns bytes only while their receiver does not take them. The
//! relay always reads from the host: the host never sends more than it has credit for, and credit, resets and the end
//! must be found behind payload that the pod does not take. It reads from the pod only with credit.
//!
//! ```no_run
//! let listen = ["vsock://1024".parse()?];
//! let relay = gangplank_relay::Relay::bind(&listen, gangplank_relay::Config::default())?;
//! let stopper = relay.stopper(); // ends run() from another thread
//! relay.run()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod announce;
mod connection;
mod connections;
mod dialling;
mod leftover;
mod listen;
mod listening;
mod moving;
mod packet;
pub mod privileges;
mod relay;
mod requested;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "seccomp/none.rs")]
pub mod seccomp;
mod side;
pub mod signal;
mod timer;

pub use gangplank_podnet::{Containers, Rule};
pub use listen::{Listen, ListenError};
pub use relay::{Config, Relay, RelayError, Stopper};
