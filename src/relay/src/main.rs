//! The relay, a program for the guest.

fn main() {}
