//! The command line.

mod check;
mod demo;
mod dial;
mod forward;
mod manual;
mod rpc_socket;
mod show;
mod table;
mod terminal;
mod top;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::rpc_socket::Rpc;
use crate::daemon;

/// Reach a port inside a pod that runs in its own VM, from kubectl, crictl and friends.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "\
A pod is named by the id of its sandbox, an unambiguous beginning of that, its name, or NAMESPACE/NAME.
\"gangplank COMMAND --help\" shows examples. No daemon yet? Try \"gangplank demo\"."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    #[command(after_help = "\
Example:
  gangplank serve --config /etc/gangplank.toml

gangplank.sample.toml documents every key; \"gangplank check --config FILE\" looks whether all of it works.")]
    Serve {
        /// The configuration file; gangplank.sample.toml documents every key
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Forward local ports to pods until interrupted
    Forward(forward::Options),
    /// Connect standard input and output to a port or a Unix socket of a pod
    #[command(after_help = "\
The end of standard input ends the direction towards the pod only, so the whole answer still comes.
Datagrams go through \"gangplank forward demo :53/udp\".

Examples:
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | gangplank dial demo :80
  ssh -o ProxyCommand='gangplank dial demo :22' user@demo
  gangplank dial demo unix:///run/app.sock")]
    Dial {
        #[command(flatten)]
        rpc: Rpc,
        /// The pod
        pod: String,
        /// HOST:PORT in the pod (:PORT and localhost:PORT are its loopback addresses), or unix:///PATH
        address: String,
    },
    /// List the pods: how each is reached, whether its relay answers, how many connections it has
    #[command(after_help = "\
Each relay is asked for a sign of life, for at most 2 s. Leave a guest that still boots alone (--no-probe): some
vsock devices take harm from a connection that nobody answers.

Example:
  gangplank pods --json | jq -r '.pods[].name'")]
    Pods {
        #[command(flatten)]
        rpc: Rpc,
        /// Do not ask the relays
        #[arg(long)]
        no_probe: bool,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// List what listens in a pod, with the names of processes where the guest tells them
    #[command(after_help = "\
A relay sees the processes of its own user that may do no more than it, and all of them with its --cgroup. Of an ordinary pod
without a relay, the daemon sees what it may.

Examples:
  gangplank ports demo
  gangplank ports demo --container 3f1c --container 77ab --json | jq '.ports[].port'")]
    Ports {
        #[command(flatten)]
        rpc: Rpc,
        /// The pod
        pod: String,
        /// A container of the pod with a network of its own, by its id; give it again for more [default: the pod's network]
        #[arg(long = "container", value_name = "ID")]
        containers: Vec<String>,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show sessions and connections as they move
    #[command(after_help = "\
In a terminal the table is drawn again every second, until q or Ctrl-C. Otherwise it is printed once.

Example:
  gangplank top | head -1")]
    Top {
        #[command(flatten)]
        rpc: Rpc,
    },
    /// Look whether all is well: configuration, sockets, modules, permissions, each pod's relay
    #[command(after_help = "\
What is wrong comes with what to do about it. The exit status is 1 if anything is.

Example:
  gangplank check --config /etc/gangplank.toml")]
    Check {
        /// The daemon's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show it at work: a pod whose page is reachable only through the relay, the daemon and a forwarded port
    Demo(demo::Options),
    /// Print the completions of a shell
    #[command(after_help = "\
Example:
  gangplank completions bash > /etc/bash_completion.d/gangplank")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(after_help = "\
Example:
  gangplank man /usr/local/share/man/man1")]
    Man {
        /// The folder, which must be there
        folder: PathBuf,
    },
    /// The pod of the demo, started by it
    #[command(hide = true)]
    DemoGuest(demo::GuestOptions),
}

impl Cli {
    /// Does what was asked for. What goes wrong is one sentence on standard error and exit status 1.
    pub fn run(self) -> ExitCode {
        match self.command.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Nobody is left to tell if standard error is closed.
                let _ = writeln!(std::io::stderr(), "gangplank: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

type AnyError = Box<dyn Error>;

impl Command {
    fn run(self) -> Result<(), AnyError> {
        match self {
            Self::Serve { config } => block_on(daemon::serve(&config)),
            Self::Forward(options) => block_on(forward::run(&options)),
            Self::Dial { rpc, pod, address } => block_on(dial::run(&rpc.url, &pod, &address)),
            Self::Pods { rpc, no_probe, json } => block_on(show::pods(&rpc.url, !no_probe, json)),
            Self::Ports { rpc, pod, containers, json } => {
                block_on(show::ports(&rpc.url, &pod, &containers, json))
            }
            Self::Top { rpc } => block_on(top::run(&rpc.url)),
            Self::Check { config } => block_on(check::run(&config)),
            Self::Demo(options) => block_on(demo::run(&options)),
            Self::Completions { shell } => Ok(manual::completions(shell, Cli::command())?),
            Self::Man { folder } => Ok(manual::pages(&folder, Cli::command())?),
            // Without a runtime: it enters a namespace while it is a single thread.
            Self::DemoGuest(options) => Ok(demo::guest(&options)?),
        }
    }
}

fn block_on<E: Error + 'static>(what: impl Future<Output = Result<(), E>>) -> Result<(), AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(what);
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    Ok(result?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_every_command_says_what_it_is_for() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands_mut() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
    }
}
