//! Addresses inside pods, as the host and a guest's relay both understand them: destinations and the addresses they
//! stand for, rules on what may be dialled, network namespaces, and listening ports.
//!
//! ```text
//!   text ──► Destination ──► addresses ──► rules ──► permitted addresses
//!                                                      │ in Namespaces
//!                                                      ▼
//!                                                   a socket
//! ```
//!
//! Both sides parse and check with this code, so they never disagree about what an address means. Nothing here is
//! asynchronous: the relay is one epoll loop, and the host moves blocking calls to a thread.

#![forbid(unsafe_code)]

mod address;
mod listening;
mod namespaces;
mod policy;

pub use address::{Address, AddressError, Destination, HostPort, Network};
pub use listening::{ListPosition, ListPositionError, ListeningPort, listening};
pub use namespaces::{Containers, NamespaceError, Namespaces};
pub use policy::{Denial, Pattern, PatternError, Rule, RuleError};

/// The example in the README compiles and passes.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExample;
