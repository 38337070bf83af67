//! The smallest CRI runtime that a kubelet accepts. Its sandboxes are QEMU guests.
//!
//! Its sandboxes are folders with a guest's sockets in them, and its containers are files in those: so the guests
//! outlive it, as with real runtimes, and it finds them again after a restart.

pub mod messages;
pub mod sandboxes;
pub mod server;
pub mod store;
