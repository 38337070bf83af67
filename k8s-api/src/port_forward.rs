//! The names of the protocols that carry a port-forward session.

/// The header with which a client offers, and a server chooses, the protocol on an upgraded connection.
pub const STREAM_PROTOCOL_HEADER: &str = "x-stream-protocol-version";

/// The header with which a server lists the protocols it would have accepted.
pub const ACCEPTED_PROTOCOLS_HEADER: &str = "x-accepted-stream-protocol-versions";

/// The protocol that an HTTP connection is upgraded to.
pub const SPDY_UPGRADE: &str = "SPDY/3.1";

/// Port-forward over SPDY streams.
pub const PORT_FORWARD_V1: &str = "portforward.k8s.io";

/// SPDY inside a WebSocket's binary messages; a WebSocket subprotocol.
pub const SPDY_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Numbered channels in binary WebSocket messages, two for each port (data and errors); a WebSocket subprotocol.
pub const CHANNEL_V4: &str = "v4.channel.k8s.io";

/// The same in base64 text; a WebSocket subprotocol.
pub const CHANNEL_V4_BASE64: &str = "v4.base64.channel.k8s.io";
