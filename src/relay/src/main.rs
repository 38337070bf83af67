//! `gangplank-relay`: the relay as a program for the guest.

use std::process::ExitCode;

use relay::{Config, Listen, Relay, signal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const HELP: &str = "\
Reaches ports of this guest for a gangplank daemon on the host.

Usage: gangplank-relay --listen ADDRESS [--listen ADDRESS]...

  --listen vsock://PORT    a vsock port, for the host alone
  --listen unix:///PATH    a Unix socket, for this user alone
  --help                   this text
  --version                the version

Ends at SIGTERM. Messages go to standard error.
";

/// What the command line asks for.
enum Command {
    Serve(Vec<Listen>),
    Say(String),
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(execute) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gangplank-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut listen = Vec::new();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        match name {
            "--listen" => {
                let value =
                    value.or_else(|| arguments.next()).ok_or("--listen needs an address; see --help")?;
                listen.push(value.parse().map_err(|error| format!("--listen: {error}"))?);
            }
            "--help" | "-h" => return Ok(Command::Say(HELP.to_owned())),
            "--version" => {
                return Ok(Command::Say(format!("gangplank-relay {}\n", env!("CARGO_PKG_VERSION"))));
            }
            _ => return Err(format!("`{argument}` is no option; see --help")),
        }
    }
    if listen.is_empty() {
        Err("nothing to do: give --listen; see --help".to_owned())
    } else {
        Ok(Command::Serve(listen))
    }
}

fn execute(command: Command) -> Result<(), String> {
    match command {
        Command::Say(text) => {
            use std::io::Write;
            std::io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
        }
        Command::Serve(listen) => serve(&listen).map_err(|error| error.to_string()),
    }
}

fn serve(listen: &[Listen]) -> Result<(), relay::RelayError> {
    raise_descriptor_limit();
    let relay = Relay::bind(listen, Config::default())?;
    signal::stop_at_end(relay.stopper());
    for listen in listen {
        eprintln!("gangplank-relay: listening at {listen}");
    }
    relay.run()
}

/// A connection takes two descriptors, and 1,024 is what many systems give. What cannot be had is done without:
/// accepts then fail, and say so.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
