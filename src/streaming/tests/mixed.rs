//! Many connections of every temper at once: each gets its own bytes, all of them, in order.
//!
//! Frames of random sizes take every way through a session: batched, or copied into a backlog.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::frames::{Frame, Heard, take_frames};
use common::*;
use gangplank_streaming::{Client, Config, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Echoes in chunks of at most this, with a pause after each.
async fn slow_echo_pod(chunk: usize, pause: Duration) -> u16 {
    pod(move |mut socket| async move {
        let mut buf = vec![0; chunk];
        loop {
            match socket.read(&mut buf).await {
                Ok(n) if n > 0 && socket.write_all(&buf[..n]).await.is_ok() => {}
                _ => break,
            }
            tokio::time::sleep(pause).await;
        }
        let _ = socket.shutdown().await;
    })
    .await
}

/// What one stream sends: its own bytes, which no other stream's resemble.
fn content(id: u32, len: usize) -> Vec<u8> {
    let mut random = Random::new(u64::from(id));
    (0..len).map(|_| random.next() as u8).collect()
}

/// Frames of all streams, of random sizes and in random order, each stream's FIN at its end.
fn shuffle(peer: &mut Peer, sent: &[(u32, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut left: Vec<(u32, &[u8])> = sent.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
    let mut wire = Vec::new();
    while !left.is_empty() {
        let at = random.below(left.len());
        let (id, bytes) = left[at];
        let largest = [10, 1_000, 20_000, 100_000][random.below(4)];
        let (now, later) = bytes.split_at((1 + random.below(largest)).min(bytes.len()));
        let fin = later.is_empty() && random.below(2) == 0;
        wire.extend_from_slice(&peer.spdy.data_header(id, now.len(), fin).unwrap());
        wire.extend_from_slice(now);
        left[at].1 = later;
        if later.is_empty() {
            left.remove(at);
            if !fin {
                wire.extend_from_slice(&peer.spdy.data_header(id, 0, true).unwrap());
            }
        }
    }
    wire
}

async fn converse(host: &Host, ports: &[u16], seed: u64) {
    let mut random = Random::new(seed);
    let mut peer = host.connect().await;
    let mut streams = Vec::new();
    for i in 0..12 {
        streams.push(peer.forward(ports[i % ports.len()]).await);
    }
    let of = |s: &Streams, random: &mut Random| (s.data, content(s.data, random.below(400_000)));
    let sent: Vec<_> = streams.iter().map(|s| of(s, &mut random)).collect();
    let wire = shuffle(&mut peer, &sent, &mut random);
    let (mut from, mut to) = peer.socket.into_split();
    let writing = tokio::spawn(async move {
        for piece in wire.chunks(1 + random.below(300_000)) {
            to.write_all(piece).await.unwrap();
        }
        to
    });
    let (mut bytes, mut heard) = (Vec::new(), Heard::new());
    let all_ended = |heard: &Heard| {
        let ended = |id: &u32| heard.get(id).is_some_and(|stream| stream.contains(&Frame::Fin));
        streams.iter().all(|s| ended(&s.data) && ended(&s.error))
    };
    while !all_ended(&heard) {
        let n = timeout(LONG, from.read_buf(&mut bytes)).await.expect("nothing came").unwrap();
        assert!(n > 0, "the session ended");
        take_frames(&mut bytes, &mut heard);
    }
    drop(writing.await.unwrap());
    for (id, sent) in sent {
        let mut expected = vec![Frame::Data(sent), Frame::Fin];
        expected.retain(|frame| *frame != Frame::Data(Vec::new()));
        assert!(heard[&id] == expected, "stream {id} of seed {seed}");
    }
}

#[tokio::test]
async fn every_stream_gets_its_own_bytes() {
    let host = Host::start().await;
    let ports = [
        echo_pod().await,
        slow_echo_pod(10_000, Duration::from_millis(1)).await,
        slow_echo_pod(100_000, Duration::ZERO).await,
    ];
    for seed in 0..10 {
        converse(&host, &ports, seed).await;
    }
}

#[tokio::test]
async fn every_stream_gets_its_own_bytes_within_a_small_budget() {
    let limits = Limits { session_budget: 64 << 10, ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let ports = [echo_pod().await, slow_echo_pod(10_000, Duration::from_millis(1)).await];
    for seed in 0..5 {
        converse(&host, &ports, seed).await;
    }
}

#[tokio::test]
async fn fifty_connections_of_our_own_client_at_once() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let client = Client::connect(&host.url()).await.unwrap();
    let mut programs = Vec::new();
    for id in 0..50 {
        let (mut from, mut to) = local(&client, port).await.into_split();
        let sent = content(id, 200_000 + id as usize);
        let copy = sent.clone();
        programs.push(tokio::spawn(async move {
            let writing = async {
                to.write_all(&copy).await.unwrap();
                to.shutdown().await.unwrap();
            };
            let mut received = Vec::new();
            let (_, read) = tokio::join!(writing, from.read_to_end(&mut received));
            read.unwrap();
            assert!(received == sent, "connection {id}");
        }));
    }
    for program in programs {
        timeout(LONG, program).await.expect("not done").unwrap();
    }
}
