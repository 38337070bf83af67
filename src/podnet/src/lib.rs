//! What the host and a guest's relay share about places in a pod: destinations and the addresses they stand for,
//! rules about them, network namespaces, and what listens there.
//!
//! ```text
//!   text ──► Destination ──► addresses ──► rules ──► what may be dialled
//!                                                      │ in Namespaces
//!                                                      ▼
//!                                                   a socket
//! ```
//!
//! Both sides parse and check with this code, so that they never disagree about what a text means. Nothing here is
//! asynchronous: the relay is one epoll loop, and the host moves what blocks to a thread.

#![forbid(unsafe_code)]

mod address;
mod listening;
mod namespaces;
mod policy;

pub use address::{Address, AddressError, Destination, HostPort, Network};
pub use listening::{ListPosition, ListPositionError, ListeningPort, listening};
pub use namespaces::{Containers, NamespaceError, Namespaces};
pub use policy::{Denial, Pattern, PatternError, Rule, RuleError};
