//! What a session speaks with its client: how forwarded connections share one socket.

use std::io;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::Ended;
use super::engine::Engine;
use super::forward::Forward;
use crate::dial::{Connection, DialError};

/// The engine of a framing.
pub(super) type EngineOf<F> = Engine<<F as Framing>::Conn, <F as Framing>::Id>;

/// A forward of a framing.
pub(super) type ForwardOf<F> = Forward<<F as Framing>::Conn, <F as Framing>::Id>;

/// One way to carry many connections over the client's socket, which it owns.
///
/// The [`Engine`] keeps the forwards and everything that is alike for all framings: budget, turns, deadlines,
/// statistics. A framing takes what the client sends apart and hands it to the engine, writes what pods send, and
/// says in its own way that a connection was made, ended or failed. It never touches a pod's connection. Whatever
/// takes a forward out of the engine must close the client's side of it too, as [`Framing::remove`] does.
pub(super) trait Framing: Sized + Unpin {
    /// A pod's end of a forward.
    type Conn: Connection;
    /// What the client calls a forward, if not by its index.
    type Id: Unpin;

    // State.

    /// Something waits for the client, so no pod is read.
    fn is_blocked(&self) -> bool;

    /// When the client last took something of what waits for it.
    fn blocked_since(&mut self, now: Instant) -> Option<Instant>;

    /// Whether the client should be read, as far as the framing is concerned.
    fn wants_input(&self) -> bool;

    /// Whether a connection whose pod has ended waits only a limited time for the client's end.
    fn lingers(&self) -> bool {
        true
    }

    /// A deadline of the framing's own may pass soon.
    fn wants_ticks(&self) -> bool {
        false
    }

    /// Whether pods still get what the client sent before the session ended for this reason, and then an orderly
    /// end. Otherwise their connections are aborted.
    fn delivers_after(&self, _why: &Ended) -> bool {
        false
    }

    // From the client.

    /// Reads the client once and handles what came. Whether anything did. At most [`Engine::room`] bytes may be
    /// read, unless a message can only be taken whole.
    fn recv(&mut self, engine: &mut EngineOf<Self>, cx: &mut Context<'_>) -> Result<bool, Ended>;

    /// Does what neither the client nor a pod asks for. Whether there was anything to do.
    fn poll(&mut self, _engine: &mut EngineOf<Self>, _cx: &mut Context<'_>) -> Result<bool, Ended> {
        Ok(false)
    }

    /// Compares the framing's own times with their limits.
    fn on_tick(&mut self, _engine: &mut EngineOf<Self>) {}

    // What happens to forwards.

    /// A dial has succeeded.
    fn on_dialled(&mut self, _id: &Self::Id) {}

    /// A dial failed; the forward must be removed.
    fn on_dial_failed(&mut self, engine: &mut EngineOf<Self>, index: usize, error: DialError);

    /// The pod's connection failed; the forward must be removed.
    fn on_conn_failed(&mut self, engine: &mut EngineOf<Self>, index: usize, error: io::Error);

    /// The pod does not read and held up the session; the forward must be removed.
    fn on_stuck(&mut self, engine: &mut EngineOf<Self>, index: usize);

    /// The pod has ended its direction.
    fn on_pod_end(&mut self, forward: &mut ForwardOf<Self>);

    /// A forward was taken out: closes the client's side of it.
    fn on_removed(&mut self, forward: &ForwardOf<Self>);

    // To the client.

    /// Sends a pod's payload, at most one read buffer of it. The framing is not blocked; it keeps what the client
    /// does not take.
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        index: usize,
        id: &Self::Id,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Ended>;

    /// Sends what waits, as far as the client takes it.
    fn flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Ended>;

    /// The session ends: tells the client why, where the forwards have a place for that.
    fn on_end(&mut self, engine: &mut EngineOf<Self>, why: &Ended);

    /// Queues the last frame, behind everything else.
    fn queue_end(&mut self, why: &Ended);

    /// Sends what is left and drops what still comes, until the client closes too.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    // Provided.

    /// Takes a forward out.
    fn remove(&mut self, engine: &mut EngineOf<Self>, index: usize) -> Option<ForwardOf<Self>> {
        let forward = engine.take(index)?;
        self.on_removed(&forward);
        Some(forward)
    }

    /// Ends a forward so that its pod sees a failure.
    fn abort(&mut self, engine: &mut EngineOf<Self>, index: usize) {
        if let Some(forward) = self.remove(engine, index) {
            forward.abort();
        }
    }

    /// Takes a forward out if nothing more can happen to it.
    fn remove_if_done(&mut self, engine: &mut EngineOf<Self>, index: usize) {
        if engine.forward(index).is_some_and(Forward::is_done) {
            self.remove(engine, index);
        }
    }
}
