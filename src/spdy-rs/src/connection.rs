//! A SPDY connection: bytes go in; events and bytes come out.

use std::fmt;

use crate::error::{Error, StreamClosed};
use crate::frame::{
    self, FLAG_FIN, FLAG_UNIDIRECTIONAL, HEADER_LEN, ID, MAX_FRAME_LEN, MAX_STREAM_ID, SYN_STREAM_FIXED,
    Status, control_header, kind, word,
};
use crate::header_block::{Headers, Inflater, MAX_SENT_BLOCK, Packer, plain_len};
use crate::reader::{Piece, Reader};
use crate::stream::Stream;
use crate::streams::Streams;

/// Which end of the connection this is. It decides the parity of stream and ping ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams with odd ids, and sends odd pings.
    Client,
    /// Opens no streams, and sends even pings.
    Server,
}

/// Limits on what the peer may do. Exceeding `max_streams` costs it that stream; exceeding any other ends the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Streams that the peer may have open at once. One more is refused with REFUSED_STREAM. Each costs eight bytes.
    /// Default: 1,024; kubectl opens two for each local connection.
    pub max_streams: usize,
    /// Size of a compressed header block, in bytes: this much is kept of a frame that arrives in parts. Default: 16 KiB.
    pub max_packed_block: usize,
    /// Size of a decompressed header block, in bytes: this much an [`Event::Opened`] may hold. Default: 64 KiB; without a
    /// limit, 16 KiB could decompress to 16 MiB.
    pub max_plain_block: usize,
    /// Number of headers in a block. Default: 64; port-forward uses three.
    pub max_headers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_streams: 1_024, max_packed_block: 16 << 10, max_plain_block: 64 << 10, max_headers: 64 }
    }
}

/// What the peer did.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// It opened a stream. Answer with [`Connection::reply`] or [`Connection::reset`]. It may send data before that.
    Opened {
        /// The stream.
        id: u32,
        /// Its headers.
        headers: Headers,
        /// The peer will send nothing on it.
        fin: bool,
    },
    /// It answered a stream of ours.
    Replied {
        /// The stream.
        id: u32,
        /// The peer will send nothing on it.
        fin: bool,
    },
    /// It sent data on a stream: a piece of a frame, not necessarily all of it.
    Data {
        /// The stream.
        id: u32,
        /// A slice of the input. Empty only if `fin` is set.
        payload: &'a [u8],
        /// Nothing more comes on this stream.
        fin: bool,
    },
    /// It reset a stream, or reused its id in a way that resets it on both sides. The stream is gone.
    Reset {
        /// The stream.
        id: u32,
        /// The status as sent.
        status: u32,
    },
    /// It sent a PING. The answer is in the output; send it soon, ahead of bulk data.
    Pinged,
    /// It sent a PING with our parity: the answer to one of ours, if the peer is honest.
    Ponged {
        /// The id that [`Connection::ping`] gave.
        id: u32,
    },
    /// It ends the session. Kubernetes' peers read nothing that is sent after that.
    GoAway {
        /// The last stream that the peer says it accepted.
        last: u32,
        /// The status as sent; 0 means an orderly end.
        status: u32,
    },
}

/// One end of a SPDY session.
///
/// There are four kinds of methods: getters, input ([`recv`](Self::recv)), commands, and output
/// ([`output`](Self::output), [`clear_output`](Self::clear_output)). After input and commands, check for output to send.
pub struct Connection {
    reader: Reader,
    core: Core,
    /// What the peer did wrong. No input is processed after that.
    failed: Option<Error>,
}

/// Everything in a connection except the reader, which is separate because a control frame borrows its buffer.
///
/// Invariants: `streams` holds exactly the streams that are not over, all of them opened by the client's side; ids
/// of the peer only grow up to `last_peer`, ours stay below `next_own`; `output` holds whole frames.
struct Core {
    role: Role,
    config: Config,
    inflater: Inflater,
    packer: Packer,
    streams: Streams,
    last_peer: u32,
    next_own: u32,
    next_ping: u32,
    output: Vec<u8>,
}

impl fmt::Debug for Connection {
    /// Shows the state, and no payload, which does not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("role", &self.core.role)
            .field("streams", &self.core.streams)
            .field("last_peer", &self.core.last_peer)
            .field("output", &self.core.output.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Getters.
impl Connection {
    /// A new connection, before its first byte.
    pub fn new(role: Role, config: Config) -> Self {
        let reader = Reader::new(config.max_packed_block);
        let core = Core {
            role,
            inflater: Inflater::new(config.max_plain_block),
            packer: Packer::default(),
            streams: Streams::default(),
            last_peer: 0,
            next_own: 1,
            next_ping: if role == Role::Client { 1 } else { 2 },
            output: Vec::new(),
            config,
        };
        Self { reader, core, failed: None }
    }

    /// The number of streams that are not over. A stream is over when it is reset, or answered and ended by both sides.
    pub fn streams(&self) -> usize {
        self.core.streams.len()
    }

    /// The highest stream id that the peer has used, including refused streams; 0 if there is none.
    pub fn last_peer_stream(&self) -> u32 {
        self.core.last_peer
    }

    /// Whether data may be sent on this stream now.
    pub fn may_send(&self, id: u32) -> bool {
        self.core.streams.get(id).is_some_and(Stream::may_send)
    }
}

/// Input.
impl Connection {
    /// Consumes input up to the next event. Returns `None` when the input is used up. The event borrows only from the
    /// input, so commands may be given while it is alive.
    ///
    /// Input never adds more than its own length to the output (answers to pings, refusals). To bound what a peer that
    /// does not read can make you hold, stop reading from it while its output waits.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol. This is final, and every later call returns the same error: close the connection, after
    /// a GOAWAY if [`Error::says_goaway`].
    pub fn recv<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.next_event(input).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn next_event<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Error> {
        loop {
            let event = match self.reader.next(input)? {
                None => return Ok(None),
                Some(Piece::Data { id, payload, fin }) => self.core.on_data(id, payload, fin),
                Some(Piece::Control { kind, flags, payload }) => {
                    self.core.on_control(kind, flags, payload)?
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }
}

/// Commands. Each appends its frame to the output, except [`Connection::data_header`].
impl Connection {
    /// Opens a stream and returns its id. Returns `None` on a server, which opens no streams, if ids have run out, or if
    /// there are more headers than a peer accepts ([`MAX_SENT_BLOCK`]).
    pub fn open(&mut self, headers: &[(&str, &str)], fin: bool) -> Option<u32> {
        let core = &mut self.core;
        let id = core.next_own;
        if id > MAX_STREAM_ID || core.role == Role::Server || plain_len(headers) > MAX_SENT_BLOCK {
            return None;
        }
        core.next_own += 2;
        core.streams.push(id, Stream::opened_by_us(fin));
        let mut fixed = [0; SYN_STREAM_FIXED];
        fixed[..ID].copy_from_slice(&id.to_be_bytes());
        core.push_block(kind::SYN_STREAM, if fin { FLAG_FIN } else { 0 }, &fixed, headers);
        Some(id)
    }

    /// Accepts a stream that the peer opened, without headers. Data may be sent on it from now on.
    ///
    /// # Errors
    ///
    /// If the peer did not open the stream, or it has been answered already, or is over.
    pub fn reply(&mut self, id: u32) -> Result<(), StreamClosed> {
        let core = &mut self.core;
        match core.streams.get_mut(id) {
            Some(stream) if stream.unanswered && !stream.ours => stream.unanswered = false,
            _ => return Err(StreamClosed(id)),
        }
        core.push_block(kind::SYN_REPLY, 0, &id.to_be_bytes(), &[]);
        core.forget_if_over(id);
        Ok(())
    }

    /// Returns the eight bytes that precede `len` bytes of payload, at most [`MAX_FRAME_LEN`]. Send them and the payload
    /// after everything that is in the output now, and before anything that is added to it later. `fin` makes it the
    /// stream's last frame.
    ///
    /// # Errors
    ///
    /// If nothing may be sent on the stream ([`may_send`](Self::may_send)), or `len` is too long.
    pub fn data_header(&mut self, id: u32, len: usize, fin: bool) -> Result<[u8; 8], StreamClosed> {
        let core = &mut self.core;
        let stream = core.streams.get_mut(id).filter(|s| s.may_send()).ok_or(StreamClosed(id))?;
        if len > MAX_FRAME_LEN {
            return Err(StreamClosed(id));
        }
        if fin {
            stream.local_open = false;
            core.forget_if_over(id);
        }
        Ok(frame::data_header(id, len, fin))
    }

    /// Appends a whole data frame to the output. This copies, so it is for small payload such as the text of an error.
    ///
    /// # Errors
    ///
    /// As for [`data_header`](Self::data_header).
    pub fn send(&mut self, id: u32, payload: &[u8], fin: bool) -> Result<(), StreamClosed> {
        let header = self.data_header(id, payload.len(), fin)?;
        self.core.output.extend_from_slice(&header);
        self.core.output.extend_from_slice(payload);
        Ok(())
    }

    /// Ends our side of a stream with an empty data frame.
    ///
    /// # Errors
    ///
    /// If nothing may be sent on the stream.
    pub fn finish(&mut self, id: u32) -> Result<(), StreamClosed> {
        self.send(id, &[], true)
    }

    /// Ends a stream in any state: with a FIN if ours has not been sent, then with RST_STREAM if the stream is not over.
    pub fn end(&mut self, id: u32) {
        let _ = self.finish(id);
        self.reset(id, Status::Cancel);
    }

    /// Resets a stream, unless it is over already. The stream is gone.
    pub fn reset(&mut self, id: u32, status: Status) {
        if self.core.streams.remove(id) {
            frame::push_words(&mut self.core.output, kind::RST_STREAM, &[id, status as u32]);
        }
    }

    /// Sends a PING and returns its id. The peer may answer late, or never.
    pub fn ping(&mut self) -> u32 {
        let id = self.core.next_ping;
        self.core.next_ping = id.wrapping_add(2);
        frame::push_words(&mut self.core.output, kind::PING, &[id]);
        id
    }

    /// Announces the end of the session. Go clients drop everything after it, so it must be the last command.
    pub fn go_away(&mut self) {
        let last = self.core.last_peer;
        frame::push_words(&mut self.core.output, kind::GOAWAY, &[last, 0]);
    }
}

/// Output.
impl Connection {
    /// The bytes to send: whole frames, in order.
    pub fn output(&self) -> &[u8] {
        &self.core.output
    }

    /// Clears the output once the caller has sent or copied it. Memory is freed if a burst made it large.
    pub fn clear_output(&mut self) {
        self.core.output.clear();
        self.core.output.shrink_to(KEPT_OUTPUT);
    }
}

/// Capacity that the output keeps between bursts: opening and closing a forwarded connection takes some 70 bytes.
const KEPT_OUTPUT: usize = 512;

/// Handles what the reader cut out of the input.
impl Core {
    /// Data for a stream that is over, or whose sender had ended it, is dropped: it may have crossed our reset.
    fn on_data<'a>(&mut self, id: u32, payload: &'a [u8], fin: bool) -> Option<Event<'a>> {
        let stream = self.streams.get_mut(id).filter(|s| s.remote_open)?;
        if fin {
            stream.remote_open = false;
            self.forget_if_over(id);
        }
        Some(Event::Data { id, payload, fin })
    }

    fn on_control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Option<Event<'static>>, Error> {
        let fin = flags & FLAG_FIN != 0;
        match kind {
            kind::SYN_STREAM => self.on_syn_stream(stream_id("SYN_STREAM", payload)?, flags, payload),
            kind::SYN_REPLY => self.on_syn_reply(stream_id("SYN_REPLY", payload)?, fin, payload),
            kind::HEADERS => self.on_headers(stream_id("HEADERS", payload)?, fin, payload),
            kind::RST_STREAM => Ok(self.on_rst_stream(stream_id("RST_STREAM", payload)?, word(payload, 4))),
            kind::PING => Ok(Some(self.on_ping(word(payload, 0)))),
            kind::GOAWAY => {
                Ok(Some(Event::GoAway { last: word(payload, 0) & MAX_STREAM_ID, status: word(payload, 4) }))
            }
            _ => Ok(None),
        }
    }

    /// The block is decompressed first, even if the stream is refused: the next block depends on it.
    fn on_syn_stream(&mut self, id: u32, flags: u8, payload: &[u8]) -> Result<Option<Event<'static>>, Error> {
        let headers = self.headers(&payload[SYN_STREAM_FIXED..])?;
        if let Err(status) = self.admit(id) {
            return Ok(self.refuse(id, status));
        }
        let fin = flags & FLAG_FIN != 0;
        self.streams.push(id, Stream::opened_by_peer(fin, flags & FLAG_UNIDIRECTIONAL != 0));
        Ok(Some(Event::Opened { id, headers, fin }))
    }

    /// Whether the peer may open this stream. Its ids must increase, even past refused ones.
    fn admit(&mut self, id: u32) -> Result<(), Status> {
        if self.role == Role::Client {
            return Err(Status::RefusedStream);
        }
        if id <= self.last_peer {
            return Err(Status::ProtocolError);
        }
        self.last_peer = id;
        if self.streams.len() < self.config.max_streams { Ok(()) } else { Err(Status::RefusedStream) }
    }

    /// Refuses a SYN_STREAM. If a stream with this id is open, the peer takes the refusal for its reset, so it ends here
    /// too.
    fn refuse(&mut self, id: u32, status: Status) -> Option<Event<'static>> {
        let lived = self.streams.remove(id);
        frame::push_words(&mut self.output, kind::RST_STREAM, &[id, status as u32]);
        lived.then_some(Event::Reset { id, status: status as u32 })
    }

    fn on_syn_reply(&mut self, id: u32, fin: bool, payload: &[u8]) -> Result<Option<Event<'static>>, Error> {
        self.headers(&payload[ID..])?;
        let Some(stream) = self.streams.get_mut(id).filter(|s| s.ours && s.unanswered) else {
            return Ok(None);
        };
        stream.unanswered = false;
        stream.remote_open &= !fin;
        self.forget_if_over(id);
        Ok(Some(Event::Replied { id, fin }))
    }

    /// Later headers carry nothing that matters here, but their FIN counts like that of data.
    fn on_headers(&mut self, id: u32, fin: bool, payload: &[u8]) -> Result<Option<Event<'static>>, Error> {
        self.headers(&payload[ID..])?;
        Ok(if fin { self.on_data(id, &[], true) } else { None })
    }

    fn on_rst_stream(&mut self, id: u32, status: u32) -> Option<Event<'static>> {
        self.streams.remove(id).then_some(Event::Reset { id, status })
    }

    /// A PING with the peer's parity is echoed; one with ours is an answer.
    fn on_ping(&mut self, id: u32) -> Event<'static> {
        if (id % 2 == 1) == (self.role == Role::Client) {
            return Event::Ponged { id };
        }
        frame::push_words(&mut self.output, kind::PING, &[id]);
        Event::Pinged
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, Error> {
        Headers::parse(self.inflater.inflate(block)?, self.config.max_headers)
    }

    /// Appends a control frame that ends with a header block. Its length is only known once the block has been packed, so
    /// the header is written twice.
    fn push_block(&mut self, kind: u16, flags: u8, fixed: &[u8], headers: &[(&str, &str)]) {
        let start = self.output.len();
        self.output.extend_from_slice(&control_header(kind, flags, 0));
        self.output.extend_from_slice(fixed);
        self.packer.pack(headers, &mut self.output);
        let len = self.output.len() - start - HEADER_LEN;
        self.output[start..start + HEADER_LEN].copy_from_slice(&control_header(kind, flags, len));
    }

    fn forget_if_over(&mut self, id: u32) {
        if self.streams.get(id).is_some_and(Stream::is_over) {
            self.streams.remove(id);
        }
    }
}

/// The stream id at the start of a control frame's payload; the first bit is reserved.
fn stream_id(frame: &'static str, payload: &[u8]) -> Result<u32, Error> {
    match word(payload, 0) & MAX_STREAM_ID {
        0 => Err(Error::StreamZero { frame }),
        id => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_run_out_and_are_never_used_again() {
        let mut client = Connection::new(Role::Client, Config::default());
        client.core.next_own = MAX_STREAM_ID;
        assert_eq!(client.open(&[], false), Some(MAX_STREAM_ID));
        assert_eq!([client.open(&[], false), client.open(&[], false)], [None, None]);
    }

    #[test]
    fn ping_ids_start_again_with_their_parity() {
        for (role, last, first) in [(Role::Client, u32::MAX, 1), (Role::Server, u32::MAX - 1, 0)] {
            let mut connection = Connection::new(role, Config::default());
            connection.core.next_ping = last;
            assert_eq!([connection.ping(), connection.ping()], [last, first]);
            connection.clear_output();
            let pong = [control_header(kind::PING, 0, 4).as_slice(), &first.to_be_bytes()].concat();
            assert_eq!(connection.recv(&mut &pong[..]), Ok(Some(Event::Ponged { id: first })));
        }
    }
}
