//! A client and a server in memory, driven by a script of random commands until both are idle.
//!
//! It uses nothing but the crate, because the fuzz target `pair` includes this file. Everything is checked end to end:
//! payload arrives once, in order and up to its FIN; the events of a stream come in a sensible order; and once
//! everything has ended and been delivered, neither side remembers a stream.

use std::collections::{BTreeMap, VecDeque};

use spdy_rs::{Config, Connection, Event, Role, Status};

/// The server's limit on streams: low, so that scripts exceed it.
const MAX_STREAMS: usize = 4;

/// One command: what, on which stream, how much.
pub(crate) type Command = [u8; 3];

/// Runs the commands, then ends everything that is open. Panics if a promise is broken.
pub(crate) fn run(script: &[Command]) {
    let mut pair = Pair::new();
    for command in script {
        pair.obey(*command);
        pair.check();
    }
    pair.settle();
}

struct Pair {
    client: End,
    server: End,
    /// Opened so far, in order.
    ids: Vec<u32>,
}

struct End {
    role: Role,
    connection: Connection,
    /// Bytes on their way to the other end.
    wire: Vec<u8>,
    streams: BTreeMap<u32, Track>,
    pings: VecDeque<u32>,
}

/// What one end has sent and received on a stream.
#[derive(Debug, Default)]
struct Track {
    sent: usize,
    heard: usize,
    fin_sent: bool,
    fin_heard: bool,
    answered: bool,
    /// By either end, as far as this one knows.
    reset: bool,
}

impl Pair {
    fn new() -> Self {
        let config = Config { max_streams: MAX_STREAMS, ..Config::default() };
        let server = End::new(Role::Server, config);
        Self { client: End::new(Role::Client, Config::default()), server, ids: Vec::new() }
    }

    fn obey(&mut self, [what, which, how]: Command) {
        let id = self.ids.get(usize::from(which) % self.ids.len().max(1)).copied().unwrap_or(1);
        let (len, fin) = (usize::from(how >> 1), how & 1 == 1);
        let (mine, other) = if what & 1 == 0 {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        };
        match what >> 1 {
            0..20 => self.ids.extend(self.client.open(fin)),
            20..40 => self.server.reply(id),
            40..60 => mine.send(id, len, fin),
            60..80 => mine.send_by_header(id, len, fin),
            80..85 => mine.reset(id),
            85..90 => mine.ping(),
            _ => _ = mine.deliver(other, usize::from(how) + 1),
        }
    }

    fn check(&self) {
        for end in [&self.client, &self.server] {
            let over = |t: &Track| t.reset || (t.fin_sent && t.fin_heard && t.answered);
            let live = end.streams.values().filter(|track| !over(track)).count();
            assert_eq!(end.connection.streams(), live, "{:?}: {:?}", end.role, end.streams);
        }
        assert!(self.server.connection.streams() <= MAX_STREAMS);
    }

    /// Answers and ends everything, and delivers all of it.
    fn settle(&mut self) {
        loop {
            for id in &self.ids {
                if self.server.streams.contains_key(id) {
                    self.server.reply(*id);
                }
                for end in [&mut self.client, &mut self.server] {
                    end.send(*id, 0, true);
                }
            }
            let moved = self.client.deliver(&mut self.server, usize::MAX);
            if self.server.deliver(&mut self.client, usize::MAX) + moved == 0 {
                break;
            }
        }
        self.check();
        for end in [&self.client, &self.server] {
            assert_eq!(end.connection.streams(), 0, "{:?} keeps streams: {:?}", end.role, end.streams);
            assert!(end.pings.is_empty(), "{:?} waits for pings", end.role);
        }
        for id in &self.ids {
            self.compare(&self.client.streams[id], self.server.streams.get(id));
        }
    }

    /// Both ends agree about a stream that was not reset.
    fn compare(&self, client: &Track, server: Option<&Track>) {
        match server {
            Some(server) if !client.reset && !server.reset => {
                assert_eq!((client.sent, client.heard), (server.heard, server.sent));
                assert!(client.fin_heard && server.fin_heard && client.answered);
            }
            Some(server) => assert!(client.heard <= server.sent && server.heard <= client.sent),
            None => assert!(client.reset, "the server refused it, and the client must know"),
        }
    }
}

impl End {
    fn new(role: Role, config: Config) -> Self {
        let connection = Connection::new(role, config);
        Self { role, connection, wire: Vec::new(), streams: BTreeMap::new(), pings: VecDeque::new() }
    }

    fn open(&mut self, fin: bool) -> Option<u32> {
        let number = self.streams.len().to_string();
        let id = self.connection.open(&[("Number", &number), ("empty", "")], fin)?;
        assert!(self.streams.insert(id, Track { fin_sent: fin, ..Track::default() }).is_none());
        Some(id)
    }

    fn reply(&mut self, id: u32) {
        let track = self.streams.get_mut(&id);
        let may = track.as_ref().is_some_and(|track| !track.answered && !track.reset);
        assert_eq!(self.connection.reply(id).is_ok(), may);
        if may && let Some(track) = track {
            track.answered = true;
        }
    }

    fn send(&mut self, id: u32, len: usize, fin: bool) {
        let payload = self.payload(id, len);
        if let Some(track) = self.may_send(id) {
            (track.sent, track.fin_sent) = (track.sent + len, fin);
            self.connection.send(id, &payload, fin).expect("it may send");
        } else {
            self.connection.send(id, &payload, fin).expect_err("it may not send");
        }
    }

    fn send_by_header(&mut self, id: u32, len: usize, fin: bool) {
        let payload = self.payload(id, len);
        if let Some(track) = self.may_send(id) {
            (track.sent, track.fin_sent) = (track.sent + len, fin);
            self.flush();
            self.wire.extend(self.connection.data_header(id, len, fin).expect("it may send"));
            self.wire.extend(payload);
        } else {
            self.connection.data_header(id, len, fin).expect_err("it may not send");
        }
    }

    /// The stream's next bytes. Each is determined by its offset.
    fn payload(&self, id: u32, len: usize) -> Vec<u8> {
        let sent = self.streams.get(&id).map_or(0, |track| track.sent);
        (sent..sent + len).map(|at| byte(self.role, id, at)).collect()
    }

    fn may_send(&mut self, id: u32) -> Option<&mut Track> {
        let client = self.role == Role::Client;
        let may = |track: &&mut Track| !track.reset && !track.fin_sent && (client || track.answered);
        let track = self.streams.get_mut(&id).filter(may);
        assert_eq!(self.connection.may_send(id), track.is_some());
        track
    }

    fn reset(&mut self, id: u32) {
        self.connection.reset(id, Status::Cancel);
        if let Some(track) = self.streams.get_mut(&id) {
            // Resetting an ended stream has no effect.
            track.reset |= !(track.fin_sent && track.fin_heard && track.answered);
        }
    }

    fn ping(&mut self) {
        self.pings.push_back(self.connection.ping());
    }

    fn flush(&mut self) {
        self.wire.extend_from_slice(self.connection.output());
        self.connection.clear_output();
    }

    /// Moves up to `most` bytes to the other end. Returns how many it moved.
    fn deliver(&mut self, to: &mut Self, most: usize) -> usize {
        self.flush();
        let bytes: Vec<u8> = self.wire.drain(..most.min(self.wire.len())).collect();
        let mut input = &bytes[..];
        while let Some(event) = to.connection.recv(&mut input).expect("the other end keeps the rules") {
            to.streams = hear(to.role, std::mem::take(&mut to.streams), &mut to.pings, event);
        }
        assert!(input.is_empty());
        bytes.len()
    }
}

type Streams = BTreeMap<u32, Track>;

fn hear(role: Role, mut streams: Streams, pings: &mut VecDeque<u32>, event: Event<'_>) -> Streams {
    match event {
        Event::Opened { id, headers, fin } => {
            assert_eq!(role, Role::Server);
            assert_eq!(headers.get("number"), Some(((id - 1) / 2).to_string().as_bytes()));
            assert_eq!(headers.get("empty"), Some(&b""[..]));
            assert!(streams.insert(id, Track { fin_heard: fin, ..Track::default() }).is_none());
        }
        Event::Replied { id, fin } => {
            let track = live(&mut streams, id);
            assert!(role == Role::Client && !track.answered && !fin);
            track.answered = true;
        }
        Event::Data { id, payload, fin } => {
            let track = live(&mut streams, id);
            assert!(!track.fin_heard && (fin || !payload.is_empty()));
            let from = if role == Role::Client { Role::Server } else { Role::Client };
            let expected = (track.heard..).map(|at| byte(from, id, at));
            assert!(payload.iter().copied().zip(expected).all(|(heard, sent)| heard == sent));
            (track.heard, track.fin_heard) = (track.heard + payload.len(), fin);
        }
        Event::Reset { id, .. } => live(&mut streams, id).reset = true,
        Event::Pinged => {}
        Event::Ponged { id } => assert_eq!(pings.pop_front(), Some(id)),
        Event::GoAway { .. } => panic!("nobody said GOAWAY"),
    }
    streams
}

fn live(streams: &mut Streams, id: u32) -> &mut Track {
    streams.get_mut(&id).filter(|track| !track.reset).expect("an event of a stream that lives")
}

fn byte(from: Role, id: u32, at: usize) -> u8 {
    (at as u8).wrapping_mul(7).wrapping_add(id as u8) ^ if from == Role::Client { 0 } else { 0x55 }
}
