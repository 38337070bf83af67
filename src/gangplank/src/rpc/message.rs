//! JSON-RPC calls and answers, as lines of JSON.

use gangplank_streaming::{DialError, DialErrorKind};
use serde_json::{Map, Value, json};

/// The error of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub(crate) struct RpcError {
    /// The kind of failure.
    pub(crate) code: Code,
    /// One sentence: what was tried, where, what came of it, and what to do next.
    pub(crate) cause: String,
}

impl RpcError {
    pub(crate) fn new(code: Code, cause: impl Into<String>) -> Self {
        Self { code, cause: cause.into() }
    }
}

/// Kinds of failure, with the names and numbers of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The line is not JSON.
    Parse,
    /// The JSON is not a call.
    InvalidRequest,
    /// Neither this host nor the pod supports it. A Go client maps it to Unimplemented.
    Unsupported,
    /// The call's parameters are invalid.
    InvalidParams,
    /// A fault of the daemon or its machine.
    Internal,
    /// No such pod is known.
    UnknownPod,
    /// Nothing listens on the address.
    Refused,
    /// No answer within the limit.
    TimedOut,
    /// A rule forbids it.
    Denied,
    /// The guest or its relay cannot be reached.
    GuestUnreachable,
    /// The pod has no route to the address.
    Unreachable,
    /// The daemon is at its limit of connections.
    Busy,
}

impl Code {
    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::Parse,
        Self::InvalidRequest,
        Self::Unsupported,
        Self::InvalidParams,
        Self::Internal,
        Self::UnknownPod,
        Self::Refused,
        Self::TimedOut,
        Self::Denied,
        Self::GuestUnreachable,
        Self::Unreachable,
        Self::Busy,
    ];

    /// Its number: JSON-RPC's own if it defines one, otherwise one from the range reserved for servers.
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Parse => -32700,
            Self::InvalidRequest => -32600,
            Self::Unsupported => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            Self::UnknownPod => -32001,
            Self::Refused => -32002,
            Self::TimedOut => -32003,
            Self::Denied => -32004,
            Self::GuestUnreachable => -32005,
            Self::Unreachable => -32006,
            Self::Busy => -32007,
        }
    }

    /// A short, stable name for programs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::InvalidRequest => "invalid_request",
            Self::Unsupported => "unsupported",
            Self::InvalidParams => "invalid_params",
            Self::Internal => "internal",
            Self::UnknownPod => "unknown_pod",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Denied => "denied",
            Self::GuestUnreachable => "guest_unreachable",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
        }
    }

    fn of_number(number: i64) -> Self {
        Self::ALL.into_iter().find(|code| code.number() == number).unwrap_or(Self::Internal)
    }
}

impl From<DialError> for RpcError {
    fn from(error: DialError) -> Self {
        use DialErrorKind as Kind;
        let code = match error.kind {
            Kind::Refused => Code::Refused,
            Kind::Unreachable => Code::Unreachable,
            Kind::TimedOut => Code::TimedOut,
            Kind::Denied => Code::Denied,
            Kind::Relay | Kind::SandboxGone | Kind::RelayUnusable => Code::GuestUnreachable,
            Kind::Unsupported => Code::Unsupported,
            // A kind that this program does not know yet is no fault of the caller.
            Kind::Internal | _ => Code::Internal,
        };
        Self::new(code, error.cause)
    }
}

/// A call that expects an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: Value,
    pub(crate) method: String,
    /// An object; empty if the call has no parameters.
    pub(crate) params: Value,
}

impl Call {
    /// Parses a line. `None` is a notification, which is ignored: its caller could not learn the result.
    ///
    /// # Errors
    /// The error, with the id of the malformed call, or null if that is unknown.
    pub(crate) fn parse(line: &[u8]) -> Result<Option<Self>, (Value, RpcError)> {
        let invalid = |id: Value, cause: &str| Err((id, RpcError::new(Code::InvalidRequest, cause)));
        let mut call = match serde_json::from_slice(line) {
            Ok(Value::Object(call)) => call,
            Ok(_) => return invalid(Value::Null, "write one call, which is an object, on each line"),
            Err(error) => {
                let cause = format!("the line is not JSON: {error}");
                return Err((Value::Null, RpcError::new(Code::Parse, cause)));
            }
        };
        let id = match call.remove("id") {
            Some(id @ (Value::String(_) | Value::Number(_) | Value::Null)) => Some(id),
            Some(_) => return invalid(Value::Null, "id must be a string or a number"),
            None => None,
        };
        let or_null = || id.clone().unwrap_or_default();
        if call.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return invalid(or_null(), "this is JSON-RPC 2.0: write \"jsonrpc\": \"2.0\"");
        }
        let Some(Value::String(method)) = call.remove("method") else {
            return invalid(or_null(), "the call names no method");
        };
        let params = match call.remove("params") {
            None => Value::Object(Map::new()),
            Some(params @ Value::Object(_)) => params,
            Some(_) => {
                let cause = "params must be an object: parameters go by name here";
                return Err((or_null(), RpcError::new(Code::InvalidParams, cause)));
            }
        };
        Ok(id.map(|id| Self { id, method, params }))
    }
}

/// The answer to a call, as a line.
pub(crate) struct Answer(Value);

impl Answer {
    pub(crate) fn new(id: Value, result: Result<&Value, &RpcError>) -> Self {
        Self(match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(RpcError { code, cause }) => json!({
                "jsonrpc": "2.0",
                "id": id,
                "error": {
                    "code": code.number(),
                    "message": cause,
                    "data": { "kind": code.name(), "cause": cause },
                },
            }),
        })
    }

    /// An error in answer to a line whose id is unknown.
    pub(crate) fn refused(why: &RpcError) -> Self {
        Self::new(Value::Null, Err(why))
    }

    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = self.0.to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

/// Extracts the result or the error from an answer.
pub(crate) fn result_of(mut answer: Value) -> Result<Value, RpcError> {
    let Some(error) = answer.get("error") else { return Ok(answer["result"].take()) };
    let code = error["code"].as_i64().map_or(Code::Internal, Code::of_number);
    Err(RpcError::new(code, error["message"].as_str().unwrap_or("the daemon gives no reason")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> (Value, i64) {
        let (id, error) = Call::parse(line.as_bytes()).unwrap_err();
        (id, error.code.number())
    }

    #[test]
    fn a_call_is_an_object_with_an_id_and_a_method() {
        let call =
            Call::parse(br#"{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":1}}"#).unwrap().unwrap();
        assert_eq!(call, Call { id: json!("a"), method: "m".into(), params: json!({ "x": 1 }) });
        let call = Call::parse(br#"{"jsonrpc":"2.0","id":7,"method":"m"}"#).unwrap().unwrap();
        assert_eq!(call.params, json!({}));
    }

    #[test]
    fn a_notification_is_not_answered() {
        assert_eq!(Call::parse(br#"{"jsonrpc":"2.0","method":"m"}"#), Ok(None));
    }

    #[test]
    fn malformed_calls_have_the_error_numbers_of_json_rpc() {
        assert_eq!(refusal("{"), (Value::Null, -32700));
        assert_eq!(refusal("[]"), (Value::Null, -32600));
        assert_eq!(refusal(r#"{"id":1,"method":"m"}"#), (json!(1), -32600));
        assert_eq!(refusal(r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#), (Value::Null, -32600));
        assert_eq!(refusal(r#"{"jsonrpc":"2.0","id":1}"#), (json!(1), -32600));
        assert_eq!(refusal(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#), (json!(1), -32602));
    }

    #[test]
    fn an_answer_survives_a_round_trip() {
        let error = RpcError::new(Code::Refused, "nothing listens");
        let line = Answer::new(json!(1), Err(&error)).line();
        assert_eq!(result_of(serde_json::from_slice(&line).unwrap()), Err(error));
        let line = Answer::new(json!(1), Ok(&json!([1]))).line();
        assert_eq!(result_of(serde_json::from_slice(&line).unwrap()), Ok(json!([1])));
    }
}
