//! A CRI runtime whose sandboxes are QEMU guests, as small as a kubelet accepts it.
//!
//! Its sandboxes are folders with a guest's sockets in them, and its containers are files in those: so the guests
//! outlive it, as they do with real runtimes, and it knows them again when it comes back.

pub mod messages;
pub mod sandboxes;
pub mod server;
pub mod store;
