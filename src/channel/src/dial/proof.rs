//! Asking a relay, with the mutual proof of a token if there is one.

use super::ask::ask;
use super::error::{Failure, OpenError, OpenErrorKind};
use crate::descriptor::Descriptor;
use crate::endpoint::Endpoint;
use crate::open::{Open, Outcome, Refusal, RefusalKind};
use crate::relay_address::RelayAddress;
use crate::token::{self, NONCE_LEN, Token};

/// Gives the relay's answer to the request, once the token is proved if there is one.
pub(super) async fn ask_with_proof(
    descriptor: &Descriptor,
    relay: RelayAddress<'_>,
    open: &Open,
) -> Result<Outcome, Failure> {
    let endpoint = relay.endpoint;
    match (relay.token, ask(descriptor, endpoint, open).await?.into()) {
        (Some(token), Outcome::ProofAsked { nonce }) => {
            Ok(prove(descriptor, endpoint, token, open, &nonce).await?)
        }
        // Another version cannot ask in a way that this one understands, and says so.
        (Some(_), outcome) if !is_refused(&outcome, RefusalKind::Version) => {
            let cause =
                format!("{endpoint}: the relay does not ask for the token; start it with --token-file");
            Err(OpenError::new(OpenErrorKind::RelayUnusable, cause).into())
        }
        (None, Outcome::ProofAsked { .. }) => {
            let cause =
                format!("{endpoint}: the relay asks for proof of a token, and none is configured for it");
            Err(OpenError::new(OpenErrorKind::Denied, cause).into())
        }
        (_, outcome) => Ok(outcome),
    }
}

fn is_refused(outcome: &Outcome, as_kind: RefusalKind) -> bool {
    matches!(outcome, Outcome::Refused(Refusal { kind, .. }) if *kind == as_kind)
}

async fn prove(
    descriptor: &Descriptor,
    endpoint: &Endpoint,
    token: &Token,
    open: &Open,
    challenge: &[u8],
) -> Result<Outcome, OpenError> {
    let unusable =
        |what| OpenError::new(OpenErrorKind::RelayUnusable, format!("{endpoint}: the relay {what}"));
    if challenge.len() != NONCE_LEN {
        return Err(unusable("asks for proof of a token without a nonce"));
    }
    let nonce = token::nonce().map_err(|error| {
        OpenError::new(OpenErrorKind::Internal, format!("this machine has no random bytes ({error})"))
    })?;
    let opened = ask(descriptor, endpoint, &token.prove(open, challenge, &nonce)).await?;
    let is_proved = token.is_proved_by_answer(&opened, challenge, &nonce);
    let outcome = opened.into();
    // A relay with another token denies the proof, and has none of its own.
    if is_proved || is_refused(&outcome, RefusalKind::Denied) {
        Ok(outcome)
    } else {
        Err(unusable("does not prove the token: it has another token, or is not ours"))
    }
}
