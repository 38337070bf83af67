//! The workloads: each uses a session and returns the time it took.

use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::session::{Session, WRITE};
use gangplank_e2e::bulk::{self as pod, Port, RIGHT};

/// A workload that is measured in rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Work {
    /// The pod sends
    Download,
    /// The pod receives
    Upload,
    /// New connections one after another, for one byte each
    Connect,
    /// One byte to the pod and back, over one connection
    RoundTrip,
}

impl Work {
    pub(crate) const ALL: [Work; 4] = [Work::Download, Work::Upload, Work::Connect, Work::RoundTrip];
}

/// Receives this many bytes, and returns the time from the request to the last byte.
pub(crate) fn download(session: &mut dyn Session, bytes: u64) -> Result<Duration> {
    let check = bytes <= pod::CHECKED;
    let conn = session.open(Port::Source)?;
    let start = Instant::now();
    session.send(conn, &bytes.to_be_bytes())?;
    let mut done = 0;
    while done < bytes {
        let piece = session.receive(conn)?;
        if piece.is_empty() {
            return Err(Error::Contender(format!("a download of {bytes} bytes ended after {done}")));
        }
        if check && !pod::is_right(done, piece) {
            return Err(Error::Contender(format!(
                "a download differs from what the pod sent, from byte {done} on"
            )));
        }
        done += piece.len() as u64;
    }
    let took = start.elapsed();
    session.finish(conn)?;
    Ok(took)
}

/// Sends this many bytes, and returns the time until the pod confirms that it has them all.
pub(crate) fn upload(session: &mut dyn Session, bytes: u64) -> Result<Duration> {
    let pattern = pod::pattern();
    let conn = session.open(Port::Sink)?;
    let start = Instant::now();
    session.send(conn, &bytes.to_be_bytes())?;
    let mut left = bytes;
    while left > 0 {
        let chunk = &pattern[..left.min(pattern.len() as u64) as usize];
        for piece in chunk.chunks(WRITE) {
            session.send(conn, piece)?;
        }
        left -= chunk.len() as u64;
    }
    let answer = session.receive(conn)?.to_vec();
    let took = start.elapsed();
    if answer != [RIGHT] {
        return Err(Error::Contender(format!(
            "the pod did not receive an upload as it was sent: {answer:?}"
        )));
    }
    session.finish(conn)?;
    Ok(took)
}

/// Opens a connection, and returns the time until one byte has arrived.
pub(crate) fn connect(session: &mut dyn Session) -> Result<Duration> {
    let start = Instant::now();
    let conn = session.open(Port::Source)?;
    session.send(conn, &1u64.to_be_bytes())?;
    let got = session.receive(conn)?.len();
    let took = start.elapsed();
    if got != 1 {
        return Err(Error::Contender(format!("a new connection gave {got} bytes instead of one")));
    }
    session.finish(conn)?;
    Ok(took)
}

/// Opens a connection that stays open, and sends one byte back and forth to prove that it works.
pub(crate) fn open_echo(session: &mut dyn Session) -> Result<usize> {
    let conn = session.open(Port::Echo)?;
    round_trip(session, conn)?;
    Ok(conn)
}

/// Sends one byte to the pod and back.
pub(crate) fn round_trip(session: &mut dyn Session, conn: usize) -> Result<Duration> {
    let start = Instant::now();
    session.send(conn, &[42])?;
    let answer = session.receive(conn)?;
    if answer != [42] {
        return Err(Error::Contender(format!("the echo of [42] was {answer:?}")));
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::TcpSession;

    #[test]
    fn every_workload_runs_without_anything_in_between() {
        let mut session = TcpSession::new(pod::start().unwrap(), None);
        download(&mut session, 1 << 20).unwrap();
        upload(&mut session, 1 << 20).unwrap();
        connect(&mut session).unwrap();
        let conn = open_echo(&mut session).unwrap();
        round_trip(&mut session, conn).unwrap();
    }

    #[test]
    fn a_wrong_port_is_detected() {
        let ports = pod::start().unwrap().all();
        // The ports of source and echo are swapped, so the download gets its own request back.
        let mut session = TcpSession::new(pod::Ports::new([ports[2], ports[1], ports[0]]), None);
        let wrong = download(&mut session, 8).unwrap_err();
        assert!(wrong.to_string().contains("differs from what the pod sent"), "{wrong}");
    }
}
