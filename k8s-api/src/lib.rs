//! The slice of Kubernetes' APIs that gangplank speaks: CRI v1 messages and a little core/v1.
//!
//! Types and names only; no I/O and no behaviour.

pub mod core_v1;
pub mod cri;
pub mod meta_v1;
pub mod port_forward;
