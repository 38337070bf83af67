//! Feeding a connection, and collecting its events.

use spdy_rs::{Connection, Error, Event};

/// An [`Event`] that owns its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Opened { id: u32, headers: Vec<(String, String)>, fin: bool },
    Replied { id: u32, fin: bool },
    Data { id: u32, payload: Vec<u8>, fin: bool },
    Reset { id: u32, status: u32 },
    Pinged,
    Ponged { id: u32 },
    GoAway { last: u32, status: u32 },
}

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Opened { id, headers, fin } => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = headers.iter().map(|(name, value)| (text(name), text(value))).collect();
                Self::Opened { id, headers, fin }
            }
            Event::Replied { id, fin } => Self::Replied { id, fin },
            Event::Data { id, payload, fin } => Self::Data { id, payload: payload.to_vec(), fin },
            Event::Reset { id, status } => Self::Reset { id, status },
            Event::Pinged => Self::Pinged,
            Event::Ponged { id } => Self::Ponged { id },
            Event::GoAway { last, status } => Self::GoAway { last, status },
        }
    }
}

/// All events that the connection finds in `bytes`, up to its error if there is one.
pub(crate) fn hear(connection: &mut Connection, bytes: &[u8]) -> (Vec<Heard>, Option<Error>) {
    hear_in_pieces(connection, bytes, [])
}

/// The same, with the bytes cut into pieces of these lengths; the last piece is the rest.
pub(crate) fn hear_in_pieces(
    connection: &mut Connection,
    mut bytes: &[u8],
    lengths: impl IntoIterator<Item = usize>,
) -> (Vec<Heard>, Option<Error>) {
    let mut heard = Vec::new();
    let mut lengths = lengths.into_iter();
    while !bytes.is_empty() {
        let (mut piece, rest) = bytes.split_at(lengths.next().unwrap_or(bytes.len()).min(bytes.len()));
        bytes = rest;
        loop {
            match connection.recv(&mut piece) {
                Ok(Some(event)) => add(&mut heard, event.into()),
                Ok(None) => break,
                Err(error) => return (heard, Some(error)),
            }
        }
        assert!(piece.is_empty(), "recv gave None with {} bytes left", piece.len());
    }
    (heard, None)
}

/// Adds an event to the list. Data that continues the previous event is merged into it, since it does not matter where
/// payload is cut.
pub(crate) fn add(heard: &mut Vec<Heard>, next: Heard) {
    if let (
        Some(Heard::Data { id, payload, fin: fin @ false }),
        Heard::Data { id: next_id, payload: next_payload, fin: next_fin },
    ) = (heard.last_mut(), &next)
        && id == next_id
    {
        payload.extend_from_slice(next_payload);
        *fin = *next_fin;
    } else {
        heard.push(next);
    }
}
