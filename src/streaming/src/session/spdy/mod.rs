//! SPDY streams: the client opens two for each connection, at any time.
//!
//! [`SpdyFraming`] moves bytes, the same at both ends; a [`StreamHandler`] decides what streams mean:
//! `server` pairs them and dials, `client` opens them for connections that it is given.

mod batch;
pub(crate) mod client;
mod pairing;
mod recv;
mod server;
pub(super) mod wire;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use spdy_rs::{Headers, Status};
use tokio::time::Instant;

use self::wire::{ClientSocket, Wire};
use super::Ended;
use super::engine::Engine;
use super::forward::Phase;
use super::framing::{EngineOf, ForwardOf, Framing};
use super::read_buffer::{READ_BUFFER, ReadBuffer};
use crate::dial::{Connection, DialError};

/// Payload of the frames that we send. Go's receiver queues frames and not bytes, so larger ones would let it
/// hold more.
const FRAME: usize = 64 << 10;

/// Frames of the largest chunk.
const FRAMES: usize = READ_BUFFER / FRAME;

/// Answers that may wait for a client that does not read: more, and it is not read either.
const MAX_CONTROL: usize = 64 << 10;

/// The two streams of a forward. The error stream is 0 until the client has opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StreamIds {
    error: u32,
    data: u32,
}

/// The engine of a SPDY session.
type Forwards<C> = Engine<C, StreamIds>;

/// What the streams of a session mean.
trait StreamHandler: Sized + Unpin {
    type Conn: Connection;
    /// Our error streams get a FIN when their connection ends.
    const ENDS_ERROR_STREAM: bool;
    /// A connection that ended first waits only a limited time for the peer's end.
    const LINGERS: bool;

    /// The peer opened a stream.
    fn on_opened(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<Self::Conn>,
        id: u32,
        headers: &Headers,
    );
    /// The peer reset a stream that waited for its partner.
    fn on_gone(&mut self, _id: u32) {}
    /// The peer reset a stream that it had not answered.
    fn on_refused(&mut self, _port: u16) {}
    /// The peer wrote to a connection's error stream: the text that came at once, in pieces.
    fn on_error_text(&mut self, _port: u16, _text: &[IoSlice<'_>]) {}
    /// A dial failed; the forward must be taken out.
    fn on_dial_failed(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<Self::Conn>,
        index: usize,
        error: DialError,
    );
    /// A connection failed; the forward must be taken out.
    fn on_conn_failed(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<Self::Conn>,
        index: usize,
        error: io::Error,
    );
    /// A connection held up its session; the forward must be taken out.
    fn on_stuck(&mut self, streams: &mut Streams, forwards: &mut Forwards<Self::Conn>, index: usize);
    /// Does what the peer does not ask for. Whether there was anything to do.
    fn poll(
        &mut self,
        _streams: &mut Streams,
        _forwards: &mut Forwards<Self::Conn>,
        _cx: &mut Context<'_>,
    ) -> Result<bool, Ended> {
        Ok(false)
    }
    /// Compares its own times with their limits.
    fn on_tick(&mut self, _streams: &mut Streams, _forwards: &mut Forwards<Self::Conn>) {}
    /// A deadline of its own may pass soon.
    fn wants_ticks(&self) -> bool {
        false
    }
    /// The session ends now; last words to the peer.
    fn on_end(&mut self, _streams: &mut Streams, _forwards: &mut Forwards<Self::Conn>, _why: &Ended) {}
}

/// The protocol's state, and which forward a stream belongs to.
///
/// Invariant: every forward's data stream, and its error stream unless that has been reset, is in `by_id`.
struct Streams {
    spdy: spdy_rs::Connection,
    by_id: HashMap<u32, usize>,
}

impl Streams {
    /// Takes in a forward; `error` is 0 if that stream has not been opened.
    fn insert<C: Connection>(
        &mut self,
        forwards: &mut Forwards<C>,
        port: u16,
        ids: StreamIds,
        phase: Phase<C>,
    ) {
        let index = forwards.insert(port, ids, phase);
        self.by_id.insert(ids.data, index);
        if ids.error != 0 {
            self.by_id.insert(ids.error, index);
        }
    }

    /// Gives the forward of this data stream, which was waiting, its error stream and its dial.
    fn complete<C: Connection>(&mut self, forwards: &mut Forwards<C>, ids: StreamIds, phase: Phase<C>) {
        if let Some(index) = self.by_id.get(&ids.data).copied()
            && let Some(forward) = forwards.forward_mut(index)
        {
            forward.id = ids;
            forward.phase = phase;
            forward.slot.queue();
            self.by_id.insert(ids.error, index);
        }
    }

    /// The forward of this stream, if it is its data stream.
    fn by_data<C: Connection>(&self, forwards: &Forwards<C>, id: u32) -> Option<usize> {
        let index = self.by_id.get(&id).copied()?;
        (forwards.forward(index)?.id.data == id).then_some(index)
    }

    /// Closes what is left of a forward's streams.
    fn close(&mut self, ids: StreamIds) {
        self.by_id.remove(&ids.data);
        self.by_id.remove(&ids.error);
        self.spdy.reset(ids.data, Status::Cancel);
        // The error stream needs its FIN first: old clients close a connection only after that.
        self.spdy.end(ids.error);
    }

    /// Ends a forward so that its pod sees a failure.
    fn abort<C: Connection>(&mut self, forwards: &mut Forwards<C>, index: usize) {
        if let Some(forward) = forwards.take(index) {
            self.close(forward.id);
            forward.abort();
        }
    }
}

/// SPDY on a byte stream.
struct SpdyFraming<W, H> {
    wire: Wire<W>,
    streams: Streams,
    handler: H,
}

impl<W: ClientSocket, H: StreamHandler> SpdyFraming<W, H> {
    fn new(wire: Wire<W>, spdy: spdy_rs::Connection, handler: H) -> Self {
        Self { wire, streams: Streams { spdy, by_id: HashMap::new() }, handler }
    }

    /// The frames' headers and the payload in one write, after whatever waits in the output.
    fn send_frames(&mut self, cx: &mut Context<'_>, id: u32, payload: &[u8], now: Instant) -> io::Result<()> {
        let spdy = &mut self.streams.spdy;
        let mut headers = [[0; 8]; FRAMES];
        let mut slices = [IoSlice::new(&[]); 1 + 2 * FRAMES];
        let mut used = 1;
        for (header, frame) in headers.iter_mut().zip(payload.chunks(FRAME)) {
            // A stream that the client has reset takes nothing; its forward goes with the next event.
            let Ok(made) = spdy.data_header(id, frame.len(), false) else { return Ok(()) };
            *header = made;
            slices[used] = IoSlice::new(header);
            slices[used + 1] = IoSlice::new(frame);
            used += 2;
        }
        slices[0] = IoSlice::new(spdy.output());
        self.wire.send(cx, &mut slices[..used], now)?;
        spdy.clear_output();
        Ok(())
    }

    fn send_output(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<()> {
        if self.wire.poll_flush(cx, now)?.is_pending() || self.streams.spdy.output().is_empty() {
            return Ok(());
        }
        self.wire.send(cx, &mut [IoSlice::new(self.streams.spdy.output())], now)?;
        self.streams.spdy.clear_output();
        let _ = self.wire.poll_flush(cx, now)?;
        Ok(())
    }
}

impl<W: ClientSocket, H: StreamHandler> Framing for SpdyFraming<W, H> {
    type Conn = H::Conn;
    type Id = StreamIds;

    fn is_blocked(&self) -> bool {
        self.wire.is_blocked()
    }

    fn blocked_since(&mut self, _now: Instant) -> Option<Instant> {
        self.wire.blocked_since()
    }

    fn wants_input(&self) -> bool {
        !self.wire.is_blocked() || self.streams.spdy.output().len() <= MAX_CONTROL
    }

    fn lingers(&self) -> bool {
        H::LINGERS
    }

    fn wants_ticks(&self) -> bool {
        self.handler.wants_ticks()
    }

    fn recv(&mut self, engine: &mut EngineOf<Self>, cx: &mut Context<'_>) -> Result<bool, Ended> {
        self.recv_once(engine, cx)
    }

    fn poll(&mut self, engine: &mut EngineOf<Self>, cx: &mut Context<'_>) -> Result<bool, Ended> {
        self.handler.poll(&mut self.streams, engine, cx)
    }

    fn on_tick(&mut self, engine: &mut EngineOf<Self>) {
        self.handler.on_tick(&mut self.streams, engine);
    }

    fn on_dialled(&mut self, ids: &StreamIds) {
        let _ = self.streams.spdy.reply(ids.data); // a stream that was reset has taken its forward with it
    }

    fn on_dial_failed(&mut self, engine: &mut EngineOf<Self>, index: usize, error: DialError) {
        self.handler.on_dial_failed(&mut self.streams, engine, index, error);
    }

    fn on_conn_failed(&mut self, engine: &mut EngineOf<Self>, index: usize, error: io::Error) {
        self.handler.on_conn_failed(&mut self.streams, engine, index, error);
    }

    fn on_stuck(&mut self, engine: &mut EngineOf<Self>, index: usize) {
        self.handler.on_stuck(&mut self.streams, engine, index);
    }

    fn on_pod_end(&mut self, forward: &mut ForwardOf<Self>) {
        let _ = self.streams.spdy.finish(forward.id.data);
        if H::ENDS_ERROR_STREAM {
            let _ = self.streams.spdy.finish(forward.id.error);
        }
    }

    fn on_removed(&mut self, forward: &ForwardOf<Self>) {
        self.streams.close(forward.id);
    }

    fn send(
        &mut self,
        cx: &mut Context<'_>,
        _index: usize,
        ids: &StreamIds,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Ended> {
        self.send_frames(cx, ids.data, payload, now).map_err(Ended::ClientBroke)
    }

    fn flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Ended> {
        self.send_output(cx, now).map_err(Ended::ClientBroke)
    }

    fn on_end(&mut self, engine: &mut EngineOf<Self>, why: &Ended) {
        self.handler.on_end(&mut self.streams, engine, why);
    }

    fn queue_end(&mut self, _why: &Ended) {
        self.streams.spdy.go_away();
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.send_output(cx, Instant::now()).is_err() {
                return Poll::Ready(());
            }
            if self.wire.is_blocked() || self.wire.poll_goodbye(cx).is_pending() {
                return Poll::Pending;
            }
            let mut buf = ReadBuffer::take();
            match self.wire.poll_recv(cx, &mut buf) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
