//! The connections of a relay, by number.

use std::time::Instant;

use crate::connection::Connection;

/// A slab: a number belongs to a connection until that is removed, and is then reused.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
}

impl Connections {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, connection: Connection) -> u32 {
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(connection);
            return index;
        }
        self.slots.push(Some(connection));
        (self.slots.len() - 1) as u32
    }

    pub(crate) fn get(&mut self, index: u32) -> Option<&mut Connection> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && slot.take().is_some()
        {
            self.free.push(index);
        }
    }

    /// The numbers of those whose time is up, and when the next one's is.
    pub(crate) fn due(&self, now: Instant) -> (Vec<u32>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (index, slot) in self.slots.iter().enumerate() {
            match slot.as_ref().and_then(Connection::deadline) {
                Some(deadline) if deadline <= now => due.push(index as u32),
                Some(deadline) => next = Some(next.map_or(deadline, |next| next.min(deadline))),
                None => {}
            }
        }
        (due, next)
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Connection> {
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().flatten()
    }
}
