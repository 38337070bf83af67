//! What a data frame costs in each direction: nanoseconds and allocations.
//!
//! Run it with `cargo bench -p spdy-rs`. The times depend on the machine and are only printed. A data frame that
//! allocates is a bug, and makes the run fail.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use spdy_rs::{Config, Connection, Event, Role};

use counting::allocations;

/// Bytes of one read from a socket.
const READ: usize = 256 << 10;

/// Frames of one measurement: enough for the clock, and a few tenths of a second in total.
const FRAMES: usize = 2_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    println!("payload  streams  direction   ns/frame  allocations/frame");
    let mut allocated = 0;
    for payload in [32 << 10, 64] {
        for streams in [1, 100, 1_000] {
            allocated += receive(payload, streams)? + send(payload, streams)?;
        }
    }
    if allocated > 0 { Err("data frames allocate".into()) } else { Ok(()) }
}

/// A client with open streams, and a server that answered them.
fn pair(streams: usize) -> Result<(Connection, Connection, Vec<u32>), Box<dyn Error>> {
    let mut client = Connection::new(Role::Client, Config::default());
    let mut server = Connection::new(Role::Server, Config::default());
    let mut ids = Vec::new();
    for _ in 0..streams {
        let id = client.open(&[("streamtype", "data")], false).ok_or("no ids left")?;
        server.recv(&mut client.output().to_vec().as_slice())?;
        client.clear_output();
        server.reply(id)?;
        ids.push(id);
    }
    server.clear_output();
    Ok((client, server, ids))
}

fn receive(payload: usize, streams: usize) -> Result<usize, Box<dyn Error>> {
    let (mut client, mut server, ids) = pair(streams)?;
    // As many frames as one read holds, spread over the streams. The end of the read cuts the last one in two.
    let mut read = Vec::with_capacity(READ + payload);
    for id in ids.iter().cycle() {
        read.extend_from_slice(&client.data_header(*id, payload, false)?);
        read.resize(read.len() + payload, 7);
        if read.len() >= READ {
            break;
        }
    }
    let frames = read.len() / (payload + 8);
    let rounds = (FRAMES / frames).min(20_000);
    let (start, before) = (Instant::now(), allocations());
    let mut bytes = 0;
    for _ in 0..rounds {
        for mut piece in [&read[..READ], &read[READ..]] {
            while let Some(event) = server.recv(&mut piece)? {
                if let Event::Data { payload, .. } = black_box(event) {
                    bytes += payload.len();
                }
            }
        }
    }
    if bytes != rounds * frames * payload {
        return Err("bytes were lost".into());
    }
    Ok(report("in", payload, streams, rounds * frames, start, before))
}

fn send(payload: usize, streams: usize) -> Result<usize, Box<dyn Error>> {
    let (_, mut server, ids) = pair(streams)?;
    let (start, before) = (Instant::now(), allocations());
    for id in ids.iter().cycle().take(FRAMES) {
        black_box(server.data_header(*id, payload, false)?);
    }
    Ok(report("out", payload, streams, FRAMES, start, before))
}

fn report(what: &str, payload: usize, streams: usize, frames: usize, start: Instant, before: usize) -> usize {
    let allocated = allocations() - before;
    let nanos = start.elapsed().as_nanos() as f64 / frames as f64;
    let each = allocated as f64 / frames as f64;
    println!("{payload:7}  {streams:7}  {what:9}  {nanos:9.1}  {each:17.3}");
    allocated
}

/// The system's allocator, with a counter.
#[allow(unsafe_code)]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    static COUNT: AtomicUsize = AtomicUsize::new(0);

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    struct Counting;

    // SAFETY: every call goes to the system's allocator unchanged.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            COUNT.fetch_add(1, Relaxed);
            // SAFETY: the caller keeps `alloc`'s contract, which is the system's.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            // SAFETY: the caller keeps `dealloc`'s contract, and `ptr` came from the system's allocator.
            unsafe { System.dealloc(ptr, layout) }
        }
    }

    /// Allocations so far.
    pub(crate) fn allocations() -> usize {
        COUNT.load(Relaxed)
    }
}
