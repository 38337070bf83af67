//! The relay's answer in our own terms. Only this file knows how protobuf says it.

use super::{Kind, Listening, Opened};
use crate::frame;

/// What an [`Opened`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The request was served: the address is connected, or this is what listens.
    Served {
        /// Only in the answer to a request for what listens.
        listening: Vec<Listening>,
        /// Whether more ports follow in the list.
        is_cut: bool,
    },
    /// The relay asks for proof of a token.
    ProofAsked {
        /// The relay's nonce.
        nonce: Vec<u8>,
    },
    /// The request was not served.
    Refused(Refusal),
}

/// Why a relay does not serve a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which kind of failure.
    pub kind: RefusalKind,
    /// The error by Linux' numbers, 0 if there is none.
    pub errno: i32,
    /// One sentence.
    pub text: String,
}

/// Kinds of refusals (proto/channel.proto).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalKind {
    /// Nothing listens at the address.
    Refused,
    /// No route to the address, or no such namespace.
    Unreachable,
    /// No answer within the time limit.
    TimedOut,
    /// A rule of the relay forbids it, or the token is not proved.
    Denied,
    /// The relay does not support what was asked for.
    Unsupported,
    /// A malformed request.
    Invalid,
    /// The relay has all the connections that it may have.
    Busy,
    /// The relay speaks another major version.
    Version,
    /// A fault of the guest or of the relay.
    Internal,
    /// A kind that this version does not know: a failure all the same.
    Unknown(i32),
}

impl Refusal {
    /// A refusal of this kind, with its errno or 0. A text that would not fit is cut.
    pub fn new(kind: RefusalKind, errno: i32, text: &str) -> Self {
        Self { kind, errno, text: frame::cut(text).to_owned() }
    }

    /// The message for the host.
    pub fn opened(&self) -> Opened {
        let (kind, text) = (self.kind.number(), self.text.clone());
        Opened { kind, errno: self.errno, text, ..Opened::default() }
    }
}

impl RefusalKind {
    fn number(self) -> i32 {
        let kind = match self {
            Self::Refused => Kind::Refused,
            Self::Unreachable => Kind::Unreachable,
            Self::TimedOut => Kind::TimedOut,
            Self::Denied => Kind::Denied,
            Self::Unsupported => Kind::Unsupported,
            Self::Invalid => Kind::Invalid,
            Self::Busy => Kind::Busy,
            Self::Version => Kind::Version,
            Self::Internal => Kind::Internal,
            Self::Unknown(number) => return number,
        };
        kind.into()
    }
}

impl From<Opened> for Outcome {
    fn from(opened: Opened) -> Self {
        // Not `opened.kind()`, which takes an unknown number for the default: connected.
        let kind = match Kind::try_from(opened.kind) {
            Ok(Kind::Connected) => {
                return Self::Served { listening: opened.listening, is_cut: opened.is_cut };
            }
            Ok(Kind::Proof) => return Self::ProofAsked { nonce: opened.nonce },
            Ok(Kind::Refused) => RefusalKind::Refused,
            Ok(Kind::Unreachable) => RefusalKind::Unreachable,
            Ok(Kind::TimedOut) => RefusalKind::TimedOut,
            Ok(Kind::Denied) => RefusalKind::Denied,
            Ok(Kind::Unsupported) => RefusalKind::Unsupported,
            Ok(Kind::Invalid) => RefusalKind::Invalid,
            Ok(Kind::Busy) => RefusalKind::Busy,
            Ok(Kind::Version) => RefusalKind::Version,
            Ok(Kind::Internal) => RefusalKind::Internal,
            Err(_) => RefusalKind::Unknown(opened.kind),
        };
        Self::Refused(Refusal { kind, errno: opened.errno, text: opened.text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_goes_there_and_back_and_an_unknown_one_is_a_refusal() {
        let proof = i32::from(Kind::Proof);
        for number in (-1..64).filter(|&number| number != 0 && number != proof) {
            let opened = Opened { kind: number, errno: 7, text: "why".to_owned(), ..Opened::default() };
            let Outcome::Refused(refusal) = Outcome::from(opened.clone()) else { panic!("{number}") };
            assert_eq!(refusal.opened(), opened);
            let is_known = Kind::try_from(number).is_ok();
            assert_eq!(matches!(refusal.kind, RefusalKind::Unknown(_)), !is_known, "{number}");
        }
        assert!(matches!(Outcome::from(Opened::connected()), Outcome::Served { .. }));
    }
}
