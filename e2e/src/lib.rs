//! Tests and benchmarks with real guests and real clients.
