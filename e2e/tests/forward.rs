//! Every client against every kind of pod.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing helper is a failing test")]

use std::io::Read;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use gangplank_e2e::client::{Client, Forward};
use gangplank_e2e::daemon::Daemon;
use gangplank_e2e::pattern::{Pattern, summary};
use gangplank_e2e::pod::{Place, Pod};
use gangplank_e2e::process::LIMIT;
use gangplank_e2e::services::{LATE, PAGE, Service};
use gangplank_e2e::talk;

const MIB: u64 = 1 << 20;

/// One module for each pair of client and place, with one test for each check.
macro_rules! matrix {
    ($($name:ident: $client:ident, $place:ident, [$($check:ident)*];)*) => {
        $(mod $name {
            use super::{Client, Place, World};
            $(#[test]
            fn $check() {
                super::$check(&World::start(Client::$client, Place::$place));
            })*
        })*
    };
}

// Without `survives_aborted_downloads` for kubectl before 1.32: it never resets a stream that its user has left, and
// then waits forever with data that it has already received for it. No server can help with that.
matrix! {
    crictl_direct: Crictl, Direct, [
        serves_a_page carries_64_mib_both_ways carries_fifty_connections_at_once survives_a_refused_port
        survives_a_reset survives_aborted_downloads answers_after_a_half_close survives_a_stuck_port
    ];
    kubectl_1_37_direct: Kubectl137, Direct, [
        serves_a_page carries_64_mib_both_ways carries_fifty_connections_at_once survives_a_refused_port
        survives_a_reset survives_aborted_downloads answers_after_a_half_close
    ];
    kubectl_1_28_direct: Kubectl128, Direct, [
        serves_a_page carries_64_mib_both_ways carries_fifty_connections_at_once survives_a_refused_port
        answers_after_a_half_close
    ];
    kubectl_1_20_direct: Kubectl120, Direct, [
        serves_a_page carries_64_mib_both_ways carries_fifty_connections_at_once survives_a_refused_port
        answers_after_a_half_close
    ];
    crictl_relay: Crictl, Relay, [
        serves_a_page carries_64_mib_both_ways carries_fifty_connections_at_once survives_a_refused_port
        survives_a_reset survives_aborted_downloads answers_after_a_half_close survives_a_stuck_port
    ];
    kubectl_1_37_relay: Kubectl137, Relay, [
        serves_a_page carries_64_mib_both_ways survives_a_refused_port answers_after_a_half_close
    ];
    kubectl_1_28_relay: Kubectl128, Relay, [serves_a_page answers_after_a_half_close];
    kubectl_1_20_relay: Kubectl120, Relay, [serves_a_page answers_after_a_half_close];
    crictl_guest: Crictl, Guest, [
        serves_a_page carries_64_mib_both_ways carries_fifty_connections_at_once survives_a_refused_port
        survives_a_reset survives_aborted_downloads answers_after_a_half_close
    ];
    kubectl_1_37_guest: Kubectl137, Guest, [
        serves_a_page carries_64_mib_both_ways carries_fifty_connections_at_once survives_a_refused_port
        survives_aborted_downloads answers_after_a_half_close
    ];
    crictl_websocket_direct: CrictlWebSocket, Direct, [
        serves_a_page carries_64_mib_both_ways survives_a_refused_port answers_after_a_half_close
    ];
    crictl_tls_direct: CrictlTls, Direct, [
        serves_a_page carries_64_mib_both_ways survives_a_refused_port answers_after_a_half_close
    ];
    crictl_websocket_tls_direct: CrictlWebSocketTls, Direct, [
        serves_a_page carries_64_mib_both_ways survives_a_refused_port answers_after_a_half_close
    ];
    own_client_relay: Own, Relay, [
        serves_a_page carries_64_mib_both_ways carries_fifty_connections_at_once survives_a_refused_port
        survives_a_reset survives_aborted_downloads answers_after_a_half_close
    ];
    kubectl_1_28_guest: Kubectl128, Guest, [serves_a_page survives_a_refused_port answers_after_a_half_close];
    kubectl_1_20_guest: Kubectl120, Guest, [serves_a_page survives_a_refused_port answers_after_a_half_close];
}

fn serves_a_page(world: &World) {
    let forward = world.forward(&[Service::Http]);
    let page = talk::fetch(world.connect(&forward, Service::Http), "/").unwrap();
    assert_eq!(String::from_utf8_lossy(&page), PAGE);
}

fn carries_64_mib_both_ways(world: &World) {
    let sent = summary(Pattern::new(64 * MIB)).unwrap();
    let forward = world.forward(&[Service::Http, Service::Sink]);
    assert_eq!(talk::upload(world.connect(&forward, Service::Sink), 64 * MIB).unwrap(), sent);
    assert_eq!(talk::download(world.connect(&forward, Service::Http), 64 * MIB).unwrap(), sent);
}

fn carries_fifty_connections_at_once(world: &World) {
    let forward = world.forward(&[Service::Echo]);
    world.echo_at_once(&forward, 50);
}

/// The refused connection ends, and the same client process goes on to serve the good port.
fn survives_a_refused_port(world: &World) {
    let mut forward = world.forward(&[Service::Refused, Service::Http]);
    let mut refused = world.connect(&forward, Service::Refused);
    talk::assert_ended(refused.read(&mut [0]));
    let page = talk::fetch(world.connect(&forward, Service::Http), "/").unwrap();
    assert_eq!(String::from_utf8_lossy(&page), PAGE);
    forward.must_be_alive();
}

fn survives_a_reset(world: &World) {
    let mut forward = world.forward(&[Service::Reset, Service::Http]);
    let mut stream = world.connect(&forward, Service::Reset);
    talk::assert_ended(talk::echo(&mut stream, b"x").map(|_| 1));
    let page = talk::fetch(world.connect(&forward, Service::Http), "/").unwrap();
    assert_eq!(String::from_utf8_lossy(&page), PAGE);
    forward.must_be_alive();
}

/// The session continues, and the daemon keeps no socket of the abandoned connections.
fn survives_aborted_downloads(world: &World) {
    let mut forward = world.forward(&[Service::Http]);
    let page = |forward: &Forward| talk::fetch(world.connect(forward, Service::Http), "/").unwrap();
    page(&forward);
    let before = world.daemon.sockets();
    for _ in 0..20 {
        talk::abort_download(world.connect(&forward, Service::Http), 32 * MIB, MIB).unwrap();
    }
    assert_eq!(String::from_utf8_lossy(&page(&forward)), PAGE);
    forward.must_be_alive();
    eventually("the daemon has no more sockets than before", || world.daemon.sockets() <= before);
}

/// The answer arrives [`LATE`] after the client's end, and it is complete.
fn answers_after_a_half_close(world: &World) {
    let forward = world.forward(&[Service::LateSink]);
    let begin = Instant::now();
    let answer = talk::upload(world.connect(&forward, Service::LateSink), 100_000).unwrap();
    assert_eq!(answer, summary(Pattern::new(100_000)).unwrap());
    assert!(begin.elapsed() >= LATE);
}

/// One connection pushes to a port that never reads; another in the same session is still served.
fn survives_a_stuck_port(world: &World) {
    let mut forward = world.forward(&[Service::Blackhole, Service::Echo]);
    thread::scope(|scope| {
        let stuck = world.connect(&forward, Service::Blackhole);
        let pushed = scope.spawn(move || talk::upload(stuck, 128 * MIB));
        // Enough time for the push to fill every buffer on the way, on any machine.
        while !pushed.is_finished() {
            let mut good = world.connect(&forward, Service::Echo);
            assert_eq!(talk::echo(&mut good, b"still here").unwrap(), b"still here");
            thread::sleep(Duration::from_millis(100));
        }
        // The stuck connection was ended, not answered.
        talk::assert_ended(pushed.join().unwrap().map(|answer| answer.len()));
    });
    let mut good = world.connect(&forward, Service::Echo);
    assert_eq!(talk::echo(&mut good, b"still here").unwrap(), b"still here");
    forward.must_be_alive();
}

#[test]
fn two_hundred_connections_at_once_into_a_guest() {
    let world = World::start(Client::Kubectl137, Place::Guest);
    let forward = world.forward(&[Service::Echo]);
    world.echo_at_once(&forward, 200);
}

/// The guest's end reaches the local connection within a second, and leaves nothing behind in the daemon but the
/// socket at which it waits for the guest's next announcement.
#[test]
fn a_guest_killed_in_mid_transfer_ends_the_connection() {
    let mut world = World::start(Client::Kubectl137, Place::Guest);
    let before = world.daemon.sockets();
    let forward = world.forward(&[Service::Http]);
    let mut stream = world.connect(&forward, Service::Http);
    talk::ask(&mut stream, "/bytes/1000000000000").unwrap();
    stream.read_exact(&mut vec![0; 1 << 20]).unwrap();

    world.pod.kill_guest();
    let killed = Instant::now();
    while matches!(stream.read(&mut [0; 65_536]), Ok(1..)) {}
    assert!(killed.elapsed() < Duration::from_secs(1), "it ended after {:?}", killed.elapsed());

    drop(forward);
    eventually("the daemon has no more sockets than that", || world.daemon.sockets() <= before + 1);
}

#[test]
fn sigterm_ends_the_daemon_with_success() {
    let mut world = World::start(Client::Crictl, Place::Direct);
    let forward = world.forward(&[Service::Http]);
    talk::fetch(world.connect(&forward, Service::Http), "/").unwrap();
    drop(forward);
    assert!(world.daemon.shut_down().success());
}

/// A pod, a daemon that serves it, and the client under test.
struct World {
    client: Client,
    // Dropped before the pod that it serves.
    daemon: Daemon,
    pod: Pod,
}

impl World {
    fn start(client: Client, place: Place) -> Self {
        let pod = Pod::run(place);
        let daemon = if client.uses_tls() { Daemon::serve_tls(&[&pod]) } else { Daemon::serve(&[&pod]) };
        Self { client, daemon, pod }
    }

    fn forward(&self, services: &[Service]) -> Forward {
        let ports: Vec<u16> = services.iter().map(|&service| self.pod.port(service)).collect();
        self.client.forward(&self.daemon, &ports)
    }

    fn connect(&self, forward: &Forward, service: Service) -> std::net::TcpStream {
        forward.connect(self.pod.port(service))
    }

    /// Every connection echoes its own bytes and stays open until all have.
    fn echo_at_once(&self, forward: &Forward, count: usize) {
        let all_have_echoed = Barrier::new(count);
        thread::scope(|scope| {
            for number in 0..count {
                let all_have_echoed = &all_have_echoed;
                scope.spawn(move || {
                    let bytes = format!("{number} ").repeat(4_000);
                    let mut stream = self.connect(forward, Service::Echo);
                    let back = talk::echo(&mut stream, bytes.as_bytes());
                    all_have_echoed.wait();
                    assert!(back.unwrap() == bytes.as_bytes(), "connection {number} got other bytes back");
                });
            }
        });
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not so after {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
