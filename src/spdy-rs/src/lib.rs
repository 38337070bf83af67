//! SPDY/3.1 as a protocol: frames, header blocks, streams and connection, without I/O.
