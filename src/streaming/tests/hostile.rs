//! Clients that mean harm, or are broken: each costs its own session at most.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::frames::{Frame, Heard, take_frames};
use common::raw::{Raw, upgrade_head};
use common::*;
use flate2::{Compress, Compression, FlushCompress};
use gangplank_streaming::{Config, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const SYN_STREAM: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const HEADERS: u8 = 8;
const CREDENTIAL: u8 = 10;

fn control(kind: u8, len: usize) -> [u8; 8] {
    let [_, l0, l1, l2] = (len as u32).to_be_bytes();
    [0x80, 3, 0, kind, 0, l0, l1, l2]
}

fn data(id: u32, len: usize) -> [u8; 8] {
    let [_, l0, l1, l2] = (len as u32).to_be_bytes();
    let [a, b, c, d] = id.to_be_bytes();
    [a, b, c, d, 0, l0, l1, l2]
}

/// A SYN_STREAM with a block that is packed already.
fn syn_stream(id: u32, block: &[u8]) -> Vec<u8> {
    let mut frame = control(SYN_STREAM, 10 + block.len()).to_vec();
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(block);
    frame
}

async fn raw_session(host: &Host) -> Raw {
    let mut raw = Raw::connect(host.address).await;
    raw.say(&upgrade_head(&host.token())).await;
    assert_eq!(raw.head().await.status, 101);
    raw
}

/// All that the server says until it closes.
async fn last_words(raw: &mut Raw) -> Heard {
    let (mut bytes, mut heard) = (Vec::new(), Heard::new());
    while timeout(LONG, raw.socket.read_buf(&mut bytes)).await.expect("not closed").is_ok_and(|n| n > 0) {
        take_frames(&mut bytes, &mut heard);
    }
    heard
}

/// The server serves others as ever.
async fn expect_service(host: &Host) {
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"still here").await;
    assert_eq!(peer.read(streams.data, 10).await, b"still here");
}

#[tokio::test]
async fn random_bytes_cost_only_their_session() {
    let host = Host::start().await;
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..random.below(4_000)).map(|_| random.next() as u8).collect();
        let mut raw = raw_session(&host).await;
        let _ = raw.socket.write_all(&bytes).await;
    }
    expect_service(&host).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn random_frames_cost_only_their_session() {
    let host = Host::start().await;
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut bytes = Vec::new();
        for _ in 0..random.below(200) {
            let len = random.below(40);
            let id = random.below(6) as u32;
            let mut header =
                if random.below(2) == 0 { data(id, len) } else { control(random.below(12) as u8, len) };
            header[4] = random.below(4) as u8;
            bytes.extend_from_slice(&header);
            bytes.extend((0..len).map(|_| random.below(4) as u8));
        }
        let mut raw = raw_session(&host).await;
        let _ = raw.socket.write_all(&bytes).await;
    }
    expect_service(&host).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn frames_that_mean_nothing_may_come_without_end() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let rst = [&control(RST_STREAM, 8)[..], &[0, 0, 0, 99, 0, 0, 0, 5]].concat();
    let settings = [&control(SETTINGS, 12)[..], &[0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 1, 0]].concat();
    let credential = [&control(CREDENTIAL, 1_000)[..], &[7; 1_000]].concat();
    for frame in [rst, settings, credential] {
        peer.socket.write_all(&frame.repeat((4 << 20) / frame.len())).await.unwrap();
    }
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"x").await;
    assert_eq!(peer.read(streams.data, 1).await, b"x");
}

#[tokio::test]
async fn a_flood_of_streams_whose_refusals_nobody_reads_ends_its_session() {
    let limits = Limits { write_stall_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let mut peer = host.connect().await;
    peer.open_stream("weird", 80, 0).await;
    // No headers at all, stored and flushed: 32 bytes, each answered by 16.
    let block = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let streams = syn_stream(1, &block).repeat(10_000);
    let flood = async { while peer.socket.write_all(&streams).await.is_ok() {} };
    timeout(LONG, flood).await.unwrap();
    host.expect_no_session().await;
    expect_service(&host).await;
}

#[tokio::test]
async fn frames_that_announce_much_and_bring_nothing_hold_up_nobody() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    peer.socket.write_all(&data(streams.data, (1 << 24) - 1)).await.unwrap();
    expect_service(&host).await;
    peer.socket.write_all(b"what came is passed on").await.unwrap();
    assert_eq!(peer.read(streams.data, 22).await, b"what came is passed on");
    drop(peer);
    let mut raw = raw_session(&host).await;
    raw.socket.write_all(&control(SETTINGS, (1 << 24) - 1)).await.unwrap();
    drop(raw);
    host.expect_no_session().await;
}

#[tokio::test]
async fn control_frames_of_wrong_lengths_end_the_session_at_once() {
    let host = Host::start().await;
    for (kind, len) in [
        (SYN_STREAM, (1 << 24) - 1),
        (SYN_STREAM, 9),
        (HEADERS, 3),
        (RST_STREAM, 4),
        (PING, (1 << 24) - 1),
        (GOAWAY, 0),
    ] {
        let mut raw = raw_session(&host).await;
        raw.socket.write_all(&control(kind, len)).await.unwrap();
        assert_eq!(last_words(&mut raw).await, Heard::new(), "{kind} {len}");
    }
    host.expect_no_session().await;
}

#[tokio::test]
async fn stream_zero_ends_the_session_with_a_goaway() {
    let host = Host::start().await;
    for frame in [data(0, 0).to_vec(), [&control(RST_STREAM, 8)[..], &[0; 8]].concat()] {
        let mut raw = raw_session(&host).await;
        raw.socket.write_all(&frame).await.unwrap();
        assert_eq!(last_words(&mut raw).await, Heard::from([(0, vec![Frame::GoAway])]));
    }
}

fn pack(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(64 << 10);
    let mut zlib = Compress::new(Compression::best(), true);
    zlib.compress_vec(plain, &mut packed, FlushCompress::Sync).unwrap();
    packed
}

#[tokio::test]
async fn header_bombs_end_the_session_at_once() {
    let host = Host::start().await;
    let many = [&100u32.to_be_bytes()[..], &[0, 0, 0, 1, b'a', 0, 0, 0, 0].repeat(100)].concat();
    let long = [&1u32.to_be_bytes()[..], &[0, 0, 0, 1, b'a', 0, 0xf, 0xff, 0xff], &[0; 0xf_ffff]].concat();
    let lying = [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a'];
    for plain in [&many[..], &long, &lying, &[0; 8 << 20], &[]] {
        let block = pack(plain);
        assert!(block.len() < 16 << 10);
        let mut raw = raw_session(&host).await;
        raw.socket.write_all(&syn_stream(1, &block)).await.unwrap();
        assert_eq!(last_words(&mut raw).await, Heard::new());
    }
    let mut raw = raw_session(&host).await;
    raw.socket.write_all(&syn_stream(1, &[0x55; 100])).await.unwrap();
    assert_eq!(last_words(&mut raw).await, Heard::new());
    expect_service(&host).await;
}

/// A SYN_STREAM of the peer's, under another id.
async fn open_as(peer: &mut Peer, id: u32, kind: &str, port: u16) {
    let (port, request) = (port.to_string(), id.to_string());
    peer.spdy.open(&[("streamtype", kind), ("port", &port), ("requestid", &request)], false).unwrap();
    let mut frame = peer.spdy.output().to_vec();
    peer.spdy.clear_output();
    frame[8..12].copy_from_slice(&id.to_be_bytes());
    peer.socket.write_all(&frame).await.unwrap();
}

#[tokio::test]
async fn ids_that_do_not_grow_are_refused_and_others_go_on() {
    let host = Host::start().await;
    let mut peer = host.connect().await;
    let mut bytes = Vec::new();
    open_as(&mut peer, 5, "error", 80).await;
    open_as(&mut peer, 3, "error", 80).await;
    open_as(&mut peer, 6, "error", 80).await;
    open_as(&mut peer, 5, "error", 80).await;
    open_as(&mut peer, 101, "error", 80).await;
    open_as(&mut peer, 0x7fff_ffff, "error", 80).await;
    let expected = Heard::from([
        (3, vec![Frame::Reset(1)]),
        (5, vec![Frame::Reply, Frame::Reset(1)]),
        (6, vec![Frame::Reply]),
        (101, vec![Frame::Reply]),
        (0x7fff_ffff, vec![Frame::Reply]),
    ]);
    let mut heard = Heard::new();
    while heard != expected {
        let read = timeout(LONG, peer.socket.read_buf(&mut bytes)).await;
        assert!(read.unwrap_or_else(|_| panic!("{heard:?}")).unwrap() > 0);
        take_frames(&mut bytes, &mut heard);
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_session_goes_on() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let mut open = Vec::new();
    for _ in 0..512 {
        let streams = peer.open(NEVER_ANSWERS).await;
        assert_eq!(peer.next().await, Seen::Replied(streams.error));
        open.push(streams);
    }
    for _ in 0..3 {
        let streams = peer.open(port).await;
        assert_eq!(peer.next().await, Seen::Reset(streams.error, 3));
        assert_eq!(peer.next().await, Seen::Reset(streams.data, 3));
    }
    peer.reset(open[7].data).await;
    assert_eq!(peer.next().await, Seen::Fin(open[7].error));
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"x").await;
    assert_eq!(peer.read(streams.data, 1).await, b"x");
}

#[tokio::test]
async fn sessions_beyond_the_limit_are_refused_until_one_ends() {
    let limits = Limits { sessions: 3, ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(host.connect().await);
    }
    let token = host.token();
    let mut raw = Raw::connect(host.address).await;
    raw.say(&upgrade_head(&token)).await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "all 3 sessions are in use; end some or try later\n");
    for peer in &mut peers {
        peer.ping().await;
    }
    peers.pop();
    host.expect_sessions(2).await;
    let mut raw = Raw::connect(host.address).await;
    raw.say(&upgrade_head(&token)).await;
    assert_eq!(raw.answer().await.status, 101, "the refusal left the token unused");
    drop(raw);
    host.expect_sessions(2).await;
    expect_service(&host).await;
}

#[tokio::test]
async fn a_stream_that_waits_for_its_partner_counts_against_the_budget_too() {
    let limits = Limits {
        session_budget: 256 << 10,
        stream_stall_timeout: Duration::from_millis(400),
        pair_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let mut peer = host.connect().await;
    let lone = peer.open_stream("data", 80, 7).await;
    peer.send(lone, &vec![0; 8 << 20]).await;
    assert_eq!(peer.next().await, Seen::Reset(lone, 5));
    // It waits for nobody any more, so its partner is alone now.
    let error = peer.open_stream("error", 80, 7).await;
    assert_eq!(peer.next().await, Seen::Replied(error));
    assert_eq!(peer.next().await, Seen::Fin(error));
    assert_eq!(peer.next().await, Seen::Reset(error, 5));
    peer.ping().await;
}
