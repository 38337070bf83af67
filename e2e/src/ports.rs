//! Ports for programs that cannot choose one themselves.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Below the range from which the system gives ports to everybody else (`ip_local_port_range`), so that nobody takes a
/// port between its choice here and its use.
const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// A port that is free for TCP and UDP, and that no other caller of this process gets.
///
/// # Panics
/// If none is free.
pub fn fixed_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = LAST - FIRST + 1;
    // Processes start at different places.
    let start = (std::process::id() % u32::from(range)) as u16;
    let is_free = |port: &u16| {
        let at = (Ipv4Addr::LOCALHOST, *port);
        TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
    };
    (0..range)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Relaxed) % range) % range)
        .find(is_free)
        .expect("a free port")
}
