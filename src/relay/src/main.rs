//! `gangplank-relay`: the relay as a program for the guest.

use std::fmt::Display;
use std::process::ExitCode;
use std::str::FromStr;

use gangplank_channel::Token;
use gangplank_relay::{Config, Listen, Relay, Rule, privileges, seccomp, signal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const HELP: &str = "\
Reaches ports of this guest for a gangplank daemon on the host.

Usage: gangplank-relay [OPTION]...

  --listen vsock://PORT    listen at a vsock port, for the host only; may be given several times
  --listen unix:///PATH    listen at a Unix socket, for this user only
                           The default is vsock://1023, which only a privileged program can take.
  --allow PATTERN          allow dialling NETWORK:ADDRESS:PORT or unix:/PATH, such as
  --deny PATTERN           tcp:127.0.0.1:80, udp:10.0.0.0/8:*, *:loopback:1-1023, unix:/run/app/*
                           The first match decides. Without a match, only loopback is allowed.
  --namespace PATH         find a container's network namespace here, such as /run/netns/{id}
  --cgroup                 find a container's namespaces by a process in its cgroup
  --token-file PATH        serve only hosts that prove that they have the token in this file
  --accept-cid CID         also serve this context id; for tests, 1 is this machine itself
  --help                   print this text
  --version                print the version

Once it listens, the relay gives up all capabilities and system calls that these options do not
need. It stops at SIGTERM and logs to standard error.
";

/// The default vsock port: the highest that only a privileged program can take, so that no other program in the guest
/// can pose as the relay.
const DEFAULT_PORT: u32 = 1023;

/// What the command line asks for.
enum Command {
    Serve(Vec<Listen>, Config),
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
    let (mut listen, mut config) = (Vec::new(), Config::default());
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value =
            || value.clone().or_else(|| arguments.next()).ok_or(format!("{name} needs a value; see --help"));
        match name {
            "--listen" => listen.push(parse_value(name, &value()?)?),
            "--allow" => config.rules.push(Rule::allow(parse_value(name, &value()?)?)),
            "--deny" => config.rules.push(Rule::deny(parse_value(name, &value()?)?)),
            "--namespace" => config.containers.path = Some(namespace_path(value()?)?),
            "--cgroup" => config.containers.by_cgroup = true,
            "--token-file" => config.token = Some(read_token(name, &value()?)?),
            "--accept-cid" => config.extra_cid = Some(parse_value(name, &value()?)?),
            "--help" | "-h" => return Ok(Command::Say(HELP.to_owned())),
            "--version" => {
                return Ok(Command::Say(format!("gangplank-relay {}\n", env!("CARGO_PKG_VERSION"))));
            }
            _ => return Err(format!("`{argument}` is not an option; see --help")),
        }
    }
    if listen.is_empty() {
        listen.push(Listen::Vsock { port: DEFAULT_PORT });
    }
    Ok(Command::Serve(listen, config))
}

fn parse_value<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| format!("{name}: {error}"))
}

fn read_token(name: &str, path: &str) -> Result<Token, String> {
    Token::read(path.as_ref()).map_err(|error| format!("{name}: {path}: {error}"))
}

fn namespace_path(path: String) -> Result<String, String> {
    if path.starts_with('/') && path.contains("{id}") {
        Ok(path)
    } else {
        Err(format!(
            "--namespace: `{path}` is not an absolute path that contains {{id}} for the container's id"
        ))
    }
}

fn execute(command: Command) -> Result<(), String> {
    match command {
        Command::Say(text) => {
            use std::io::Write;
            std::io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
        }
        Command::Serve(listen, config) => serve(&listen, config).map_err(|error| error.to_string()),
    }
}

fn serve(listen: &[Listen], config: Config) -> Result<(), gangplank_relay::RelayError> {
    raise_descriptor_limit();
    let relay = Relay::bind(listen, config.clone())?;
    privileges::drop_unneeded(&config);
    signal::stop_at_end(relay.stopper());
    if let Err(error) = seccomp::confine(listen, &config) {
        (config.log)(format_args!("system calls are not restricted: {error}"));
    }
    for listen in listen {
        (config.log)(format_args!("listening at {listen}"));
    }
    relay.run()
}

/// A connection takes two descriptors, and the usual limit is 1,024. If it cannot be raised, accepts fail at the limit
/// and are logged.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_options_it_listens_at_a_privileged_port() {
        let Ok(Command::Serve(listen, _)) = parse(std::iter::empty()) else {
            panic!("not a command to serve")
        };
        assert_eq!(listen, [Listen::Vsock { port: 1023 }]);
    }
}
