//! The channel into a real guest, compared with the guest's vsock device without a relay.
//!
//! Four routes are measured in turns, over the same device. `raw` is a vsock port that the pod itself listens on. `TCP` is
//! the hop that every relay needs, from one process in the guest to another, without vsock (measured in the guest).
//! `plain` is the simplest possible relay from vsock to the pod's TCP port, and `channel` is gangplank's relay to that
//! port. With an emulated processor, the TCP hop is expensive.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gangplank_channel::{Channel, Endpoint, Open};
use gangplank_e2e::bulk::Port;
use gangplank_e2e::guest::Guest;
use gangplank_e2e::services::{BULK_PORT, HOP_PORT, PLAIN_PORT, RAW_PORT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use crate::error::{Doing, Error, Result};
use crate::session::{READ, SILENCE, Session};
use crate::work;

/// The share of the raw throughput that the channel must reach in each direction.
const LEAST_RATE: f64 = 0.9;

/// How many microseconds the channel may add to the raw median of a one-byte round trip.
const MOST_ADDED: f64 = 60.0;

/// The amount of work in a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rounds: usize,
    pub(crate) bytes: u64,
    pub(crate) round_trips: usize,
}

/// Takes about 20 s on a machine with two cores, plus the start of the guest.
pub(crate) const FULL: Sizes = Sizes { rounds: 5, bytes: 32 << 20, round_trips: 1_000 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Raw,
    Hop,
    Plain,
    Channel,
}

impl Route {
    const ALL: [Route; 4] = [Route::Raw, Route::Hop, Route::Plain, Route::Channel];
}

/// Medians over the rounds, for each route.
#[derive(Debug)]
pub(crate) struct GuestFigures {
    /// MB/s from the guest.
    down: [f64; 4],
    /// MB/s to the guest.
    up: [f64; 4],
    /// Microseconds, the median of a one-byte round trip.
    round_trip: [f64; 4],
}

/// Boots a guest and measures all routes into it.
pub(crate) fn measure(sizes: Sizes, dir: &Path) -> Result<GuestFigures> {
    let dir = dir.join("guest");
    std::fs::create_dir(&dir).doing(format!("creating {}", dir.display()))?;
    let guest = Guest::boot(&dir);
    let mut samples: [[Vec<f64>; 4]; 3] = Default::default();
    for round in 0..sizes.rounds {
        for turn in 0..Route::ALL.len() {
            let route = Route::ALL[(turn + round) % Route::ALL.len()];
            let figures = measure_route(route, &guest, sizes)
                .map_err(|error| Error::Contender(format!("{route:?} into the guest: {error}")))?;
            for (of, value) in samples.iter_mut().zip(figures) {
                of[route as usize].push(value);
            }
        }
    }
    let [down, up, round_trip] = samples.map(|of| of.map(median));
    Ok(GuestFigures { down, up, round_trip })
}

fn measure_route(route: Route, guest: &Guest, sizes: Sizes) -> Result<[f64; 3]> {
    let mut session: Box<dyn Session> = match route {
        Route::Hop => return measure_hop(&guest.socket()),
        Route::Raw => Box::new(RawSession::new(&guest.socket(), RAW_PORT)),
        Route::Plain => Box::new(RawSession::new(&guest.socket(), PLAIN_PORT)),
        Route::Channel => Box::new(ChannelSession::new(&guest.endpoint())?),
    };
    let session = session.as_mut();
    let rate = |took: Duration| sizes.bytes as f64 / took.as_secs_f64() / 1e6;
    let down = rate(work::download(session, sizes.bytes)?);
    let up = rate(work::upload(session, sizes.bytes)?);
    let conn = work::open_echo(session)?;
    let times: Result<Vec<f64>> =
        (0..sizes.round_trips).map(|_| Ok(work::round_trip(session, conn)?.as_secs_f64() * 1e6)).collect();
    Ok([down, up, median(times?)])
}

/// The TCP figures that the guest has measured itself.
fn measure_hop(device: &Path) -> Result<[f64; 3]> {
    let asking = "asking the guest for its TCP figures";
    let stream = RawSession::new(device, HOP_PORT).connect(HOP_PORT).doing(asking)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).doing(asking)?;
    let figures: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    figures
        .try_into()
        .map_err(|_| Error::Contender(format!("expected three TCP figures from the guest, not {line:?}")))
}

impl GuestFigures {
    pub(crate) fn is_met(&self) -> bool {
        let [raw, .., ours] = self.round_trip;
        ours - raw <= MOST_ADDED
            && [self.down, self.up].iter().all(|[raw, .., ours]| ours / raw >= LEAST_RATE)
    }
}

impl std::fmt::Display for GuestFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [name, raw, hop, plain, ours] = ["into a QEMU guest", "raw vsock", "TCP", "plain", "channel"];
        writeln!(f, "\n{name:<28}{raw:>10}{hop:>10}{plain:>10}{ours:>10}")?;
        let met = |is_met| if is_met { "met" } else { "NOT met" };
        for (name, of) in [("download, MB/s", self.down), ("upload, MB/s", self.up)] {
            let [raw, _, plain, ours] = of;
            row(f, name, of)?;
            let (ratio, of_plain, is_met) = (ours / raw, ours / plain, met(ours / raw >= LEAST_RATE));
            writeln!(f, "{ratio:.2} of raw, at least {LEAST_RATE:.2}  {is_met}; {of_plain:.2} of plain")?;
        }
        let [raw, _, plain, ours] = self.round_trip;
        row(f, "1-byte round trip p50, us", self.round_trip)?;
        let (added, over_plain, is_met) = (ours - raw, ours - plain, met(ours - raw <= MOST_ADDED));
        writeln!(
            f,
            "{added:.0} more than raw, at most {MOST_ADDED:.0}  {is_met}; {over_plain:+.0} compared with plain"
        )
    }
}

fn row(f: &mut std::fmt::Formatter<'_>, name: &str, of: [f64; 4]) -> std::fmt::Result {
    write!(f, "{name:<28}")?;
    for figure in of {
        write!(f, "{figure:>10.0}")?;
    }
    write!(f, "  | ")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Connections over hybrid vsock, without a relay.
struct RawSession {
    device: PathBuf,
    first_port: u32,
    conns: Vec<Option<UnixStream>>,
    buffer: Vec<u8>,
}

impl RawSession {
    fn new(device: &Path, first_port: u32) -> Self {
        Self { device: device.to_owned(), first_port, conns: Vec::new(), buffer: vec![0; READ] }
    }

    fn conn(&mut self, conn: usize) -> Result<&mut UnixStream> {
        let stream = self.conns.get_mut(conn).and_then(Option::as_mut);
        stream.ok_or_else(|| Error::Contender(format!("connection {conn} has already ended")))
    }

    fn connect(&self, port: u32) -> std::io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.device)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte)?;
        }
        Ok(stream)
    }
}

impl Session for RawSession {
    fn open(&mut self, port: Port) -> Result<usize> {
        let port = self.first_port + port as u32;
        self.conns.push(Some(self.connect(port).doing(format!("connecting to vsock port {port}"))?));
        Ok(self.conns.len() - 1)
    }

    fn send(&mut self, conn: usize, bytes: &[u8]) -> Result<()> {
        self.conn(conn)?.write_all(bytes).doing("sending to the guest")
    }

    fn receive(&mut self, conn: usize) -> Result<&[u8]> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.conn(conn).and_then(|c| c.read(&mut buffer).doing("receiving from the guest"));
        self.buffer = buffer;
        read.map(|n| &self.buffer[..n])
    }

    /// Hybrid vsock has no half-close. Closing first loses nothing here, because the pod has sent everything.
    fn finish(&mut self, conn: usize) -> Result<()> {
        self.conns[conn] = None;
        Ok(())
    }
}

struct ChannelSession {
    runtime: Runtime,
    endpoint: Endpoint,
    conns: Vec<Option<Channel>>,
    buffer: Vec<u8>,
}

impl ChannelSession {
    fn new(endpoint: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let endpoint = endpoint.parse().map_err(|error| Error::Contender(format!("{endpoint}: {error}")))?;
        Ok(Self {
            runtime: runtime.doing("starting a runtime")?,
            endpoint,
            conns: Vec::new(),
            buffer: vec![0; READ],
        })
    }

    fn conn(conns: &mut [Option<Channel>], conn: usize) -> Result<&mut Channel> {
        let channel = conns.get_mut(conn).and_then(Option::as_mut);
        channel.ok_or_else(|| Error::Contender(format!("connection {conn} has already ended")))
    }
}

impl Session for ChannelSession {
    fn open(&mut self, port: Port) -> Result<usize> {
        let open = Open::tcp(format!("127.0.0.1:{}", BULK_PORT + port as u16), SILENCE);
        let channel = self.runtime.block_on(gangplank_channel::dial(&self.endpoint, open));
        self.conns.push(Some(channel.map_err(|error| Error::Contender(error.to_string()))?));
        Ok(self.conns.len() - 1)
    }

    fn send(&mut self, conn: usize, bytes: &[u8]) -> Result<()> {
        let channel = Self::conn(&mut self.conns, conn)?;
        self.runtime.block_on(channel.write_all(bytes)).doing("sending to the guest")
    }

    fn receive(&mut self, conn: usize) -> Result<&[u8]> {
        let channel = Self::conn(&mut self.conns, conn)?;
        let len = self.runtime.block_on(channel.read(&mut self.buffer)).doing("receiving from the guest")?;
        Ok(&self.buffer[..len])
    }

    fn finish(&mut self, conn: usize) -> Result<()> {
        let channel = Self::conn(&mut self.conns, conn)?;
        self.runtime.block_on(channel.shutdown()).doing("ending the direction to the pod")?;
        while !self.receive(conn)?.is_empty() {}
        self.conns[conn] = None;
        Ok(())
    }
}
