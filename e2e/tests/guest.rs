//! Channel, relay and a real guest over hybrid vsock: what it carries, and how it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing helper is a failing test"
)]

mod oci;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use gangplank_channel::{Channel, Endpoint, Open, dial, dial_datagrams, ports};
use gangplank_e2e::bulk;
use gangplank_e2e::daemon::{self, Daemon};
use gangplank_e2e::guest::Guest;
use gangplank_e2e::parts::Scratch;
use gangplank_e2e::pattern::{Pattern, summary};
use gangplank_e2e::pod::{Place, Pod};
use gangplank_e2e::process::LIMIT;
use gangplank_e2e::services::{
    BULK_PORT, CONTAINER_PORT, CONTAINERS, PAGE, RAW_PORT, Service, UDP_PORT, UNIX_SOCKET,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const MIB: u64 = 1 << 20;

/// A second is promised. A busy machine may add some; anything that only a time limit ends takes at least 10.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The ports of the guest's services begin here.
const BASE: u16 = 80;

const ECHO: u16 = BASE + Service::Echo as u16;

/// A guest, and the route to its relay.
struct World {
    guest: Guest,
    endpoint: Endpoint,
    _scratch: Scratch,
}

impl World {
    fn boot() -> Self {
        Self::of(Guest::boot)
    }

    fn of(boot: fn(&Path) -> Guest) -> Self {
        let scratch = Scratch::new();
        let guest = boot(scratch.path());
        let endpoint = guest.endpoint().parse().unwrap();
        Self { guest, endpoint, _scratch: scratch }
    }

    async fn reach(&self, port: u16) -> Channel {
        self.open(tcp(port)).await
    }

    async fn open(&self, open: Open) -> Channel {
        soon(dial(&self.endpoint, open)).await.unwrap()
    }
}

fn tcp(port: u16) -> Open {
    Open::tcp(format!("127.0.0.1:{port}"), LIMIT)
}

fn udp() -> Open {
    Open::udp(format!("127.0.0.1:{UDP_PORT}"), LIMIT)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(2 * LIMIT, future).await.expect("this hangs")
}

fn pattern(len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Pattern::new(len).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Sends the bytes, ends its side, and returns everything that comes back.
async fn talk(channel: Channel, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(channel);
    let sending = async {
        to.write_all(bytes).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, read) = soon(async { tokio::join!(sending, from.read_to_end(&mut got)) }).await;
    read.unwrap();
    got
}

/// The body of a page.
async fn fetch(channel: Channel, path: &str) -> Vec<u8> {
    let answer = talk(channel, format!("GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n").as_bytes()).await;
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..head]));
    answer[head + 4..].to_vec()
}

async fn echoes(mut channel: Channel, word: &[u8]) {
    soon(channel.write_all(word)).await.unwrap();
    let mut got = vec![0; word.len()];
    soon(channel.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, word);
    soon(channel.shutdown()).await.unwrap();
    assert_eq!(soon(channel.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn three_guests_at_once_carry_the_right_bytes_both_ways() {
    // In turn, because a guest ends with the thread that started it.
    let worlds = [0; 3].map(|_| World::boot());
    let sent = pattern(8 * MIB);
    let expected = summary(&sent[..]).unwrap();
    let sink = BASE + Service::Sink as u16;
    let up = futures(&worlds, async |world| talk(world.reach(sink).await, &sent).await);
    let down = futures(&worlds, async |world| fetch(world.reach(BASE).await, "/bytes/8388608").await);
    let (up, down) = tokio::join!(up, down);
    for answer in up {
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    }
    for body in down {
        assert_eq!(summary(&body[..]).unwrap(), expected);
    }
}

/// The same with each of three worlds, at once.
async fn futures<'a, T>(worlds: &'a [World; 3], with: impl AsyncFn(&'a World) -> T) -> [T; 3] {
    let [a, b, c] = worlds;
    tokio::join!(with(a), with(b), with(c)).into()
}

/// This device silently drops packets that arrive in several pieces. The relay sends none.
#[tokio::test]
async fn a_kernel_that_cuts_packets_into_pieces_loses_no_byte() {
    let world = World::of(Guest::boot_newer);
    let mut raw = world.guest.connect(RAW_PORT + bulk::Port::Source as u32);
    raw.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    raw.write_all(&(256u64 << 10).to_be_bytes()).unwrap();
    let lost =
        raw.read(&mut [0]).expect_err("this guest's packets come in one piece, so this test shows nothing");
    assert_eq!(lost.kind(), ErrorKind::WouldBlock);

    let sent = pattern(8 * MIB);
    let expected = summary(&sent[..]).unwrap();
    let up = talk(world.reach(BASE + Service::Sink as u16).await, &sent);
    let down = async { fetch(world.reach(BASE).await, "/bytes/8388608").await };
    let (up, down) = tokio::join!(up, down);
    assert_eq!(String::from_utf8_lossy(&up), expected);
    assert_eq!(summary(&down[..]).unwrap(), expected);
    assert_eq!(talk(world.reach(ECHO).await, &sent).await, sent);
    let mut datagrams = soon(dial_datagrams(&world.endpoint, udp())).await.unwrap();
    for len in [1, 9_000, 40_000, 65_507] {
        soon(datagrams.send(&sent[..len])).await.unwrap();
        assert!(soon(datagrams.receive()).await.unwrap().expect("no end") == sent[..len], "{len} bytes");
    }
}

/// Both ends write without reading until everything stalls; then they read.
#[tokio::test]
async fn both_directions_stalled_and_released_lose_no_byte() {
    let world = World::boot();
    // More than the pod's TCP connection can hold: it has up to 20 MiB of buffers (tcp_rmem and tcp_wmem, both ways).
    let sent = pattern(64 * MIB);
    let (mut from, mut to) = tokio::io::split(world.reach(BULK_PORT + bulk::Port::Echo as u16).await);
    let mut written = 0;
    while let Ok(len) = timeout(Duration::from_secs(2), to.write(&sent[written..])).await {
        written += len.unwrap();
        assert!(written < sent.len(), "nothing stalls");
    }
    let sent = &sent[..written + MIB as usize];
    let sending = async {
        to.write_all(&sent[written..]).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, read) = soon(async { tokio::join!(sending, from.read_to_end(&mut got)) }).await;
    read.unwrap();
    assert!(got == sent, "{} of {} bytes came back, or others", got.len(), sent.len());
}

#[tokio::test]
async fn a_thousand_connections_in_turn() {
    let world = World::boot();
    for number in 0..1_000 {
        echoes(world.reach(ECHO).await, format!("connection {number}").as_bytes()).await;
    }
}

#[tokio::test]
async fn two_hundred_connections_at_once() {
    let world = World::boot();
    let dialling: Vec<_> = (0..200)
        .map(|_| {
            let endpoint = world.endpoint.clone();
            tokio::spawn(async move { soon(dial(&endpoint, tcp(ECHO))).await.unwrap() })
        })
        .collect();
    let mut channels = Vec::new();
    for one in dialling {
        channels.push(one.await.unwrap());
    }
    // All are open by now.
    let talking: Vec<_> = (0..)
        .zip(channels)
        .map(|(number, channel)| {
            tokio::spawn(async move {
                let sent = format!("{number} ").repeat(16_000);
                assert!(talk(channel, sent.as_bytes()).await == sent.as_bytes(), "of connection {number}");
            })
        })
        .collect();
    for one in talking {
        one.await.unwrap();
    }
}

/// Connections in mid-transfer: one whose pod sends, one whose pod takes, one that is idle.
struct Living {
    down: Channel,
    up: Channel,
    idle: Channel,
}

impl Living {
    async fn open(endpoint: &Endpoint) -> Self {
        let reach = async |port| soon(dial(endpoint, tcp(port))).await.unwrap();
        let [source, sink] = [bulk::Port::Source, bulk::Port::Sink].map(|port| BULK_PORT + port as u16);
        let (mut down, mut up) = (reach(source).await, reach(sink).await);
        for channel in [&mut down, &mut up] {
            channel.write_all(&(1u64 << 40).to_be_bytes()).await.unwrap();
        }
        soon(down.read_exact(&mut vec![0; MIB as usize])).await.unwrap();
        soon(up.write_all(&vec![0; MIB as usize])).await.unwrap();
        Self { down, up, idle: reach(ECHO).await }
    }

    /// Does this while they move bytes; then all must fail at once, with a cause.
    async fn die_of(self, act: impl FnOnce() + Send + 'static) {
        let Self { mut down, mut up, mut idle } = self;
        let down = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                match down.read(&mut buffer).await {
                    Ok(0) => panic!("a clean end"),
                    Ok(_) => {}
                    Err(error) => return error,
                }
            }
        });
        let up = tokio::spawn(async move {
            loop {
                if let Err(error) = up.write(&[0; 65_536]).await {
                    return error;
                }
            }
        });
        let idle = tokio::spawn(async move { idle.read(&mut [0]).await.unwrap_err() });
        tokio::task::spawn_blocking(act).await.unwrap();
        let died = Instant::now();
        let (down, up, idle) = soon(async { tokio::join!(down, up, idle) }).await;
        assert!(died.elapsed() < AT_ONCE, "it took {:?}", died.elapsed());
        for error in [down, up, idle] {
            let error = error.unwrap();
            assert!(error.to_string().contains("has gone away"), "{error}");
        }
    }
}

/// A pod in a guest and a daemon that serves it. Tests leave the daemon alone once it runs.
struct Served {
    daemon: Daemon,
    pod: Pod,
}

impl Served {
    fn start() -> Self {
        let pod = Pod::run(Place::Guest);
        let daemon = Daemon::serve(&[&pod]);
        Self { daemon, pod }
    }

    fn endpoint(&self) -> Endpoint {
        self.pod.endpoint().parse().unwrap()
    }

    /// The pod's page through the daemon, or the daemon's error.
    fn page(&self) -> Result<String, String> {
        let mut stream = UnixStream::connect(self.daemon.rpc()).unwrap();
        let (handle, port) = (daemon::name(0), self.pod.port(Service::Http));
        writeln!(
            stream,
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"pod.portDial\",\"params\":{{\"handle\":\"{handle}\",\"port\":{port}}}}}"
        )
        .unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut answer = String::new();
        reader.read_line(&mut answer).unwrap();
        if !answer.contains("\"result\"") {
            return Err(answer);
        }
        write!(stream, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n").unwrap();
        let mut page = String::new();
        reader.read_to_string(&mut page).unwrap();
        Ok(page)
    }

    fn serves(&self) {
        let page = self.page().unwrap();
        assert!(page.ends_with(PAGE), "{page}");
    }
}

#[tokio::test]
async fn a_relay_killed_in_mid_transfer_ends_its_connections_and_the_next_dial_works() {
    let mut served = Served::start();
    served.serves();
    let living = Living::open(&served.endpoint()).await;
    let Served { daemon, pod } = served;
    let pod = kill(pod, living, |guest| guest.kill_relay()).await;
    served = Served { daemon, pod };
    // The guest's init restarts it in a moment.
    eventually("the relay is back", || served.page().is_ok());
    served.serves();
}

#[tokio::test]
async fn a_guest_killed_in_mid_transfer_ends_its_connections_and_the_next_dial_works() {
    let mut served = Served::start();
    served.serves();
    let living = Living::open(&served.endpoint()).await;
    let Served { daemon, pod } = served;
    let pod = kill(pod, living, Guest::kill).await;
    served = Served { daemon, pod };
    served.pod.guest().restart();
    served.serves();
}

#[tokio::test]
async fn a_device_killed_in_mid_transfer_ends_its_connections_and_the_next_dial_works() {
    let mut served = Served::start();
    served.serves();
    let living = Living::open(&served.endpoint()).await;
    let Served { daemon, pod } = served;
    let pod = kill(pod, living, Guest::kill_device).await;
    served = Served { daemon, pod };
    let told = served.page().unwrap_err();
    assert!(told.contains("is the VM running?"), "{told}");
    served.pod.guest().restart();
    served.serves();
}

async fn kill(mut pod: Pod, living: Living, act: fn(&mut Guest)) -> Pod {
    let (give, take) = std::sync::mpsc::channel();
    living
        .die_of(move || {
            act(pod.guest());
            give.send(pod).unwrap();
        })
        .await;
    take.recv().unwrap()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not so after {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// It is as silent as a busy guest. A connection that waits for it fails after 20 to 30 s; an idle one does not, and
/// continues with the guest.
#[tokio::test]
async fn a_paused_guest_is_noticed_and_an_idle_connection_survives() {
    let world = World::boot();
    let (waiting, idle) = (world.reach(ECHO).await, world.reach(ECHO).await);
    world.guest.pause();
    is_noticed(waiting).await;
    world.guest.resume();
    echoes(idle, b"still here").await;
    echoes(world.reach(ECHO).await, b"and new").await;
}

/// QEMU then removes the device's queues, which vhost-device-vsock 0.3.0 does not survive if something is sent
/// meanwhile. So the test does not use it afterwards.
#[tokio::test]
async fn a_guest_stopped_by_its_monitor_is_noticed() {
    let world = World::boot();
    let waiting = world.reach(ECHO).await;
    world.guest.order("stop");
    is_noticed(waiting).await;
}

async fn is_noticed(mut waiting: Channel) {
    let paused = Instant::now();
    soon(waiting.write_all(b"hello?")).await.unwrap();
    let error = soon(waiting.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("paused"), "{error}");
    assert!(paused.elapsed() >= Duration::from_secs(20), "after {:?}", paused.elapsed());
}

#[tokio::test]
async fn containers_with_the_same_port_are_each_reached_by_id() {
    let world = World::boot();
    for name in CONTAINERS {
        let page = fetch(world.open(tcp(CONTAINER_PORT).in_container(name)).await, "/name").await;
        assert_eq!(String::from_utf8_lossy(&page).trim_end(), name);
        let listening = soon(ports(&world.endpoint, name)).await.unwrap();
        assert!(listening.listening.iter().any(|at| at.address.port() == CONTAINER_PORT), "{listening:?}");
    }
    let refused = soon(dial(&world.endpoint, tcp(CONTAINER_PORT))).await.unwrap_err();
    assert_eq!(refused.kind, gangplank_channel::OpenErrorKind::Refused, "{refused}");
    let nobody = soon(dial(&world.endpoint, tcp(CONTAINER_PORT).in_container("three"))).await.unwrap_err();
    assert!(nobody.cause.contains("three"), "{nobody}");
}

#[tokio::test]
async fn a_thousand_datagrams_of_all_sizes_are_neither_merged_nor_split() {
    let world = World::boot();
    let mut datagrams = soon(dial_datagrams(&world.endpoint, udp())).await.unwrap();
    let bytes = pattern(9_000 + 1_000);
    let datagram = |number: usize| &bytes[number..number + 1 + number * 8_999 / 999];
    // Four at a time, because a UDP socket has room for that many of the largest.
    for first in (0..1_000).step_by(4) {
        for number in first..first + 4 {
            soon(datagrams.send(datagram(number))).await.unwrap();
        }
        for number in first..first + 4 {
            let got = soon(datagrams.receive()).await.unwrap().expect("no end");
            assert!(got == datagram(number), "datagram {number} came as {} bytes", got.len());
        }
    }
}

#[tokio::test]
async fn a_unix_socket_in_the_guest_is_reached_by_its_path() {
    let world = World::boot();
    echoes(world.open(Open::unix(UNIX_SOCKET, LIMIT)).await, b"by path").await;
    let denied = soon(dial(&world.endpoint, Open::unix("/run/other.sock", LIMIT))).await.unwrap_err();
    assert_eq!(denied.kind, gangplank_channel::OpenErrorKind::Denied, "{denied}");
}
