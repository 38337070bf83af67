//! A secret that host and guest share, proved by each to the other without being sent.
//!
//! ```text
//!   host                                 relay
//!    OPEN ─────────────────────────────►
//!    ◄───────────── OPENED (KIND_PROOF, its nonce)
//!    OPEN (own nonce, proof of the host) ►          HMAC-SHA256 of both nonces and the request
//!    ◄───────────── OPENED (proof of the relay)     HMAC-SHA256 of both nonces and the answer's kind
//! ```

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::open::{Open, Opened};

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 32;

/// The least bytes of a token, so that it cannot be guessed, and the most, so that it is not another kind of file.
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 4_096;

/// Random bytes that are used once.
pub type Nonce = [u8; NONCE_LEN];

/// Fresh random bytes.
///
/// # Errors
/// A system without randomness.
pub fn nonce() -> io::Result<Nonce> {
    let mut nonce = [0; NONCE_LEN];
    // The system call itself. The crate getrandom asks the C library for it, does not find it in a static program,
    // and then needs what not every guest has: /dev. So few bytes come all at once (random(7)).
    let len = rustix::io::retry_on_intr(|| {
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())
    })?;
    if len == NONCE_LEN { Ok(nonce) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A shared secret. Its bytes are never shown.
#[derive(Clone)]
pub struct Token(Vec<u8>);

/// Why a token cannot be used. The file is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token: {0}")]
    Read(io::Error),
    /// Too short to be a secret, or too long to be a token.
    #[error(
        "a token has {MIN_TOKEN} to {MAX_TOKEN} bytes, this one {0}: write one with `head -c 32 /dev/urandom | base64`"
    )]
    Length(usize),
}

impl From<io::Error> for TokenError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl Token {
    /// Takes a token; white space at its ends does not count.
    ///
    /// # Errors
    /// [`TokenError::Length`].
    pub fn new(bytes: &[u8]) -> Result<Self, TokenError> {
        let bytes = bytes.trim_ascii();
        if (MIN_TOKEN..=MAX_TOKEN).contains(&bytes.len()) {
            Ok(Self(bytes.to_vec()))
        } else {
            Err(TokenError::Length(bytes.len()))
        }
    }

    /// Reads a token from a file.
    ///
    /// # Errors
    /// The file cannot be read, or does not hold a token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(2 * MAX_TOKEN as u64).read_to_end(&mut bytes)?;
        Self::new(&bytes)
    }

    /// The request with the host's proof, for a relay that has sent this nonce.
    pub fn prove(&self, open: &Open, relay: &[u8], host: &Nonce) -> Open {
        let proof = self.of_host(open, relay, host).finalize().into_bytes().to_vec();
        Open { nonce: host.to_vec(), proof, ..open.clone() }
    }

    /// Whether a request proves the token, in constant time.
    pub fn is_proved_by(&self, open: &Open, relay: &Nonce) -> bool {
        open.nonce.len() == NONCE_LEN
            && self.of_host(open, relay, &open.nonce).verify_slice(&open.proof).is_ok()
    }

    /// The answer with the relay's proof.
    pub fn prove_answer(&self, opened: Opened, relay: &[u8], host: &[u8]) -> Opened {
        let proof = self.of_relay(&opened, relay, host).finalize().into_bytes().to_vec();
        Opened { proof, ..opened }
    }

    /// Whether an answer proves the token, in constant time.
    pub fn is_proved_by_answer(&self, opened: &Opened, relay: &[u8], host: &Nonce) -> bool {
        self.of_relay(opened, relay, host).verify_slice(&opened.proof).is_ok()
    }

    fn of_host(&self, open: &Open, relay: &[u8], host: &[u8]) -> Hmac<Sha256> {
        let (network, timeout) = (open.network.to_be_bytes(), open.timeout_ms.to_be_bytes());
        let (container, address) = (open.container.as_bytes(), open.address.as_bytes());
        self.of(&[b"gangplank channel 2, host", relay, host, container, &network, address, &timeout])
    }

    fn of_relay(&self, opened: &Opened, relay: &[u8], host: &[u8]) -> Hmac<Sha256> {
        self.of(&[b"gangplank channel 2, relay", relay, host, &opened.kind.to_be_bytes()])
    }

    /// Each part is preceded by its length in four bytes, so that no two lists of parts give the same.
    fn of(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        // Keys of any length are taken, so that the other arm never is.
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| Hmac::new(&Default::default()));
        for part in parts {
            mac.update(&(part.len() as u32).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn token(text: &str) -> Token {
        Token::new(text.as_bytes()).unwrap()
    }

    fn request() -> Open {
        Open::tcp(":80", Duration::from_secs(1))
    }

    #[test]
    fn only_the_same_token_nonces_and_request_prove() {
        let (ours, relay, host) = (token("correct horse battery"), [1; NONCE_LEN], [2; NONCE_LEN]);
        let proved = ours.prove(&request(), &relay, &host);
        assert!(ours.is_proved_by(&proved, &relay));
        assert!(!ours.is_proved_by(&proved, &[3; NONCE_LEN]));
        assert!(!token("wrong horse battery!").is_proved_by(&proved, &relay));
        for other in [
            Open { address: ":81".to_owned(), ..proved.clone() },
            Open { container: "c".to_owned(), ..proved.clone() },
            Open { network: 2, ..proved.clone() },
            Open { timeout_ms: 7, ..proved.clone() },
            Open { nonce: vec![9; NONCE_LEN], ..proved.clone() },
            Open { nonce: Vec::new(), ..proved.clone() },
            Open { proof: proved.proof[..16].to_vec(), ..proved.clone() },
            Open { proof: Vec::new(), ..proved },
        ] {
            assert!(!ours.is_proved_by(&other, &relay), "{other:?}");
        }
    }

    #[test]
    fn the_relays_proof_is_another_than_the_hosts() {
        let (ours, relay, host) = (token("correct horse battery"), [1; NONCE_LEN], [2; NONCE_LEN]);
        let answer = ours.prove_answer(Opened::connected(), &relay, &host);
        assert!(ours.is_proved_by_answer(&answer, &relay, &host));
        assert!(!ours.is_proved_by_answer(&Opened { kind: 1, ..answer.clone() }, &relay, &host));
        assert!(!ours.is_proved_by_answer(&answer, &host, &relay));
        assert!(!ours.is_proved_by_answer(&Opened::connected(), &relay, &host));
        assert_ne!(answer.proof, ours.prove(&request(), &relay, &host).proof);
    }

    /// The expected value comes from Python's hmac module, so that both sides cannot be wrong in the same way.
    #[test]
    fn the_proof_is_hmac_sha256_of_the_parts() {
        let proved = token("correct horse battery").prove(&request(), &[1; NONCE_LEN], &[2; NONCE_LEN]);
        let hex: String = proved.proof.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "7234266cab7a30e2e9ac1fdedda1f48b1a970d1c206a1b4f20d4563dcfd5f71d");
    }

    #[test]
    fn a_token_is_long_enough_and_never_shown() {
        assert!(matches!(Token::new(b"  short  \n"), Err(TokenError::Length(5))));
        assert!(matches!(Token::new(&[7; 4_097]), Err(TokenError::Length(4_097))));
        assert_eq!(format!("{:?}", token("correct horse battery")), "Token(…)");
        assert!(matches!(Token::read(Path::new("/nowhere")), Err(TokenError::Read(_))));
    }
}
