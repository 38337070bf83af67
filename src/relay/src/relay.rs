//! The loop: accepts, gives every connection its turn, keeps the time.

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

/// Events taken from the kernel at once; the others wait for the next call.
const EVENTS: usize = 256;

/// Connections accepted at a listener before the others have their turn.
const ACCEPTS: usize = 64;

/// How long a listener rests after a failed accept. What is used up (descriptors, memory) comes back with the end
/// of some connection, which nobody announces.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two looks at all deadlines, since each costs a walk through all connections.
const DEADLINE_STEP: Duration = Duration::from_millis(20);

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Connections beyond the limit that are told so. More than these wait in the backlog.
const BUSY: usize = 64;

/// A relay's limits, and where its log lines go.
#[derive(Debug, Clone)]
pub struct Config {
    /// Connections at once.
    pub connections: usize,
    /// Time for a request to come.
    pub open: Duration,
    /// The most time for a dial, whatever the request allows.
    pub dial: Duration,
    /// Time for the host to close a connection that is over.
    pub linger: Duration,
    /// Time without a datagram after which a UDP association ends.
    pub idle: Duration,
    /// What may be dialled; without rules, loopback addresses.
    pub rules: Vec<Rule>,
    /// How containers are found; by default not at all.
    pub containers: Containers,
    /// What the host must prove to have. None: nothing.
    pub token: Option<channel::Token>,
    /// Whom vsock listeners serve, besides the host: a context id, for tests.
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

/// One write, so that lines stay whole. Where standard error is gone, there is nobody to tell.
fn say(line: Arguments<'_>) {
    let _ = io::stderr().write_all(format!("gangplank-relay: {line}\n").as_bytes());
}

/// Why a relay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// An address cannot be listened at: it is taken, not allowed, or vsock is not there.
    #[error("cannot listen at {listen}: {cause}")]
    Listen {
        /// The address.
        listen: Listen,
        /// What the system says.
        cause: io::Error,
    },
    /// Nothing to listen at.
    #[error("no address to listen at: give at least one, such as vsock://1024")]
    NoListener,
    /// The system refused what the loop needs.
    #[error("the relay cannot go on: {0}")]
    System(#[from] io::Error),
}

impl From<Errno> for RelayError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// What an event of epoll is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Stop,
    Deadline,
    Listener(u32),
    Host(u32),
    Pod(u32),
}

impl From<Token> for EventData {
    fn from(token: Token) -> Self {
        let (tag, index) = match token {
            Token::Stop => (0, 0),
            Token::Deadline => (0, 1),
            Token::Listener(index) => (1, index),
            Token::Host(index) => (2, index),
            Token::Pod(index) => (3, index),
        };
        Self::new_u64(u64::from(index) << 2 | tag)
    }
}

impl From<EventData> for Token {
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
    /// Ends it. Twice is as good as once.
    pub fn stop(&self) {
        // A full counter is readable as well.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// The descriptor to which a signal handler may write eight bytes, not all zero.
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
    /// Says when something has taken long enough. No deadline is earlier.
    deadline: Timer,
    /// Until when the listeners rest.
    resting: Option<Instant>,
    /// An accept has failed since nobody waited last, and that was said.
    is_short: bool,
    /// A stranger has connected, and that was said.
    had_stranger: bool,
    connections: Connections,
    /// Those that have something to do.
    queue: Vec<u32>,
    scratch: Box<[u8]>,
    /// The most bytes of one write to a host.
    packet: usize,
}

impl Relay {
    /// Listens at all these addresses. Connections wait until [`run`](Self::run).
    ///
    /// # Errors
    /// An address that cannot be listened at, or a system without descriptors or memory.
    pub fn bind(listen: &[Listen], config: Config) -> Result<Self, RelayError> {
        if listen.is_empty() {
            return Err(RelayError::NoListener);
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let stopper = Stopper(Arc::new(rustix::event::eventfd(0, flags)?));
        epoll::add(&epoll, &stopper.0, Token::Stop.into(), EventFlags::IN)?;
        let deadline = Timer::new()?;
        epoll::add(&epoll, &deadline, Token::Deadline.into(), EventFlags::IN)?;
        let mut listeners = Vec::with_capacity(listen.len());
        for (index, listen) in (0..).zip(listen) {
            let listener = Listener::bind(listen, config.extra_cid)
                .map_err(|cause| RelayError::Listen { listen: listen.clone(), cause })?;
            epoll::add(&epoll, &listener, Token::Listener(index).into(), EventFlags::IN)?;
            listeners.push(listener);
        }
        Ok(Self {
            config,
            epoll,
            stopper,
            listeners,
            deadline,
            resting: None,
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

    /// Serves until the stopper is used. Then every connection is reset, both ways.
    ///
    /// # Errors
    /// epoll itself fails.
    pub fn run(mut self) -> Result<(), RelayError> {
        self.announce();
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            // Whoever had more to do than a turn goes on at once.
            let timeout = (!self.queue.is_empty()).then_some(&NOW);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut is_time = false;
            for event in &events {
                match Token::from(event.data) {
                    Token::Stop => {
                        self.shut_down();
                        return Ok(());
                    }
                    Token::Deadline => is_time = true,
                    Token::Listener(index) => self.accept(index as usize),
                    Token::Host(index) => self.note(index, false, event.flags),
                    Token::Pod(index) => self.note(index, true, event.flags),
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

    /// One turn for each in the queue. A connection is removed only here and in `keep_time`, after all events were
    /// noted, so that no event meets another connection with the same number; or in its first turn, when no event
    /// that was taken from epoll can be its own.
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

    /// Says to the host that somebody listens here, where it might wait for that.
    fn announce(&self) {
        announce(self.listeners.iter().filter_map(Listener::vsock_port).collect());
    }

    /// Ends what has taken too long.
    fn keep_time(&mut self) {
        self.deadline.went_off();
        let now = Instant::now();
        match self.resting {
            Some(until) if until <= now => self.rest(None),
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
                return self.rest(Some(Instant::now() + ACCEPT_PAUSE));
            }
            match self.listeners[index].accept() {
                Ok(Accepted::Host(host)) => self.add(host),
                Ok(Accepted::Stranger) => self.note_stranger(index),
                Ok(Accepted::Gone) => {}
                Ok(Accepted::Nobody) => {
                    self.is_short = false;
                    return;
                }
                Err(error) => return self.fail_accept(index, error),
            }
        }
    }

    /// Said once: a stranger may come as often as it likes.
    fn note_stranger(&mut self, index: usize) {
        if !std::mem::replace(&mut self.had_stranger, true) {
            let listen = self.listeners[index].listen();
            (self.config.log)(format_args!(
                "somebody other than the host connected to {listen} and was turned away; no more is said of such"
            ));
        }
    }

    fn fail_accept(&mut self, index: usize, error: Errno) {
        if !std::mem::replace(&mut self.is_short, true) {
            let listen = self.listeners[index].listen();
            (self.config.log)(format_args!(
                "cannot accept at {listen} ({error}); trying again until it works"
            ));
        }
        self.rest(Some(Instant::now() + ACCEPT_PAUSE));
    }

    fn add(&mut self, host: OwnedFd) {
        let deadline = Instant::now() + self.config.open;
        let is_full = self.connections.len() >= self.config.connections;
        let index = self.connections.insert(Connection::new(host, self.packet, deadline));
        let Some(connection) = self.connections.get(index) else { return };
        if let Err(error) = connection.host().watch(self.epoll.as_fd(), Token::Host(index)) {
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

    /// Lets all listeners rest, or wakes them.
    fn rest(&mut self, until: Option<Instant>) {
        self.resting = until;
        if let Some(until) = until {
            self.deadline.expect(until);
        }
        let interest = if until.is_some() { EventFlags::empty() } else { EventFlags::IN };
        for (index, listener) in (0..).zip(&self.listeners) {
            // Known to epoll since bind, so this cannot fail; if it did, the next accept would say so.
            let _ = epoll::modify(&self.epoll, listener, Token::Listener(index).into(), interest);
        }
    }

    fn shut_down(&mut self) {
        let living = self.connections.len();
        self.connections.drain().for_each(Connection::shut_down);
        (self.config.log)(format_args!("ending; {living} connections were open"));
    }
}
