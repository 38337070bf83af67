//! `run-guest DIR` boots one guest whose sockets and logs lie in DIR, prints its relay's endpoint when it is
//! ready, and takes the guest down when it is ended.
#![allow(clippy::print_stdout, reason = "the endpoint is its output")]

use std::path::PathBuf;
use std::process::ExitCode;

use gangplank_e2e::guest::Guest;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("use: run-guest DIR");
        return ExitCode::FAILURE;
    };
    let mut guest = Guest::boot(&dir);
    println!("{}", guest.endpoint());
    guest.wait();
    eprintln!("run-guest: the guest has ended; its console is {}", dir.join("qemu.log").display());
    ExitCode::FAILURE
}
