//! JSON-RPC calls and answers, and the client of the daemon's socket. docs/jsonrpc.md is the contract.

pub(crate) mod client;
mod message;

pub(crate) use self::message::{Answer, Call, Code, RpcError};
