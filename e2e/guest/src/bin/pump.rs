//! How fast a channel and a relay move bytes, and at what cost: `cargo run --release -p gangplank-e2e-guest
//! --bin pump [MIB]`. A channel over a Unix socket, the relay, a TCP server; each has its own thread, so
//! that its CPU time can be measured.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gangplank_channel::{Channel, Endpoint, Open, dial};
use gangplank_relay::{Config, Listen, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CHUNK: usize = 64 << 10;

fn main() {
    let mib: usize = std::env::args().nth(1).map_or(2_048, |mib| mib.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    for down in [true, false] {
        let relay = Relay::bind(&[Listen::Unix { path: path.clone() }], Config::default()).unwrap();
        let stopper = relay.stopper();
        let relay = timed(move || relay.run().unwrap());
        let (port, pod) = pod(down, mib << 20);
        let endpoint = Endpoint::Unix { path: path.clone() };
        let started = Instant::now();
        let host = timed(move || host(&endpoint, port, down, mib << 20));
        let host = host.join().unwrap();
        let took = started.elapsed().as_secs_f64();
        stopper.stop();
        let (relay, pod) = (relay.join().unwrap(), pod.join().unwrap());
        let gb = (mib << 20) as f64 / 1e9;
        println!(
            "{} {:>6.0} MB/s; CPU s/GB: host {:.3}, relay {:.3}, pod {:.3}",
            if down { "pod → host" } else { "host → pod" },
            gb * 1e3 / took,
            host / gb,
            relay / gb,
            pod / gb,
        );
    }
    if mib > 64 {
        round_trips(&path);
    }
}

/// One-byte round trips, and connections of one byte.
fn round_trips(path: &std::path::Path) {
    let relay = Relay::bind(&[Listen::Unix { path: path.to_owned() }], Config::default()).unwrap();
    let stopper = relay.stopper();
    let relay = timed(move || relay.run().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            connection.set_nodelay(true).unwrap();
            while connection.read_exact(&mut [0]).is_ok() && connection.write_all(&[0]).is_ok() {}
        }
    });
    let endpoint = Endpoint::Unix { path: path.to_owned() };
    let host = timed(move || {
        block_on(async {
            let mut channel = open(&endpoint, port).await;
            let mut times = Vec::new();
            for _ in 0..20_000 {
                let started = Instant::now();
                channel.write_all(&[0]).await.unwrap();
                channel.read_exact(&mut [0]).await.unwrap();
                times.push(started.elapsed());
            }
            channel.shutdown().await.unwrap();
            report("1-byte round trip", times);
            let mut times = Vec::new();
            for _ in 0..5_000 {
                let started = Instant::now();
                let mut channel = open(&endpoint, port).await;
                channel.write_all(&[0]).await.unwrap();
                channel.read_exact(&mut [0]).await.unwrap();
                times.push(started.elapsed());
                channel.shutdown().await.unwrap();
                assert_eq!(channel.read(&mut [0]).await.unwrap(), 0);
            }
            report("connect and 1 byte", times);
        });
    });
    let host = host.join().unwrap();
    stopper.stop();
    println!("CPU s of both: host {host:.3}, relay {:.3}", relay.join().unwrap());
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("{what}: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
}

/// Runs this in its own thread; joining it returns the CPU seconds that it took.
fn timed(run: impl FnOnce() + Send + 'static) -> JoinHandle<f64> {
    std::thread::spawn(|| {
        run();
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        times.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
    })
}

fn pod(down: bool, len: usize) -> (u16, JoinHandle<f64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move |mut connection: TcpStream| {
        let mut buffer = vec![7; CHUNK];
        if down {
            for _ in 0..len / CHUNK {
                connection.write_all(&buffer).unwrap();
            }
        } else {
            while connection.read(&mut buffer).unwrap() > 0 {}
        }
    };
    (port, timed(move || serve(listener.accept().unwrap().0)))
}

fn host(endpoint: &Endpoint, port: u16, down: bool, len: usize) {
    block_on(async {
        let mut channel = open(endpoint, port).await;
        let mut buffer = vec![7; CHUNK];
        let mut moved = 0;
        if down {
            loop {
                match channel.read(&mut buffer).await.unwrap() {
                    0 => break,
                    read => moved += read,
                }
            }
            assert_eq!(moved, len);
            channel.shutdown().await.unwrap();
        } else {
            for _ in 0..len / CHUNK {
                channel.write_all(&buffer).await.unwrap();
            }
            channel.shutdown().await.unwrap();
            assert_eq!(channel.read(&mut buffer).await.unwrap(), 0);
        }
    });
}

async fn open(endpoint: &Endpoint, port: u16) -> Channel {
    dial(endpoint, Open::tcp(format!("127.0.0.1:{port}"), Duration::from_secs(5))).await.unwrap()
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}
