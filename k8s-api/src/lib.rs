//! The parts of the Kubernetes APIs that gangplank speaks: CRI v1 messages and a little of core/v1.
//!
//! Types and names only, without I/O or behaviour.

pub mod core_v1;
pub mod cri;
pub mod meta_v1;
pub mod port_forward;
