//! Asking a relay, with the mutual proof of a token if there is one.

use super::ask::ask;
use super::error::{DialError, DialErrorKind, Failure};
use crate::descriptor::Descriptor;
use crate::endpoint::Endpoint;
use crate::open::{Kind, Open, Opened};
use crate::relay_address::RelayAddress;
use crate::token::{self, NONCE_LEN, Token};

/// Gives the relay's answer to the request, never one that asks for proof.
pub(super) async fn ask_with_proof(
    descriptor: &Descriptor,
    relay: RelayAddress<'_>,
    open: &Open,
) -> Result<Opened, Failure> {
    let endpoint = relay.endpoint;
    let opened = ask(descriptor, endpoint, open).await?;
    let asks = opened.kind == Kind::Proof as i32;
    match relay.token {
        Some(token) if asks => Ok(prove(descriptor, endpoint, token, open, &opened).await?),
        // What it says of versions must be heard, whatever it is.
        Some(_) if opened.kind != Kind::Version as i32 => {
            let cause =
                format!("{endpoint}: the relay does not ask for the token; start it with --token-file");
            Err(DialError::new(DialErrorKind::RelayUnusable, cause).into())
        }
        None if asks => {
            let cause =
                format!("{endpoint}: the relay asks for proof of a token, and none is configured for it");
            Err(DialError::new(DialErrorKind::Denied, cause).into())
        }
        _ => Ok(opened),
    }
}

async fn prove(
    descriptor: &Descriptor,
    endpoint: &Endpoint,
    token: &Token,
    open: &Open,
    challenge: &Opened,
) -> Result<Opened, DialError> {
    let unusable =
        |what| DialError::new(DialErrorKind::RelayUnusable, format!("{endpoint}: the relay {what}"));
    if challenge.nonce.len() != NONCE_LEN {
        return Err(unusable("asks for proof of a token without a nonce"));
    }
    let nonce = token::nonce().map_err(|error| {
        DialError::new(DialErrorKind::Internal, format!("this machine gives no random bytes ({error})"))
    })?;
    let opened = ask(descriptor, endpoint, &token.prove(open, &challenge.nonce, &nonce)).await?;
    // A relay with another token denies the proof, and has none of its own.
    let is_denied = opened.kind == Kind::Denied as i32;
    if is_denied || token.is_proved_by_answer(&opened, &challenge.nonce, &nonce) {
        Ok(opened)
    } else {
        Err(unusable("does not prove the token: it has another one, or is none of ours"))
    }
}
