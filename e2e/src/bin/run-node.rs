//! `run-node`, under `e2e/node/alone`: a cluster of two nodes to try things on, until it is ended.
#![allow(clippy::print_stdout, reason = "what one needs to use it is its output")]

use std::thread;

use gangplank_e2e::node::{Cluster, Kind, port};
use gangplank_e2e::services::SERVICES;

fn main() {
    let cluster = Cluster::start();
    println!(
        "pods: {} and {}, in the namespace default, with these ports:",
        Kind::Containers.name(),
        Kind::Guests.name()
    );
    for service in SERVICES {
        println!("  {} {service:?}", port(service));
    }
    println!("logs: {}", cluster.dir().display());
    // The id of this process is another one outside.
    println!("a shell in its network: nsenter --net --target $(pgrep -nx run-node)");
    println!("KUBECONFIG={}", cluster.kubectl().config().display());
    loop {
        thread::park();
    }
}
