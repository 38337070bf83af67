//! JSON-RPC calls and answers, and a client for the daemon's socket. The contract is docs/jsonrpc.md.

pub(crate) mod client;
mod message;

pub(crate) use self::message::{Answer, Call, Code, RpcError};
