//! The `gangplank` program: the host daemon and its command line.

use std::process::ExitCode;

use clap::Parser;
use gangplank::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
