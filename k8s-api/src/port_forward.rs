//! Names of the protocols that carry a port-forward session.

/// The header in which a client offers, and a server chooses, the protocol on an upgraded connection.
pub const STREAM_PROTOCOL_HEADER: &str = "x-stream-protocol-version";

/// The header in which a server names what it would have accepted.
pub const ACCEPTED_PROTOCOLS_HEADER: &str = "x-accepted-stream-protocol-versions";

/// What an HTTP connection is upgraded to.
pub const SPDY_UPGRADE: &str = "SPDY/3.1";

/// Port-forward on SPDY streams.
pub const PORT_FORWARD_V1: &str = "portforward.k8s.io";

/// SPDY inside a WebSocket's binary messages; a WebSocket subprotocol.
pub const SPDY_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// One WebSocket message channel for each direction of each port, binary; a WebSocket subprotocol.
pub const CHANNEL_V4: &str = "v4.channel.k8s.io";

/// The same in base64 text; a WebSocket subprotocol.
pub const CHANNEL_V4_BASE64: &str = "v4.base64.channel.k8s.io";
