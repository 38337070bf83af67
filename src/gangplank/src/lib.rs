//! The host daemon and command line.
//!
//! The fronts (`cri`, `kube_api`) answer clients and never know each other; `dial` reaches ports; `pods` knows
//! where; `runtime` is the container runtime behind. `daemon` puts them together.

pub mod cli;

mod config;
mod cri;
mod daemon;
mod demo;
mod dial;
mod forward;
mod kube_api;
mod listen;
mod logs;
mod pods;
mod runtime;
mod signals;
