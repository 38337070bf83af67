//! From an endpoint and a request to an open channel.

mod error;

use crate::{Channel, Endpoint, Open};

pub use error::{DialError, DialErrorKind};

/// Reaches the relay at `endpoint` and lets it dial what `open` names.
///
/// Takes at most the request's time limit plus a little for the way to the relay. May be dropped at any time:
/// what the transport needs to be left in peace is finished in the background (see the hybrid handshake).
///
/// # Errors
/// Each kind of [`DialErrorKind`]; the sentence names the endpoint and the address.
pub async fn dial(endpoint: &Endpoint, open: Open) -> Result<Channel, DialError> {
    let _ = open;
    Err(DialError::new(DialErrorKind::Internal, format!("dialling {endpoint} is not built yet")))
}
