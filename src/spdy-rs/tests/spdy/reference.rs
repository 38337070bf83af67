//! A streaming server on top of a connection that decides as the reference does which streams it accepts, and when it
//! writes text, ends or resets them. It does just enough to answer the recorded clients.

use std::collections::BTreeMap;

use spdy_rs::{Config, Connection, Event, Headers, Role, Status};

/// What listens in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pod {
    Echoes,
    Refuses,
    SaysByeAndCloses,
}

/// Time for the second stream of a pair (30 s by default in the reference; this is the recording's setting).
const PAIR_TIMEOUT_MS: u64 = 700;
/// Time between the end of one side and the end of both streams.
const LINGER_MS: u64 = 1_000;

#[derive(Debug, Default)]
struct Pair {
    error: Option<u32>,
    data: Option<u32>,
    /// One side has closed; both streams are finished after the linger time.
    ended: bool,
}

pub(crate) struct Reference {
    pub(crate) connection: Connection,
    pod: Pod,
    /// Silence after which the session ends.
    idle_ms: u64,
    /// Keyed by request id, or by the error stream's id if the client sends none.
    pairs: BTreeMap<String, Pair>,
    gone: bool,
}

impl Reference {
    pub(crate) fn new(pod: Pod, idle_ms: u64) -> Self {
        let connection = Connection::new(Role::Server, Config::default());
        Self { connection, pod, idle_ms, pairs: BTreeMap::new(), gone: false }
    }

    /// Processes bytes from the client, until it has sent GOAWAY or made a mistake.
    pub(crate) fn reads(&mut self, mut bytes: &[u8]) {
        while !self.gone {
            match self.connection.recv(&mut bytes) {
                Ok(Some(event)) => self.on(event),
                Ok(None) => return,
                Err(error) => {
                    if error.says_goaway() {
                        self.connection.go_away();
                    }
                    self.gone = true;
                }
            }
        }
    }

    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Opened { id, headers, .. } => self.on_opened(id, &headers),
            Event::Data { id, payload, fin } => self.on_data(id, payload, fin),
            Event::GoAway { .. } => {
                self.connection.go_away();
                self.gone = true;
            }
            Event::Reset { .. } | Event::Pinged | Event::Ponged { .. } | Event::Replied { .. } => {}
        }
    }

    fn on_opened(&mut self, id: u32, headers: &Headers) {
        let text = |name| headers.get(name).map(|v| String::from_utf8_lossy(v).into_owned());
        let port = text("port").and_then(|p| p.parse::<u16>().ok()).unwrap_or(0);
        let error = match text("streamtype").as_deref() {
            Some("error") if port > 0 => true,
            Some("data") if port > 0 => false,
            _ => return self.connection.reset(id, Status::Cancel),
        };
        self.connection.reply(id).unwrap();
        let legacy = if error { id } else { id - 2 }.to_string();
        let pair = self.pairs.entry(text("requestid").unwrap_or(legacy)).or_default();
        let side = if error { &mut pair.error } else { &mut pair.data };
        if side.is_some() {
            let first = pair.error.unwrap();
            return self.connection.send(first, b"error processing stream", false).unwrap();
        }
        *side = Some(id);
        if let Pair { error: Some(error), data: Some(data), .. } = *pair {
            self.dial(error, data);
        }
    }

    fn dial(&mut self, error: u32, data: u32) {
        match self.pod {
            Pod::Echoes => {}
            Pod::Refuses => {
                self.connection.finish(data).unwrap();
                self.connection.send(error, b"error forwarding port", false).unwrap();
                self.connection.reset(error, Status::Cancel);
            }
            Pod::SaysByeAndCloses => {
                self.connection.send(data, b"bye\n", false).unwrap();
                self.end_of(data);
            }
        }
    }

    fn on_data(&mut self, id: u32, payload: &[u8], fin: bool) {
        if self.pod == Pod::Echoes && self.pairs.values().any(|pair| pair.data == Some(id)) {
            if !payload.is_empty() {
                self.connection.send(id, payload, false).unwrap();
            }
            if fin {
                self.end_of(id);
            }
        }
    }

    fn end_of(&mut self, data: u32) {
        for pair in self.pairs.values_mut().filter(|pair| pair.data == Some(data)) {
            pair.ended = true;
        }
    }

    /// The client is silent for this long.
    pub(crate) fn waits(&mut self, ms: u64) {
        let us = &mut self.connection;
        if ms >= LINGER_MS {
            for pair in self.pairs.values_mut().filter(|pair| pair.ended) {
                pair.ended = false;
                us.finish(pair.data.unwrap()).unwrap();
                us.finish(pair.error.unwrap()).unwrap();
            }
        }
        if ms >= PAIR_TIMEOUT_MS {
            self.pairs.retain(|_, pair| {
                if let (Some(error), None) = (pair.error, pair.data) {
                    us.send(error, b"timed out waiting for streams", false).unwrap();
                }
                pair.error.is_some() && pair.data.is_some()
            });
        }
        if ms >= self.idle_ms {
            for id in self.pairs.values().flat_map(|pair| [pair.data, pair.error]).flatten() {
                us.reset(id, Status::Cancel);
            }
            us.go_away();
        }
    }
}
