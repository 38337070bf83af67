//! The host daemon and command line.

fn main() {}
