//! Records what passes through a CRI socket, call by call.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::parts;
use crate::process::{LIMIT, Process};

/// A running recorder. Dropping it ends it.
pub struct Recorder {
    process: Process,
    socket: PathBuf,
    log: PathBuf,
}

impl Recorder {
    /// Starts one in this folder, which passes everything from its socket on to this one.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(name: &str, dir: &Path, upstream: &Path) -> Self {
        let [socket, log] = ["sock", "calls"].map(|extension| dir.join(format!("{name}.{extension}")));
        let mut process = Process::start(name, &parts::program("recorder"), dir, |command| {
            command.args([socket.as_path(), upstream, &log]);
        });
        process.wait_until("it takes connections", |_| UnixStream::connect(&socket).ok());
        Self { process, socket, log }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// All calls that have ended, one per line, with all headers, bytes and trailers.
    ///
    /// # Panics
    /// If it has written no text.
    pub fn calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).expect("a log");
        // The last line may be incomplete.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits until the calls satisfy the condition, and returns them.
    ///
    /// # Panics
    /// If they do not within the limit.
    pub fn await_calls(&mut self, what: &str, condition: impl Fn(&[String]) -> bool) -> Vec<String> {
        let started = Instant::now();
        loop {
            let calls = self.calls();
            if condition(&calls) {
                return calls;
            }
            assert!(self.process.is_alive(), "the recorder ended: {}", self.process.output());
            let methods: Vec<_> = calls.iter().map(|call| method(call)).collect();
            assert!(started.elapsed() < LIMIT, "not {what} after {LIMIT:?}; these were called: {methods:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// The method of a recorded call.
pub fn method(call: &str) -> &str {
    let uri = call.split(' ').nth(1).unwrap_or_default();
    uri.rsplit('/').next().unwrap_or_default()
}
