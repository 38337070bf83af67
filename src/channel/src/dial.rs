//! From an endpoint and a request to an open channel.
//!
//! ```text
//!   connect ──► (hybrid: CONNECT, OK) ──► preamble + OPEN ──► preamble + OPENED ──► Channel
//! ```

mod error;
mod hybrid;
mod listening;
mod proof;
mod seat;
mod transport;

use std::future::Future;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::time::{Instant, timeout_at};

use crate::channel::{Descriptor, watch_writing};
use crate::open::{Kind, Network, Open, Opened, Opening, Opens};
use crate::{Channel, Datagrams, Endpoint, Way};

pub use error::{DialError, DialErrorKind};
pub use listening::Ports;
pub(crate) use seat::Seat;

/// Time for the way to the relay and back, beyond what the request allows for the dial in the guest. Hybrid
/// multiplexers give a connection request 2 s themselves.
const WAY: Duration = Duration::from_secs(3);

/// Time for the relay to look up what listens.
const LOOK_UP: Duration = Duration::from_secs(1);

/// Answers asked for, one after the other, of what listens: each has some 60 ports at least, so this is more than
/// [`Ports::MOST`] take.
const LOOK_UPS: usize = 20;

/// Reaches the relay at an endpoint and lets it dial what `open` names.
///
/// Takes at most the request's time limit and three seconds for the way. May be dropped at any time: a hybrid
/// handshake that has begun is then finished in the background, since a device may die of its being cut off.
/// Must be called within a tokio runtime.
///
/// # Errors
/// Each kind of [`DialErrorKind`]; the sentence names the endpoint and the address.
pub async fn dial<'a>(way: impl Into<Way<'a>>, open: Open) -> Result<Channel, DialError> {
    let reached = reach(way.into(), open).await?;
    Ok(Channel::new(reached.descriptor, reached.seat))
}

/// As [`dial`], for a request of [`Network::Udp`].
///
/// # Errors
/// As [`dial`].
pub async fn dial_datagrams<'a>(way: impl Into<Way<'a>>, open: Open) -> Result<Datagrams, DialError> {
    let reached = reach(way.into(), open).await?;
    Ok(Datagrams::new(reached.descriptor, reached.seat))
}

/// What listens in the guest: in the pod's own namespace, or in that of a container.
///
/// # Errors
/// As [`dial`].
pub async fn ports<'a>(way: impl Into<Way<'a>>, container: &str) -> Result<Ports, DialError> {
    let (way, mut ports) = (way.into(), Ports::default());
    for _ in 0..LOOK_UPS {
        let had = ports.listening.len();
        let open = Open::listening(ports.last(), LOOK_UP).in_container(container);
        let answer = reach(way, open).await?.opened;
        ports.add(answer.listening.iter().filter_map(listening::from_message));
        if !answer.is_cut || ports.is_cut {
            return Ok(ports);
        }
        if ports.listening.len() == had {
            break;
        }
    }
    ports.is_cut = true;
    Ok(ports)
}

/// A connection on which OPENED has just been read, and nothing after it.
struct Reached {
    descriptor: Descriptor,
    opened: Opened,
    seat: Option<Seat>,
}

async fn reach(way: Way<'_>, open: Open) -> Result<Reached, DialError> {
    let endpoint = way.endpoint;
    let deadline = Instant::now() + open.timeout() + WAY;
    let (descriptor, seat) = connect(endpoint, deadline).await?;
    let asking = proof::ask(&descriptor, way, &open);
    let opened = within(deadline, endpoint, "the relay's answer", asking).await?;
    match opened.kind() {
        Kind::Connected if opened.kind == Kind::Connected as i32 => Ok(Reached { descriptor, opened, seat }),
        kind => Err(failed(endpoint, &open, kind, &opened)),
    }
}

/// A connection to the relay on which nothing was said yet.
async fn connect(endpoint: &Endpoint, deadline: Instant) -> Result<(Descriptor, Option<Seat>), DialError> {
    let connecting = transport::connect(endpoint);
    let Endpoint::Hybrid { path, port } = endpoint else {
        return Ok((within(deadline, endpoint, "the connection", connecting).await?, None));
    };
    let seat = Seat::take(path)
        .map_err(|cause| DialError::new(DialErrorKind::Busy, format!("{endpoint}: {cause}")))?;
    let descriptor = within(deadline, endpoint, "the connection", connecting).await?;
    let shake = hybrid::handshake(descriptor, endpoint, *port, seat);
    let (descriptor, seat) = within(deadline, endpoint, "the multiplexer's OK", shake).await?;
    Ok((descriptor, Some(seat)))
}

async fn within<T>(
    deadline: Instant,
    endpoint: &Endpoint,
    what: &str,
    step: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    timeout_at(deadline, step).await.unwrap_or_else(|_| {
        let cause = format!(
            "{endpoint}: {what} did not come in time; the guest may be paused, still booting, or without a relay"
        );
        Err(DialError::new(DialErrorKind::RelayNotReady, cause))
    })
}

/// Sends the request and reads the answer, and not a byte more.
async fn ask(descriptor: &Descriptor, endpoint: &Endpoint, open: &Open) -> Result<Opened, DialError> {
    let broken = |error: io::Error| {
        let cause =
            format!("{endpoint}: the connection broke before the relay's answer ({error}); is it running?");
        DialError::new(DialErrorKind::RelayNotReady, cause)
    };
    write_all(descriptor, &open.opening()).await.map_err(broken)?;
    let mut opening = Opening::<Opened>::default();
    let mut buffer = [0; 256];
    loop {
        let wanted = opening.wanted().min(buffer.len());
        let len = read(descriptor, &mut buffer[..wanted], RecvFlags::empty()).await.map_err(broken)?;
        if len == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match opening.handle(&buffer[..len]) {
            Ok(None) => {}
            Ok(Some(opened)) => return Ok(opened),
            Err(error) => {
                let cause = format!("{endpoint}: what answers there is of no use: {error}");
                return Err(DialError::new(DialErrorKind::RelayUnusable, cause));
            }
        }
    }
}

/// The relay's refusal, as ours.
fn failed(endpoint: &Endpoint, open: &Open, kind: Kind, opened: &Opened) -> DialError {
    let kind = match kind {
        Kind::Refused => DialErrorKind::Refused,
        Kind::Unreachable => DialErrorKind::Unreachable,
        Kind::TimedOut => DialErrorKind::TimedOut,
        Kind::Denied => DialErrorKind::Denied,
        Kind::Unsupported | Kind::Invalid => DialErrorKind::BadEndpoint,
        Kind::Busy => DialErrorKind::Busy,
        Kind::Version => DialErrorKind::RelayUnusable,
        // A kind that this side does not know decodes as Connected; one that asks for proof was dealt with.
        Kind::Internal | Kind::Proof | Kind::Connected => DialErrorKind::Internal,
    };
    let text = if opened.text.is_empty() { "the relay gives no reason" } else { &opened.text };
    let cause = match open.network() {
        Network::Listening => format!("the relay at {endpoint} could not tell what listens: {text}"),
        _ => format!("{}: the relay at {endpoint} could not dial it: {text}", open.address),
    };
    DialError::new(kind, cause)
}

/// Reads once; 0 is the end.
async fn read(descriptor: &Descriptor, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    descriptor
        .async_io(Interest::READABLE, |fd| {
            retry(|| rustix::net::recv(fd, &mut *into, flags)).map(|(len, _)| len)
        })
        .await
}

async fn write_all(descriptor: &Descriptor, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match retry(|| rustix::net::send(descriptor.get_ref(), bytes, SendFlags::NOSIGNAL)) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                drop(watch_writing(descriptor.get_ref())?.writable().await?);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    rustix::io::retry_on_intr(call).map_err(|error: Errno| error.into())
}
