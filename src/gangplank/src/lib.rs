//! The host daemon and command line, and its dialler as a library: [`PodDialer`].
//!
//! The fronts (`cri`, `kube_api`) answer clients and never know each other; `dial` reaches ports; `pods` knows
//! where; `runtime` is the container runtime behind. `daemon` puts them together.

pub mod cli;

mod check;
mod config;
mod connections;
mod cri;
mod daemon;
mod demo;
mod dial;
mod dial_command;
mod forward;
mod jsonrpc;
mod kube_api;
mod listen;
mod logs;
mod manual;
mod metrics;
mod pods;
mod runtime;
mod show;
mod signals;
mod table;
mod terminal;
mod top;

pub use channel::{Ports, Token, token::TokenError};
pub use dial::{PodConn, PodDialer};
pub use gangplank_podnet::{AddressError, ListeningPort, Network, PatternError, Rule, RuleError};
pub use pods::{Endpoint, EndpointError};
