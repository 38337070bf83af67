//! A connection from the host, from its first byte to its close.
//!
//! ```text
//!   Opening ── OPEN ──► Dialling ── connected: OPENED ──► Moving ── both ended ──┐
//!      │                   │                                 │                   ▼
//!      └── refused ────────┴── failed: OPENED ───────────────┴── RESET ──► Lingering ── host closes ──► gone
//! ```
//!
//! The host's EOF ends every state. A state that waits for the host, the dial or a datagram has a deadline.

use std::fmt::Arguments;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use gangplank_channel::errno::EACCES;
use gangplank_channel::frame::MAX_OPENING;
use gangplank_channel::open::{
    Kind, Network, Open, Opened, Opening, OpeningError, Opens, Refusal, RefusalKind,
};
use gangplank_channel::preamble::{PREAMBLE_LEN, VERSION};
use gangplank_channel::token::{self, Nonce};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use crate::dialling::{Dialling, Progress};
use crate::leftover::Leftover;
use crate::listening;
use crate::moving::{End, Moving};
use crate::relay::{Config, EventKey};
use crate::requested;
use crate::side::Side;

#[derive(Debug)]
pub(crate) struct Connection {
    host: Side,
    to_host: Leftover,
    state: State,
    deadline: Option<Instant>,
    preamble: Preamble,
    /// The nonces with which the answer proves the token, once the host has proved it.
    proved: Option<Box<Proved>>,
    /// Whether it is in the queue of those that have something to do.
    pub(crate) is_queued: bool,
}

/// How this side's preamble reaches the host. It goes before the relay waits for anything, so that the host knows of
/// a connection that ends without it that nothing was dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preamble {
    /// Not sent yet.
    Due,
    /// Sent alone: the first answer goes without.
    Sent,
    /// Each answer carries its own. The first one's was Due: it saves a packet and a wake of the host where the
    /// answer is there at once, as it mostly is.
    WithAnswer,
}

#[derive(Debug)]
struct Proved {
    relay: Nonce,
    host: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Opening {
        opening: Opening<Open>,
        /// What was sent if the host has been asked to prove the token.
        challenge: Option<Box<Nonce>>,
    },
    Dialling(Dialling),
    Moving(Moving),
    /// Nothing more is said; what comes is dropped. The host closes first, since some multiplexers lose the
    /// tail of what a guest sent that closes first.
    Lingering,
}

/// What a connection needs of its relay.
pub(crate) struct Turn<'a> {
    pub(crate) epoll: BorrowedFd<'a>,
    pub(crate) index: u32,
    pub(crate) config: &'a Config,
    pub(crate) scratch: &'a mut [u8],
}

/// What a connection's turn has come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing to do until epoll says so.
    Wait,
    /// More to do: another turn, after the others'.
    More,
    /// Gone.
    Close,
    /// Gone without its end: by the host's reset, or with the host or the device.
    CutOff,
}

impl Connection {
    /// A connection of which epoll is about to know, and the most bytes of one write to its host.
    pub(crate) fn new(host: OwnedFd, packet: usize, deadline: Instant) -> Self {
        Self {
            host: Side::host(host, packet),
            to_host: Leftover::default(),
            state: State::Opening { opening: Opening::default(), challenge: None },
            deadline: Some(deadline),
            preamble: Preamble::Due,
            proved: None,
            is_queued: false,
        }
    }

    /// The host's socket, of which epoll is to be told.
    pub(crate) fn host(&self) -> &Side {
        &self.host
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes what epoll says of a side.
    pub(crate) fn note(&mut self, is_pod: bool, flags: EventFlags) {
        if !is_pod {
            return self.host.note(flags);
        }
        match &mut self.state {
            State::Dialling(dialling) => {
                if let Some(pod) = dialling.pod() {
                    pod.note(flags);
                }
            }
            State::Moving(moving) => moving.pod().note(flags),
            State::Opening { .. } | State::Lingering => {}
        }
    }

    /// The first turn, at once: the request is often there before epoll could say so.
    pub(crate) fn begin(&mut self, turn: &mut Turn<'_>) -> Verdict {
        self.host.note(EventFlags::IN);
        self.proceed(turn)
    }

    /// Does what can be done now.
    pub(crate) fn proceed(&mut self, turn: &mut Turn<'_>) -> Verdict {
        let verdict = self.advance(turn);
        if verdict == Verdict::Wait && self.preamble == Preamble::Due {
            self.preamble = Preamble::Sent;
            // A failure here is one of reading, too.
            let _ = self.to_host.send(&mut self.host, &VERSION.encode());
        }
        match self.watch_room(turn) {
            Ok(()) => verdict,
            Err(error) => {
                turn.log(format_args!("cannot watch a connection any longer ({error}); it was closed"));
                Verdict::Close
            }
        }
    }

    /// Has epoll say when sockets that are full have room.
    fn watch_room(&mut self, turn: &Turn<'_>) -> Result<(), Errno> {
        self.host.watch_room(turn.epoll, EventKey::Host(turn.index))?;
        match &mut self.state {
            State::Moving(moving) => moving.pod().watch_room(turn.epoll, EventKey::Pod(turn.index)),
            State::Opening { .. } | State::Dialling(_) | State::Lingering => Ok(()),
        }
    }

    fn advance(&mut self, turn: &mut Turn<'_>) -> Verdict {
        if let State::Opening { .. } = self.state
            && let Some(verdict) = self.proceed_opening(turn)
        {
            return verdict;
        }
        if let State::Dialling(_) = self.state
            && let Some(verdict) = self.proceed_dialling(turn)
        {
            return verdict;
        }
        match self.proceed_moving(turn) {
            Ok(true) => return Verdict::More,
            Ok(false) => return Verdict::Wait,
            Err(None) => {}
            Err(Some(end)) => {
                self.end(&end, turn);
                if matches!(end, End::HostGone) {
                    return Verdict::CutOff;
                }
            }
        }
        self.proceed_lingering(turn)
    }

    /// Whether there is more to move, or the end; none where nothing is moved any more.
    fn proceed_moving(&mut self, turn: &mut Turn<'_>) -> Result<bool, Option<End>> {
        let State::Moving(moving) = &mut self.state else { return Err(None) };
        let more = moving.proceed(&mut self.host, &mut self.to_host, turn.scratch)?;
        if moving.take_passed() {
            self.deadline = Some(Instant::now() + turn.config.idle);
        }
        Ok(more)
    }

    /// Ends what has taken too long.
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) -> Verdict {
        match &self.state {
            State::Opening { .. } => {
                let waited = turn.config.open;
                turn.log(format_args!("a connection sent no request within {waited:?} and was closed"));
                Verdict::Close
            }
            State::Dialling(dialling) => {
                let refusal = dialling.timed_out();
                self.refuse(&refusal, turn);
                Verdict::More
            }
            // Only datagrams have a deadline here.
            State::Moving(_) => {
                self.end(&End::Idle, turn);
                Verdict::More
            }
            State::Lingering => Verdict::Close,
        }
    }

    /// Answers without looking at the request: the relay is full.
    pub(crate) fn refuse_busy(&mut self, turn: &mut Turn<'_>) {
        let most = turn.config.connections;
        let text = format!("the relay has {most} connections, as many as it may; close some and try again");
        self.refuse(&Refusal::new(RefusalKind::Busy, 0, &text), turn);
    }

    /// Ends everything because the relay ends: the pod gets a RST, the host a RESET if it can be told.
    pub(crate) fn shut_down(mut self) {
        if let Some(reset) = abort(self.state, &End::Stopping) {
            let _ = self.to_host.send(&mut self.host, &reset);
        }
    }

    /// None: go on with the next state.
    fn proceed_opening(&mut self, turn: &mut Turn<'_>) -> Option<Verdict> {
        loop {
            let State::Opening { opening, .. } = &mut self.state else { return None };
            // More than any request has, so that one read takes it and what must not follow it.
            let len = match self.host.read(&mut turn.scratch[..2 * MAX_OPENING]) {
                Ok(None) => return Some(Verdict::Wait),
                Ok(Some(0)) | Err(_) => return Some(Verdict::Close),
                Ok(Some(len)) => len,
            };
            match opening.handle(&turn.scratch[..len]) {
                Ok(None) => {}
                Ok(Some(open)) if self.is_trusted(&open, turn) => {
                    self.dial(&open, turn);
                    return None;
                }
                // Asked for proof, or refused.
                Ok(Some(_)) => {}
                Err(error) => {
                    turn.log(format_args!("a request was refused: {error}"));
                    let kind = match error {
                        OpeningError::NotAChannel(_) => return Some(Verdict::Close),
                        OpeningError::Version(_) => RefusalKind::Version,
                        _ => RefusalKind::Invalid,
                    };
                    self.refuse(&Refusal::new(kind, 0, &error.to_string()), turn);
                    return None;
                }
            }
        }
    }

    /// Whether the request may be served. Where that takes the proof of a token, asks for it at the first request
    /// and refuses a second that is without.
    fn is_trusted(&mut self, open: &Open, turn: &mut Turn<'_>) -> bool {
        let Some(token) = &turn.config.token else { return true };
        let State::Opening { opening, challenge } = &mut self.state else { return false };
        let refusal = match challenge.take() {
            Some(relay) if token.is_proved_by(open, &relay) => {
                self.proved = Some(Box::new(Proved { relay: *relay, host: open.nonce.clone() }));
                return true;
            }
            Some(_) => {
                turn.log(format_args!("a host does not prove the token and was refused"));
                let text = "the token is not proved: host and guest have different ones";
                Refusal::new(RefusalKind::Denied, EACCES, text)
            }
            None => match token::nonce() {
                Ok(nonce) => {
                    (*opening, *challenge) = (Opening::default(), Some(Box::new(nonce)));
                    let text = "this relay asks for proof of a token: configure it at the host";
                    let opened = Opened::failed(Kind::Proof, 0, text).with_nonce(&nonce);
                    self.send_opening(&opened);
                    return false;
                }
                Err(error) => {
                    let text = format!("the guest has no random bytes ({error})");
                    Refusal::new(RefusalKind::Internal, 0, &text)
                }
            },
        };
        self.refuse(&refusal, turn);
        false
    }

    fn dial(&mut self, open: &Open, turn: &mut Turn<'_>) {
        let namespaces = || requested::namespaces(&open.container, &turn.config.containers);
        if open.network() == Network::Listening {
            return match namespaces().and_then(|namespaces| listening::answer(&namespaces, &open.address)) {
                Ok(opened) => self.answer(&opened, turn),
                Err(refusal) => self.refuse(&refusal, turn),
            };
        }
        let addresses = requested::addresses(open, &turn.config.rules);
        match addresses.and_then(|addresses| Ok((addresses, namespaces()?))) {
            Ok((addresses, namespaces)) => {
                self.state = State::Dialling(Dialling::new(addresses, namespaces));
                self.deadline = Some(Instant::now() + open.timeout().min(turn.config.dial));
                self.advance_dial(turn);
            }
            Err(refusal) => {
                turn.log(format_args!("a dial of {} was refused: {}", open.address, refusal.text));
                self.refuse(&refusal, turn);
            }
        }
    }

    /// None: go on with the next state.
    fn proceed_dialling(&mut self, turn: &mut Turn<'_>) -> Option<Verdict> {
        match self.host.read(&mut turn.scratch[..1]) {
            Ok(None) => {}
            Ok(Some(0)) | Err(_) => return Some(Verdict::Close),
            Ok(Some(_)) => {
                turn.log(format_args!("the host sent something before the answer to its request"));
                return Some(Verdict::Close);
            }
        }
        self.advance_dial(turn);
        matches!(self.state, State::Dialling(_)).then_some(Verdict::Wait)
    }

    fn advance_dial(&mut self, turn: &mut Turn<'_>) {
        let State::Dialling(dialling) = &mut self.state else { return };
        match dialling.proceed() {
            Progress::Waiting => {}
            Progress::Started => {
                if let Some(pod) = dialling.pod()
                    && let Err(error) = turn.watch_pod(pod)
                {
                    let refusal = dialling.failed(error);
                    self.refuse(&refusal, turn);
                }
            }
            Progress::Connected { pod, is_known, is_of_datagrams } => {
                self.connected(pod, is_known, is_of_datagrams, turn);
            }
            Progress::Failed(refusal) => self.refuse(&refusal, turn),
        }
    }

    fn connected(&mut self, pod: Side, is_known: bool, is_of_datagrams: bool, turn: &mut Turn<'_>) {
        if !is_known && let Err(error) = turn.watch_pod(&pod) {
            let text = format!("the relay cannot watch another connection ({error})");
            return self.refuse(&Refusal::new(RefusalKind::Internal, error.raw_os_error(), &text), turn);
        }
        let (moving, deadline) = if is_of_datagrams {
            // Nothing but silence may ever say that an association is over.
            (Moving::datagrams(pod), Some(Instant::now() + turn.config.idle))
        } else {
            (Moving::stream(pod), None)
        };
        self.state = State::Moving(moving);
        self.deadline = deadline;
        self.send_opened(&Opened::connected(), turn);
    }

    /// Says why not, and nothing more.
    fn refuse(&mut self, refusal: &Refusal, turn: &Turn<'_>) {
        self.answer(&refusal.opened(), turn);
    }

    /// Says this and nothing more.
    fn answer(&mut self, opened: &Opened, turn: &Turn<'_>) {
        self.send_opened(opened, turn);
        self.linger(turn);
    }

    fn send_opened(&mut self, opened: &Opened, turn: &Turn<'_>) {
        match (self.proved.take(), &turn.config.token) {
            (Some(proved), Some(token)) => {
                self.send_opening(&token.prove_answer(opened.clone(), &proved.relay, &proved.host));
            }
            _ => self.send_opening(opened),
        }
    }

    fn send_opening(&mut self, opened: &Opened) {
        let bytes = opened.opening();
        let has_preamble = std::mem::replace(&mut self.preamble, Preamble::WithAnswer) == Preamble::Sent;
        let from = if has_preamble { PREAMBLE_LEN } else { 0 };
        // A failure here is one of reading, too.
        let _ = self.to_host.send(&mut self.host, &bytes[from..]);
    }

    fn end(&mut self, end: &End, turn: &Turn<'_>) {
        if let End::Violation(violation) = end {
            turn.log(format_args!("the host broke the channel's protocol: it sent {violation}"));
        }
        if let Some(reset) = abort(std::mem::replace(&mut self.state, State::Lingering), end) {
            let _ = self.to_host.send(&mut self.host, &reset);
        }
        self.linger(turn);
    }

    fn linger(&mut self, turn: &Turn<'_>) {
        self.state = State::Lingering;
        self.deadline = Some(Instant::now() + turn.config.linger);
    }

    fn proceed_lingering(&mut self, turn: &mut Turn<'_>) -> Verdict {
        if self.to_host.flush(&mut self.host).is_err() {
            return Verdict::Close;
        }
        match self.host.read(turn.scratch) {
            Ok(None) => Verdict::Wait,
            Ok(Some(0)) | Err(_) => Verdict::Close,
            Ok(Some(_)) => Verdict::More,
        }
    }
}

/// Ends what moves bytes by force; gives the RESET for the host, if it is to get one.
fn abort(state: State, end: &End) -> Option<Vec<u8>> {
    match state {
        State::Moving(moving) => moving.abort(end),
        State::Opening { .. } | State::Dialling(_) | State::Lingering => None,
    }
}

impl Turn<'_> {
    fn watch_pod(&self, pod: &Side) -> Result<(), Errno> {
        pod.watch(self.epoll, EventKey::Pod(self.index))
    }

    fn log(&self, line: Arguments<'_>) {
        (self.config.log)(line);
    }
}
