//! Dialling through a multiplexer with vices, to guests that follow a script.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers are no #[test] to the lint

mod multiplexer;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use gangplank_channel::frame::{self, Kind};
use gangplank_channel::open::{Opened, Opens};
use gangplank_channel::preamble::{PREAMBLE_LEN, VERSION};
use gangplank_channel::{Channel, Endpoint, Open, OpenError, OpenErrorKind, dial};
use multiplexer::{MOST_OUTSTANDING, Multiplexer, Vices};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

/// A second is promised. A busy machine may add some; what only a time limit ends takes 10.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A guest that treats every connection this way.
struct Guest {
    folder: tempfile::TempDir,
}

impl Guest {
    fn start<F, S>(serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(UnixStream) -> F + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("guest.sock")).unwrap();
        tokio::spawn(async move {
            loop {
                let (host, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(host));
            }
        });
        Self { folder }
    }

    fn behind(&self, vices: Vices) -> Multiplexer {
        Multiplexer::start(&self.folder.path().join("guest.sock"), vices)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Unix { path: self.folder.path().join("guest.sock") }
    }
}

fn request() -> Open {
    Open::tcp("127.0.0.1:80", Duration::from_millis(100))
}

async fn reach(endpoint: &Endpoint) -> Result<Channel, OpenError> {
    timeout(Duration::from_secs(60), dial(endpoint, request())).await.expect("this hangs")
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&frame::header(kind, payload.len())[..], payload].concat()
}

async fn hear_request(host: &mut UnixStream) {
    let mut got = vec![0; request().opening().len()];
    host.read_exact(&mut got).await.unwrap();
    assert_eq!(got, request().opening());
}

/// Says this after the request, and waits for the host to leave.
async fn answer(mut host: UnixStream, words: Vec<u8>) {
    hear_request(&mut host).await;
    host.write_all(&words).await.unwrap();
    let _ = host.read_to_end(&mut Vec::new()).await;
}

fn connected_then(rest: &[u8]) -> Vec<u8> {
    [&Opened::connected().opening()[..], rest].concat()
}

/// A guest that connects, says hello and ends.
fn greeter() -> Guest {
    Guest::start(|host| {
        answer(host, connected_then(&[frame(Kind::Data, b"hello"), frame(Kind::Fin, b"")].concat()))
    })
}

async fn is_greeted(endpoint: &Endpoint) {
    let mut got = Vec::new();
    reach(endpoint).await.unwrap().read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"hello");
}

async fn fails(endpoint: &Endpoint, kind: OpenErrorKind, part: &str) {
    let error = reach(endpoint).await.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    for part in [part, &endpoint.to_string()] {
        assert!(error.cause.contains(part), "`{part}` is not in: {error}");
    }
}

#[tokio::test]
async fn an_ok_in_pieces_is_an_ok() {
    let guest = greeter();
    let device = guest.behind(Vices { ok_in_pieces: true, ..Vices::default() });
    is_greeted(&device.endpoint()).await;
    device.is_unharmed();
}

/// Firecracker reads the line at once and parses what it has.
#[tokio::test]
async fn connect_comes_as_one_whole() {
    let guest = greeter();
    let device = guest.behind(Vices::default());
    for _ in 0..100 {
        is_greeted(&device.endpoint()).await;
    }
    assert_eq!(device.seen.cut.load(SeqCst), 0);
}

/// What follows CONNECT is dropped by some devices, with the request that would be in it.
#[tokio::test]
async fn nothing_follows_connect_before_ok() {
    let guest = greeter();
    let device = guest.behind(Vices { ok_after: Duration::from_millis(300), ..Vices::default() });
    is_greeted(&device.endpoint()).await;
    assert_eq!(device.seen.early.load(SeqCst), 0);
}

/// The end is a frame, so that nobody waits for the transport's.
#[tokio::test]
async fn an_eof_that_comes_eight_seconds_late_is_not_waited_for() {
    let guest = Guest::start(|mut host| async move {
        hear_request(&mut host).await;
        let words = connected_then(&[frame(Kind::Data, b"hello"), frame(Kind::Fin, b"")].concat());
        host.write_all(&words).await.unwrap();
    });
    let device = guest.behind(Vices { eof_after: Duration::from_secs(8), ..Vices::default() });
    let asked = Instant::now();
    is_greeted(&device.endpoint()).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    device.is_unharmed();
}

/// A guest that dies is told of as late as the device does, and no later.
#[tokio::test]
async fn a_death_that_is_told_eight_seconds_late_is_an_error_then() {
    let guest = Guest::start(|mut host| async move {
        hear_request(&mut host).await;
        host.write_all(&connected_then(&frame(Kind::Data, b"half"))).await.unwrap();
    });
    let device = guest.behind(Vices { eof_after: Duration::from_secs(8), ..Vices::default() });
    let mut got = Vec::new();
    let mut channel = reach(&device.endpoint()).await.unwrap();
    let error = timeout(Duration::from_secs(60), channel.read_to_end(&mut got)).await.expect("this hangs");
    assert_eq!((&got[..], error.unwrap_err().kind()), (&b"half"[..], ErrorKind::UnexpectedEof));
}

#[tokio::test]
async fn a_backlog_that_overflows_is_told_at_once_and_the_next_dial_works() {
    let guest = greeter();
    let device = guest.behind(Vices { overflows: 3, ..Vices::default() });
    let endpoint = device.endpoint();
    let asked = Instant::now();
    for _ in 0..3 {
        fails(&endpoint, OpenErrorKind::RelayNotReady, "nothing listens on vsock port 1024").await;
    }
    is_greeted(&endpoint).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    device.is_unharmed();
}

#[tokio::test]
async fn bytes_in_one_segment_with_ok_are_not_lost() {
    let guest = Guest::start(|mut host| async move {
        let words = connected_then(&[frame(Kind::Data, b"hello"), frame(Kind::Fin, b"")].concat());
        host.write_all(&words).await.unwrap();
        let _ = host.read_to_end(&mut Vec::new()).await;
    });
    let device = guest.behind(Vices { ok_glued: true, ..Vices::default() });
    is_greeted(&device.endpoint()).await;
    device.is_unharmed();
}

#[tokio::test]
async fn a_caller_that_leaves_before_ok_does_not_kill_the_device() {
    let guest = greeter();
    let device = guest.behind(Vices { ok_after: Duration::from_millis(700), ..Vices::default() });
    let endpoint = device.endpoint();
    for before in 0..5 {
        let has_asked = async {
            while device.seen.connects.load(SeqCst) == before {
                sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            _ = reach(&endpoint) => panic!("this came before OK"),
            () = has_asked => {}
        }
    }
    is_greeted(&endpoint).await;
    device.is_unharmed();
}

#[tokio::test]
async fn a_silent_device_is_left_alone_and_told_of() {
    let guest = greeter();
    let device = guest.behind(Vices { silent: true, ..Vices::default() });
    fails(&device.endpoint(), OpenErrorKind::RelayNotReady, "the multiplexer's OK did not come in time")
        .await;
    sleep(Duration::from_millis(300)).await;
    device.is_unharmed();
}

#[tokio::test]
async fn a_silent_guest_is_told_of() {
    let guest = Guest::start(|mut host| async move { drop(host.read_to_end(&mut Vec::new()).await) });
    let device = guest.behind(Vices::default());
    fails(&device.endpoint(), OpenErrorKind::RelayNotReady, "the relay's answer did not come in time").await;
    device.is_unharmed();
}

#[tokio::test]
async fn a_refusal_is_a_guest_that_is_not_ready() {
    let device = Multiplexer::start(std::path::Path::new("/nowhere/guest.sock"), Vices::default());
    fails(&device.endpoint(), OpenErrorKind::RelayNotReady, "nothing listens on vsock port 1024").await;
    device.is_unharmed();
}

#[tokio::test]
async fn a_device_that_is_not_there_is_not_ready() {
    let endpoint = "hvsock:///nowhere/v.sock:1024".parse().unwrap();
    fails(&endpoint, OpenErrorKind::RelayNotReady, "is the VM running?").await;
}

#[tokio::test]
async fn what_is_no_multiplexer_is_unusable() {
    let guest = greeter();
    let answers = Vices { answer: Some("HTTP/1.1 400 Bad Request\r\n"), ..Vices::default() };
    fails(&guest.behind(answers).endpoint(), OpenErrorKind::RelayUnusable, "HTTP/1.1 400").await;
    let endless = "all work and no play makes jack a dull boy; all work and no play makes jack a dull boy";
    let babbles = Vices { answer: Some(endless), ..Vices::default() };
    fails(&guest.behind(babbles).endpoint(), OpenErrorKind::RelayUnusable, "no hybrid vsock socket").await;
}

#[tokio::test]
async fn what_is_no_relay_is_unusable() {
    for (words, part) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "does not speak the channel protocol"),
        (b"GPCH\x01\x01\x00\x00", "version 1.1"),
        (b"GPCH\x02\x00\x00\x00\x03\x00\x00\x01x", "type 3"),
        (b"GPCH\x02\x00\x00\x00\x02\xff\xff\xff", "16777215 bytes"),
    ] {
        let guest = Guest::start(move |host| answer(host, words.to_vec()));
        fails(&guest.endpoint(), OpenErrorKind::RelayUnusable, part).await;
    }
}

#[tokio::test]
async fn a_guest_that_leaves_before_its_answer_is_not_ready() {
    let guest = Guest::start(|mut host| async move { hear_request(&mut host).await });
    fails(&guest.endpoint(), OpenErrorKind::RelayNotReady, "before the relay answered").await;
    fails(
        &guest.behind(Vices::default()).endpoint(),
        OpenErrorKind::RelayNotReady,
        "before the relay answered",
    )
    .await;
}

/// A guest that does this with every connection, beginning with number 0.
fn counting<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(usize, UnixStream) -> F + Send + 'static,
) -> (Guest, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    (Guest::start(move |host| serve(counted.fetch_add(1, SeqCst), host)), connections)
}

/// Without the relay's preamble nothing was dialled, so that another try does no harm.
#[tokio::test]
async fn a_connection_that_ends_before_the_preamble_is_tried_again() {
    let (guest, connections) = counting(|number, mut host| async move {
        match number {
            0 => {}
            1 => hear_request(&mut host).await,
            // A part of a preamble is none.
            2 => host.write_all(b"GPCH\x02\x00\x00").await.unwrap(),
            _ => answer(host, connected_then(&frame(Kind::Fin, b""))).await,
        }
    });
    reach(&guest.endpoint()).await.unwrap();
    assert_eq!(connections.load(SeqCst), 4);

    let device = guest.behind(Vices::default());
    connections.store(0, SeqCst);
    reach(&device.endpoint()).await.unwrap();
    assert_eq!(connections.load(SeqCst), 4);
    device.is_unharmed();
}

#[tokio::test]
async fn a_guest_that_never_serves_is_left_after_a_few_tries() {
    let (guest, connections) = counting(|_, _| async {});
    let asked = Instant::now();
    fails(&guest.endpoint(), OpenErrorKind::RelayNotReady, "before the relay answered").await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert_eq!(connections.load(SeqCst), 5);
}

/// It may have dialled the pod, which must not be dialled twice.
#[tokio::test]
async fn a_connection_that_ends_after_the_preamble_is_not_tried_again() {
    let (guest, connections) = counting(|_, mut host| async move {
        hear_request(&mut host).await;
        host.write_all(&VERSION.encode()).await.unwrap();
    });
    fails(&guest.endpoint(), OpenErrorKind::RelayNotReady, "before the relay answered").await;
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test]
async fn a_preamble_that_comes_before_the_request_is_understood() {
    let guest = Guest::start(|mut host| async move {
        let mut preamble = connected_then(&[frame(Kind::Data, b"hello"), frame(Kind::Fin, b"")].concat());
        let rest = preamble.split_off(PREAMBLE_LEN);
        host.write_all(&preamble).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        answer(host, rest).await;
    });
    is_greeted(&guest.endpoint()).await;
    let device = guest.behind(Vices { ok_glued: true, ..Vices::default() });
    is_greeted(&device.endpoint()).await;
    device.is_unharmed();
}

#[tokio::test]
async fn every_kind_of_refusal_keeps_its_meaning() {
    use gangplank_channel::open::Kind as Said;
    for (said, kind) in [
        (Said::Refused, OpenErrorKind::Refused),
        (Said::Unreachable, OpenErrorKind::Unreachable),
        (Said::TimedOut, OpenErrorKind::TimedOut),
        (Said::Denied, OpenErrorKind::Denied),
        (Said::Unsupported, OpenErrorKind::BadEndpoint),
        (Said::Invalid, OpenErrorKind::BadEndpoint),
        (Said::Busy, OpenErrorKind::Busy),
        (Said::Version, OpenErrorKind::RelayUnusable),
        (Said::Internal, OpenErrorKind::Internal),
    ] {
        let words = Opened::failed(said, 0, "for a reason").opening();
        let guest = Guest::start(move |host| answer(host, words.clone()));
        fails(&guest.endpoint(), kind, "for a reason").await;
    }
    let unknown = Opened { kind: 99, ..Opened::default() }.opening();
    let guest = Guest::start(move |host| answer(host, unknown.clone()));
    fails(&guest.endpoint(), OpenErrorKind::Internal, "no reason").await;
}

#[tokio::test]
async fn an_eof_without_a_fin_is_an_error_after_the_bytes_before_it() {
    let guest = Guest::start(|mut host| async move {
        hear_request(&mut host).await;
        host.write_all(&connected_then(&frame(Kind::Data, b"half"))).await.unwrap();
    });
    let mut got = Vec::new();
    let mut channel = reach(&guest.endpoint()).await.unwrap();
    let error = channel.read_to_end(&mut got).await.unwrap_err();
    assert_eq!((&got[..], error.kind()), (&b"half"[..], ErrorKind::UnexpectedEof));
    let again = channel.read(&mut [0]).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(channel.write(&[0]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_device_that_dies_ends_readers_writers_and_those_who_shut_down() {
    let guest = Guest::start(|host| answer(host, connected_then(b"")));
    let device = guest.behind(Vices::default());
    let mut reader = reach(&device.endpoint()).await.unwrap();
    let mut writer = reach(&device.endpoint()).await.unwrap();
    let mut ender = reach(&device.endpoint()).await.unwrap();
    let writing = tokio::spawn(async move {
        loop {
            if let Err(error) = writer.write(&[0; 1_000]).await {
                return error;
            }
        }
    });
    let ending = tokio::spawn(async move { ender.shutdown().await.unwrap_err() });
    let reading = tokio::spawn(async move { reader.read(&mut [0]).await.unwrap_err() });
    sleep(Duration::from_millis(200)).await;
    device.die();
    let died = Instant::now();
    for task in [writing, ending, reading] {
        let error = timeout(Duration::from_secs(60), task).await.expect("this hangs").unwrap();
        assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionAborted), "{error}");
    }
    assert!(died.elapsed() < AT_ONCE, "{:?}", died.elapsed());
}

#[tokio::test]
async fn a_reset_is_told_with_its_cause_even_to_a_writer() {
    let reset = frame::reset(104, "the pod's connection failed");
    let guest = Guest::start(move |host| answer(host, connected_then(&reset)));
    let mut channel = reach(&guest.endpoint()).await.unwrap();
    let error = loop {
        if let Err(error) = channel.write(&[0; 1_000]).await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(error.to_string().contains("the pod's connection failed (errno 104"), "{error}");
}

#[tokio::test]
async fn a_relay_that_breaks_the_protocol_is_reset() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let guest = Guest::start(move |mut host| {
        let tell = tell.clone();
        async move {
            hear_request(&mut host).await;
            host.write_all(&connected_then(&[9, 0, 0, 0])).await.unwrap();
            let mut got = Vec::new();
            host.read_to_end(&mut got).await.unwrap();
            tell.send(got).unwrap();
        }
    });
    let mut channel = reach(&guest.endpoint()).await.unwrap();
    let error = channel.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    drop(channel);
    let got = timeout(Duration::from_secs(60), told.recv()).await.unwrap().unwrap();
    assert_eq!((got[0], &got[4..8]), (Kind::Reset as u8, &71i32.to_be_bytes()[..]));
}

/// The guest reads nothing and sends nothing: the host may write only so much, whatever the size of its writes.
#[tokio::test]
async fn little_is_outstanding_towards_a_guest_that_does_not_read() {
    // Small frames are bounded by their number.
    for (size, least) in [(1, 1_000), (1_000, 100_000), (65_536, 100_000), (300_000, 100_000)] {
        let guest = Guest::start(|mut host| async move {
            hear_request(&mut host).await;
            host.write_all(&connected_then(b"")).await.unwrap();
            sleep(Duration::from_secs(3600)).await;
        });
        let device = guest.behind(Vices::default());
        let mut channel = reach(&device.endpoint()).await.unwrap();
        let payload = vec![0; size];
        // Nothing moves any more once a write takes this long.
        while timeout(Duration::from_millis(500), channel.write(&payload)).await.is_ok() {}
        device.is_unharmed();
        let outstanding = device.seen.outstanding.load(SeqCst);
        assert!((least..MOST_OUTSTANDING).contains(&outstanding), "{outstanding} with writes of {size}");
    }
}

/// Full duplex, the host's reader does not read: its writer finds credit behind DATA, and keeps what it reads.
#[tokio::test]
async fn a_writer_without_credit_reads_on_and_keeps_the_bytes() {
    const MIB: usize = 1 << 20;
    let guest = Guest::start(|mut host| async move {
        hear_request(&mut host).await;
        let mut link = gangplank_channel::Link::new();
        let most = link.sendable();
        host.write_all(&connected_then(&frame(Kind::Data, &vec![7; most]))).await.unwrap();
        link.begin(most);
        link.sent(most);
        let mut room = vec![0; 128 << 10];
        let mut got = 0;
        while got < MIB {
            // Bytes in any order of room and lead will do: only their number counts here.
            let scatter = link.scatter(room.len());
            let len = host.read(&mut room[..scatter.payload.max(scatter.lead)]).await.unwrap();
            let mut lead = [0; gangplank_channel::link::MAX_LEAD];
            if scatter.payload == 0 {
                lead[..len].copy_from_slice(&room[..len]);
            }
            let payload = link.receive(&mut room, &lead, scatter, len).unwrap();
            link.handed_on(payload);
            got += payload;
            let control = link.control(false);
            host.write_all(&control).await.unwrap();
        }
        link.finish();
        let control = link.control(false);
        host.write_all(&control).await.unwrap();
        let _ = host.read_to_end(&mut Vec::new()).await;
    });
    let device = guest.behind(Vices::default());
    let mut channel = reach(&device.endpoint()).await.unwrap();
    timeout(Duration::from_secs(60), channel.write_all(&vec![1; MIB])).await.expect("this hangs").unwrap();
    let mut got = Vec::new();
    channel.read_to_end(&mut got).await.unwrap();
    assert!(got == vec![7; frame::MAX_DATA]);
    device.is_unharmed();
}

/// A client that comes and goes in a loop while the device is silent: each request leaves a descriptor behind, as it
/// must, but only so many.
#[tokio::test]
async fn requests_that_were_left_at_a_silent_device_do_not_pile_up() {
    let guest = greeter();
    let device = guest.behind(Vices { silent: true, ..Vices::default() });
    let endpoint = device.endpoint();
    for before in 0..256 {
        let has_asked = async {
            while device.seen.connects.load(SeqCst) == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = reach(&endpoint) => panic!("this came before OK"),
            () = has_asked => {}
        }
    }
    for _ in 0..10 {
        fails(&endpoint, OpenErrorKind::Busy, "256 abandoned requests still wait for the multiplexer").await;
    }
    assert_eq!(device.seen.connects.load(SeqCst), 256);
    device.is_unharmed();
}

#[tokio::test]
async fn more_connections_than_a_device_takes_are_refused_and_not_tried() {
    // One descriptor here, two in the device and one in the guest for each.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let guest = Guest::start(|host| answer(host, connected_then(b"")));
    let device = guest.behind(Vices::default());
    let endpoint = device.endpoint();
    let mut channels = Vec::new();
    for _ in 0..1_023 {
        channels.push(reach(&endpoint).await.unwrap());
    }
    fails(&endpoint, OpenErrorKind::Busy, "1023 connections are open").await;
    channels.pop();
    reach(&endpoint).await.unwrap();
    device.is_unharmed();
}
