//! One forwarded connection between host and guest: endpoints, transports, and the protocol on them.
