//! `[LOCAL:]REMOTE`: which port here leads to which port of the pod.

use std::fmt;
use std::str::FromStr;

/// One forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortPair {
    /// The port here; 0 for any free one.
    pub(crate) local: u16,
    /// The port of the pod.
    pub(crate) remote: u16,
}

/// Why a text is no [`PortPair`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not [LOCAL:]REMOTE: write 8080:80, 80 for the same port on both sides, or :80 for any free port here"
)]
pub(crate) struct PortPairError(String);

impl FromStr for PortPair {
    type Err = PortPairError;

    fn from_str(text: &str) -> Result<Self, PortPairError> {
        let wrong = || PortPairError(text.into());
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let local = if local.is_empty() { 0 } else { number(local).ok_or_else(wrong)? };
        let remote = number(remote).filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Self { local, remote })
    }
}

/// Digits alone: no sign, which `u16` would take.
fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

impl fmt::Display for PortPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.local, self.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_written_in_three_ways() {
        let pair = |text: &str| text.parse::<PortPair>().map(|pair| (pair.local, pair.remote));
        assert_eq!(pair("8080:80"), Ok((8080, 80)));
        assert_eq!(pair("80"), Ok((80, 80)));
        assert_eq!(pair(":80"), Ok((0, 80)));
        assert_eq!(pair("0:80"), Ok((0, 80)));
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for wrong in ["", ":", "80:", "0", "a:80", "80:0", "80:65536", "1:2:3", "+80", "-1:80", "http"] {
            let error = wrong.parse::<PortPair>().unwrap_err().to_string();
            assert!(error.contains("8080:80"), "{wrong}: {error}");
        }
    }
}
