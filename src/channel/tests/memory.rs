//! What an idle channel costs.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(unsafe_code)] // counts what the system's allocator gives

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::time::Duration;

use gangplank_channel::frame::{self, Kind};
use gangplank_channel::open::{Opened, Opens};
use gangplank_channel::{Channel, Endpoint, Open, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

static HEAP: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The heap of many channels that have all moved bytes both ways, the runtime's registration of their sockets
/// included (it has about 250 bytes a descriptor).
#[test]
fn an_idle_channel_costs_little() {
    const CHANNELS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guest = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let payload = [&frame::header(Kind::Data, 5_000)[..], &[7; 5_000]].concat();
        let serve = |_| {
            let (mut host, _) = listener.accept().unwrap();
            let request = Open::tcp(":80", Duration::from_secs(9)).opening();
            host.read_exact(&mut vec![0; request.len()]).unwrap();
            host.write_all(&Opened::connected().opening()).unwrap();
            host.write_all(&payload).unwrap();
            host.read_exact(&mut [0; 5_004]).unwrap();
            host
        };
        (0..CHANNELS).map(serve).collect::<Vec<_>>()
    });
    let endpoint = Endpoint::Unix { path };
    let mut channels = Vec::<Channel>::with_capacity(CHANNELS);
    let mut buffer = [0; 5_000];
    let mut before = 0;
    runtime.block_on(async {
        for opened in 0..CHANNELS {
            // The first few make the runtime grow.
            if opened == CHANNELS / 4 {
                before = HEAP.load(Relaxed);
            }
            let mut channel = dial(&endpoint, Open::tcp(":80", Duration::from_secs(9))).await.unwrap();
            channel.read_exact(&mut buffer).await.unwrap();
            channel.write_all(&buffer).await.unwrap();
            channels.push(channel);
        }
    });
    let each = (HEAP.load(Relaxed) - before) as usize / (CHANNELS * 3 / 4) + size_of::<Channel>();
    println!("{each} bytes, {} of them the channel itself", size_of::<Channel>());
    assert!(each < 768, "an idle channel has {each} bytes, {} of them itself", size_of::<Channel>());
    drop(guest.join().unwrap());
}
