//! From an endpoint and a request to an open channel.
//!
//! ```text
//!   connect ──► (hybrid: CONNECT, OK) ──► preamble + OPEN ──► preamble + OPENED ──► Channel
//! ```

mod ask;
mod error;
mod hybrid;
mod ports;
mod proof;
mod raw;
mod transport;

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::channel::Channel;
use crate::datagrams::Datagrams;
use crate::descriptor::Descriptor;
use crate::endpoint::Endpoint;
use crate::open::{Listening, Network, Open, Outcome, Refusal, RefusalKind};
use crate::permit::Permit;
use crate::relay_address::RelayAddress;

pub use error::{OpenError, OpenErrorKind};
pub use ports::Ports;

use error::Failure;

/// Time to reach the relay and get its answer, beyond what the request allows for the dial in the guest. Hybrid
/// multiplexers themselves allow 2 s for a connection request.
const REACH: Duration = Duration::from_secs(3);

/// Tries of a dial, all within its time limit, while the relay's preamble does not come: the connection then ended in
/// the relay's backlog, as when the relay is restarted, and was not served.
const TRIES: usize = 5;

/// The pause after the first try. Each further one is twice as long; together they take 0.15 s.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Time for the relay to look up what listens.
const LOOK_UP: Duration = Duration::from_secs(1);

/// The most requests for one list of what listens. An answer that is cut has at least 60 ports, so these are enough for
/// [`Ports::MOST`].
const LOOK_UPS: usize = 20;

/// Reaches the relay at an endpoint and lets it dial what `open` names.
///
/// Takes at most the request's time limit and three seconds for the relay, with up to five tries while no relay has
/// accepted the connection: a pod is dialled once at most. May be dropped at any time: a hybrid
/// handshake that has begun is then finished in the background, since some devices die if it is cut off.
/// Must be called within a tokio runtime.
///
/// # Errors
/// Each kind of [`OpenErrorKind`]; the sentence names the endpoint and the address.
pub async fn dial<'a>(relay: impl Into<RelayAddress<'a>>, open: Open) -> Result<Channel, OpenError> {
    let reached = reach(relay.into(), open).await?;
    Ok(Channel::new(reached.descriptor, reached.permit))
}

/// As [`dial`], for a request of [`Network::Udp`].
///
/// # Errors
/// As [`dial`].
pub async fn dial_datagrams<'a>(
    relay: impl Into<RelayAddress<'a>>,
    open: Open,
) -> Result<Datagrams, OpenError> {
    let reached = reach(relay.into(), open).await?;
    Ok(Datagrams::new(reached.descriptor, reached.permit))
}

/// What listens in the guest: in the pod's own namespace, or in that of a container.
///
/// # Errors
/// As [`dial`].
pub async fn ports<'a>(relay: impl Into<RelayAddress<'a>>, container: &str) -> Result<Ports, OpenError> {
    let (relay, mut ports) = (relay.into(), Ports::default());
    for _ in 0..LOOK_UPS {
        let had = ports.listening.len();
        let open = Open::listening(ports.last(), LOOK_UP).in_container(container);
        let answer = reach(relay, open).await?;
        ports.add(answer.listening.iter().filter_map(ports::from_message));
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
    permit: Option<Permit>,
    listening: Vec<Listening>,
    is_cut: bool,
}

/// Tries until the relay has served the request, or has begun to.
async fn reach(relay: RelayAddress<'_>, open: Open) -> Result<Reached, OpenError> {
    let deadline = Instant::now() + open.timeout() + REACH;
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match try_to_reach(relay, &open, deadline).await {
            Err(Failure::NotServed(_)) => sleep(pause).await,
            reached => return Ok(reached?),
        }
        pause *= 2;
    }
    Ok(try_to_reach(relay, &open, deadline).await?)
}

async fn try_to_reach(relay: RelayAddress<'_>, open: &Open, deadline: Instant) -> Result<Reached, Failure> {
    let endpoint = relay.endpoint;
    let (descriptor, permit) = connect(endpoint, deadline).await?;
    let asking = proof::ask_with_proof(&descriptor, relay, open);
    match within(deadline, endpoint, "the relay's answer", asking).await? {
        Outcome::Served { listening, is_cut } => Ok(Reached { descriptor, permit, listening, is_cut }),
        Outcome::Refused(refusal) => Err(failed(endpoint, open, &refusal).into()),
        Outcome::ProofAsked { .. } => {
            let cause = format!("{endpoint}: the relay asks for proof of the token again");
            Err(OpenError::new(OpenErrorKind::RelayUnusable, cause).into())
        }
    }
}

/// A connection to the relay on which nothing has been sent yet.
async fn connect(endpoint: &Endpoint, deadline: Instant) -> Result<(Descriptor, Option<Permit>), OpenError> {
    let connecting = transport::connect(endpoint);
    let Endpoint::Hybrid { path, port } = endpoint else {
        return Ok((within(deadline, endpoint, "the connection", connecting).await?, None));
    };
    let permit = Permit::take(path)
        .map_err(|cause| OpenError::new(OpenErrorKind::Busy, format!("{endpoint}: {cause}")))?;
    let descriptor = within(deadline, endpoint, "the connection", connecting).await?;
    let shake = hybrid::handshake(descriptor, endpoint, *port, permit);
    let (descriptor, permit) = within(deadline, endpoint, "the multiplexer's OK", shake).await?;
    Ok((descriptor, Some(permit)))
}

async fn within<T, E: From<OpenError>>(
    deadline: Instant,
    endpoint: &Endpoint,
    what: &str,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout_at(deadline, step).await.unwrap_or_else(|_| {
        let cause = format!(
            "{endpoint}: {what} did not come in time; the guest may be paused, still booting, or without a relay"
        );
        Err(OpenError::new(OpenErrorKind::RelayNotReady, cause).into())
    })
}

/// The relay's refusal as an error of the host's.
fn failed(endpoint: &Endpoint, open: &Open, refusal: &Refusal) -> OpenError {
    let kind = match refusal.kind {
        RefusalKind::Refused => OpenErrorKind::Refused,
        RefusalKind::Unreachable => OpenErrorKind::Unreachable,
        RefusalKind::TimedOut => OpenErrorKind::TimedOut,
        RefusalKind::Denied => OpenErrorKind::Denied,
        RefusalKind::Unsupported | RefusalKind::Invalid => OpenErrorKind::BadEndpoint,
        RefusalKind::Busy => OpenErrorKind::Busy,
        RefusalKind::Version => OpenErrorKind::RelayUnusable,
        RefusalKind::Internal | RefusalKind::Unknown(_) => OpenErrorKind::Internal,
    };
    let text = if refusal.text.is_empty() { "the relay gives no reason" } else { &refusal.text };
    let cause = match open.network() {
        Network::Listening => format!("the relay at {endpoint} could not list what listens: {text}"),
        _ => format!("{}: the relay at {endpoint} could not dial it: {text}", open.address),
    };
    OpenError::new(kind, cause)
}
