//! The streams of one connection.

use crate::stream::Stream;

/// Entries for which capacity is kept when streams end. An idle session has a few.
const KEPT_ROOM: usize = 16;

/// The streams that are not over, sorted by id.
///
/// A sorted list, because only one side opens streams and its ids only grow, so a new one goes to the end. It takes eight
/// bytes a stream, and a lookup takes a few nanoseconds: a fifth of a hash map that resists collisions, which it would
/// have to, since the peer chooses the ids. Removing a stream moves those behind it, 8 KiB at worst by default.
///
/// Invariant: ids strictly increase.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    list: Vec<(u32, Stream)>,
}

impl Streams {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Stream> {
        self.list.get(self.find(id)?).map(|(_, stream)| stream)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        let at = self.find(id)?;
        self.list.get_mut(at).map(|(_, stream)| stream)
    }

    /// Adds a stream whose id is greater than all others.
    pub(crate) fn push(&mut self, id: u32, stream: Stream) {
        debug_assert!(self.list.last().is_none_or(|(last, _)| *last < id), "ids only grow");
        self.list.push((id, stream));
    }

    /// Forgets a stream. Returns whether it existed.
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        let Some(at) = self.find(id) else { return false };
        self.list.remove(at);
        // A burst of streams must not cost memory for the rest of the session.
        if self.list.capacity() > KEPT_ROOM.max(4 * self.list.len()) {
            self.list.shrink_to(KEPT_ROOM.max(2 * self.list.len()));
        }
        true
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.list.binary_search_by_key(&id, |(id, _)| *id).ok()
    }
}
