//! The event loop: accepts connections, gives each its turn, and keeps the time.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gangplank_podnet::{Containers, Rule};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;

use crate::announce::announce;
use crate::connection::{Connection, Turn, Verdict};
use crate::connections::Connections;
use crate::listen::{Accepted, Listen, Listener};
use crate::moving::SCRATCH;
use crate::packet;
use crate::timer::Timer;

/// Events taken from the kernel at once; others wait for the next call.
const EVENTS: usize = 256;

/// Connections accepted at one listener before others have their turn.
const ACCEPTS: usize = 64;

/// How long listeners pause after a failed accept. Descriptors and memory come back when some connection ends, in any
/// process, and nothing reports that.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two checks of all deadlines, as each walks through all connections.
const DEADLINE_STEP: Duration = Duration::from_millis(20);

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Connections beyond the limit that are refused with a reason. Others wait in the backlog.
const BUSY: usize = 64;

/// A relay's limits and rules, and where its log lines go.
#[derive(Debug, Clone)]
pub struct Config {
    /// The most connections at once.
    pub connections: usize,
    /// Time for a host to send its request.
    pub open: Duration,
    /// The most time for a dial, whatever the request allows.
    pub dial: Duration,
    /// Time for the host to close a connection that is over.
    pub linger: Duration,
    /// Time without a datagram after which a UDP association ends.
    pub idle: Duration,
    /// What may be dialled. Where no rule matches, loopback addresses are.
    pub rules: Vec<Rule>,
    /// How containers are found; by default not at all.
    pub containers: Containers,
    /// The token that the host must prove to have, if any.
    pub token: Option<gangplank_channel::Token>,
    /// A context id that vsock listeners serve besides the host, for tests.
    pub extra_cid: Option<u32>,
    /// Takes a log line.
    pub log: fn(Arguments<'_>),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections: 4_096,
            open: Duration::from_secs(10),
            dial: Duration::from_secs(60),
            linger: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            rules: Vec::new(),
            containers: Containers::default(),
            token: None,
            extra_cid: None,
            log: say,
        }
    }
}

/// One write, so that lines stay whole. If standard error is gone, no one can be told.
fn say(line: Arguments<'_>) {
    let _ = io::stderr().write_all(format!("gangplank-relay: {line}\n").as_bytes());
}

/// Why a relay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The relay cannot listen at an address: it is in use or not allowed, or there is no vsock.
    #[error("cannot listen at {listen}: {cause}")]
    Listen {
        /// The address.
        listen: Listen,
        /// The system's error.
        cause: io::Error,
    },
    /// No address to listen at.
    #[error("no address to listen at: give at least one, such as vsock://1024")]
    NoListener,
    /// The system refused what the loop needs.
    #[error("the relay cannot continue: {0}")]
    System(io::Error),
}

impl From<io::Error> for RelayError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for RelayError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKey {
    Stop,
    Deadline,
    Listener(u32),
    Host(u32),
    Pod(u32),
}

impl From<EventKey> for EventData {
    fn from(key: EventKey) -> Self {
        let (tag, index) = match key {
            EventKey::Stop => (0, 0),
            EventKey::Deadline => (0, 1),
            EventKey::Listener(index) => (1, index),
            EventKey::Host(index) => (2, index),
            EventKey::Pod(index) => (3, index),
        };
        Self::new_u64(u64::from(index) << 2 | tag)
    }
}

impl From<EventData> for EventKey {
    fn from(data: EventData) -> Self {
        let index = (data.u64() >> 2) as u32;
        match data.u64() & 3 {
            0 if index == 0 => Self::Stop,
            0 => Self::Deadline,
            1 => Self::Listener(index),
            2 => Self::Host(index),
            _ => Self::Pod(index),
        }
    }
}

/// Ends a relay's [`run`](Relay::run), from any thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<OwnedFd>);

impl Stopper {
    /// Ends it. Calling this again does nothing.
    pub fn stop(&self) {
        // A full counter is readable as well.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// The descriptor to which a signal handler may write eight bytes that are not all zero.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// A relay that listens.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    epoll: OwnedFd,
    stopper: Stopper,
    listeners: Vec<Listener>,
    /// Goes off at the earliest deadline, or before it.
    deadline: Timer,
    /// When the listeners' pause ends.
    paused_until: Option<Instant>,
    /// An accept has failed since the backlog was last empty, and that was logged.
    is_short: bool,
    /// A stranger has connected, and that was logged.
    had_stranger: bool,
    connections: Connections,
    /// Connections that have something to do.
    queue: Vec<u32>,
    scratch: Box<[u8]>,
    /// The most bytes of one write to a host.
    packet: usize,
}

impl Relay {
    /// Listens at these addresses. Connections wait until [`run`](Self::run).
    ///
    /// # Errors
    /// The relay cannot listen at an address, or the system is out of descriptors or memory.
    pub fn bind(listen: &[Listen], config: Config) -> Result<Self, RelayError> {
        if listen.is_empty() {
            return Err(RelayError::NoListener);
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let stopper = Stopper(Arc::new(rustix::event::eventfd(0, flags)?));
        epoll::add(&epoll, &stopper.0, EventKey::Stop.into(), EventFlags::IN)?;
        let deadline = Timer::new()?;
        epoll::add(&epoll, &deadline, EventKey::Deadline.into(), EventFlags::IN)?;
        let mut listeners = Vec::with_capacity(listen.len());
        for (index, listen) in (0..).zip(listen) {
            let listener = Listener::bind(listen, config.extra_cid)
                .map_err(|cause| RelayError::Listen { listen: listen.clone(), cause })?;
            epoll::add(&epoll, &listener, EventKey::Listener(index).into(), EventFlags::IN)?;
            listeners.push(listener);
        }
        Ok(Self {
            config,
            epoll,
            stopper,
            listeners,
            deadline,
            paused_until: None,
            is_short: false,
            had_stranger: false,
            connections: Connections::default(),
            queue: Vec::new(),
            scratch: vec![0; SCRATCH].into(),
            packet: packet::most(),
        })
    }

    /// What ends [`run`](Self::run).
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves until the stopper is used. Then every connection is reset at both ends.
    ///
    /// # Errors
    /// epoll itself fails.
    pub fn run(mut self) -> Result<(), RelayError> {
        self.announce();
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            // A connection that used up its turn continues at once.
            let timeout = (!self.queue.is_empty()).then_some(&NOW);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut is_time = false;
            for event in &events {
                match EventKey::from(event.data) {
                    EventKey::Stop => {
                        self.shut_down();
                        return Ok(());
                    }
                    EventKey::Deadline => is_time = true,
                    EventKey::Listener(index) => self.accept(index as usize),
                    EventKey::Host(index) => self.note(index, false, event.flags),
                    EventKey::Pod(index) => self.note(index, true, event.flags),
                }
            }
            if is_time {
                self.keep_time();
            }
            self.take_turns();
        }
    }

    fn note(&mut self, index: u32, is_pod: bool, flags: EventFlags) {
        if let Some(connection) = self.connections.get(index) {
            connection.note(is_pod, flags);
            if !std::mem::replace(&mut connection.is_queued, true) {
                self.queue.push(index);
            }
        }
    }

    /// Gives each connection in the queue one turn. A connection is removed only here and in `keep_time`, after all events were
    /// noted, so that no event reaches another connection with the same number; or in its first turn, before any event
    /// of its own can have been taken from epoll.
    fn take_turns(&mut self) {
        for index in std::mem::take(&mut self.queue) {
            self.take_turn(index, Connection::proceed);
        }
    }

    fn take_turn(&mut self, index: u32, act: impl FnOnce(&mut Connection, &mut Turn<'_>) -> Verdict) {
        let Some(connection) = self.connections.get(index) else { return };
        connection.is_queued = false;
        let (config, scratch) = (&self.config, &mut *self.scratch);
        let verdict = act(connection, &mut Turn { epoll: self.epoll.as_fd(), index, config, scratch });
        if verdict == Verdict::More {
            connection.is_queued = true;
            self.queue.push(index);
        }
        let deadline = connection.deadline();
        if matches!(verdict, Verdict::Close | Verdict::CutOff) {
            self.connections.remove(index);
            if verdict == Verdict::CutOff && self.connections.len() == 0 {
                self.announce();
            }
        } else if let Some(deadline) = deadline {
            self.deadline.expect(deadline);
        }
    }

    /// Tells the host that the relay is here, in case it waits for that.
    fn announce(&self) {
        announce(self.listeners.iter().filter_map(Listener::vsock_port).collect());
    }

    /// Ends what has taken too long.
    fn keep_time(&mut self) {
        self.deadline.went_off();
        let now = Instant::now();
        match self.paused_until {
            Some(until) if until <= now => self.pause(None),
            Some(until) => self.deadline.expect(until),
            None => {}
        }
        let (due, next) = self.connections.due(now);
        if let Some(next) = next {
            self.deadline.expect(next.max(now + DEADLINE_STEP));
        }
        for index in due {
            self.take_turn(index, Connection::expire);
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS {
            if self.connections.len() >= self.config.connections + BUSY {
                return self.pause(Some(Instant::now() + ACCEPT_PAUSE));
            }
            match self.listeners[index].accept() {
                Ok(Accepted::Host(host)) => self.add(host),
                Ok(Accepted::Stranger) => self.note_stranger(index),
                Ok(Accepted::Gone) => {}
                Ok(Accepted::Empty) => {
                    self.is_short = false;
                    return;
                }
                Err(error) => return self.fail_accept(index, error),
            }
        }
    }

    /// Logs only the first: a stranger may come as often as it likes.
    fn note_stranger(&mut self, index: usize) {
        if !std::mem::replace(&mut self.had_stranger, true) {
            let listen = self.listeners[index].listen();
            (self.config.log)(format_args!(
                "refused a connection to {listen} that is not from the host; further ones are not logged"
            ));
        }
    }

    fn fail_accept(&mut self, index: usize, error: Errno) {
        if !std::mem::replace(&mut self.is_short, true) {
            let listen = self.listeners[index].listen();
            (self.config.log)(format_args!(
                "cannot accept connections at {listen} ({error}); trying again until it works"
            ));
        }
        self.pause(Some(Instant::now() + ACCEPT_PAUSE));
    }

    fn add(&mut self, host: OwnedFd) {
        let deadline = Instant::now() + self.config.open;
        let is_full = self.connections.len() >= self.config.connections;
        let index = self.connections.insert(Connection::new(host, self.packet, deadline));
        let Some(connection) = self.connections.get(index) else { return };
        if let Err(error) = connection.host().watch(self.epoll.as_fd(), EventKey::Host(index)) {
            (self.config.log)(format_args!("cannot watch a new connection ({error}); it was closed"));
            return self.connections.remove(index);
        }
        self.deadline.expect(deadline);
        if is_full {
            self.take_turn(index, |connection, turn| {
                connection.refuse_busy(turn);
                Verdict::Wait
            });
        } else {
            self.take_turn(index, Connection::begin);
        }
    }

    /// Pauses all listeners, or resumes them.
    fn pause(&mut self, until: Option<Instant>) {
        self.paused_until = until;
        if let Some(until) = until {
            self.deadline.expect(until);
        }
        let interest = if until.is_some() { EventFlags::empty() } else { EventFlags::IN };
        for (index, listener) in (0..).zip(&self.listeners) {
            // epoll knows it since `bind`, so this cannot fail.
            let _ = epoll::modify(&self.epoll, listener, EventKey::Listener(index).into(), interest);
        }
    }

    fn shut_down(&mut self) {
        let living = self.connections.len();
        self.connections.drain().for_each(Connection::shut_down);
        (self.config.log)(format_args!("stopping; {living} connections were open"));
    }
}
