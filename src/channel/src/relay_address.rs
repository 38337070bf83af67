//! Where a relay is reached, and what is proved to it.

use crate::endpoint::Endpoint;
use crate::token::Token;

/// An endpoint, and the token of its relay if it has one. A plain `&Endpoint` is an address without a token.
#[derive(Debug, Clone, Copy)]
pub struct RelayAddress<'a> {
    /// Where the relay is.
    pub endpoint: &'a Endpoint,
    /// What host and relay prove to each other. With a token, a relay that does not prove it is not used.
    pub token: Option<&'a Token>,
}

impl<'a> From<&'a Endpoint> for RelayAddress<'a> {
    fn from(endpoint: &'a Endpoint) -> Self {
        Self { endpoint, token: None }
    }
}
