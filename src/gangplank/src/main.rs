//! The host daemon and command line.

use std::process::ExitCode;

use clap::Parser;
use gangplank::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
