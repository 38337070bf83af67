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

use self::rpc_socket::RpcArgs;
use crate::daemon;

/// Reach a port inside a pod that runs in its own VM, from kubectl, crictl and friends.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "\
Name a pod by its sandbox id, an unambiguous prefix of that, its name, or NAMESPACE/NAME.
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

gangplank.sample.toml documents every key; \"gangplank check --config FILE\" checks that everything it names works.")]
    Serve {
        /// The configuration file; gangplank.sample.toml documents every key
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Forward local ports to pods until interrupted
    Forward(forward::ForwardOptions),
    /// Connect standard input and output to a port or a Unix socket of a pod
    #[command(after_help = "\
The end of standard input ends only the direction towards the pod, so the whole answer still arrives.
For datagrams, use \"gangplank forward demo :53/udp\".

Examples:
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | gangplank dial demo :80
  ssh -o ProxyCommand='gangplank dial demo :22' user@demo
  gangplank dial demo unix:///run/app.sock")]
    Dial {
        #[command(flatten)]
        rpc: RpcArgs,
        /// The pod
        pod: String,
        /// HOST:PORT in the pod (:PORT and localhost:PORT are its loopback addresses), or unix:///PATH
        address: String,
    },
    /// List the pods: their endpoints, whether their relays answer, and their open connections
    #[command(after_help = "\
Each relay is probed, for at most 2 s. Use --no-probe while a guest boots: an unanswered connection can hang some
vsock devices.

Example:
  gangplank pods --json | jq -r '.pods[].name'")]
    Pods {
        #[command(flatten)]
        rpc: RpcArgs,
        /// Do not probe the relays
        #[arg(long)]
        no_probe: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the listening ports of a pod, with process names where the guest reports them
    #[command(after_help = "\
A relay sees the processes of its own user that have no more privileges than it has, and with its --cgroup all processes. In
an ordinary pod without a relay, the daemon sees the processes that its own privileges allow.

Examples:
  gangplank ports demo
  gangplank ports demo --container 3f1c --container 77ab --json | jq '.ports[].port'")]
    Ports {
        #[command(flatten)]
        rpc: RpcArgs,
        /// The pod
        pod: String,
        /// The id of a container that has its own network; may be repeated [default: the pod's network]
        #[arg(long = "container", value_name = "ID")]
        containers: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show live sessions and connections
    #[command(after_help = "\
In a terminal, the table is refreshed every second until you press q or Ctrl-C. Otherwise it is printed once.

Example:
  gangplank top | head -1")]
    Top {
        #[command(flatten)]
        rpc: RpcArgs,
    },
    /// Check the configuration, sockets, kernel modules, permissions and each pod's relay
    #[command(after_help = "\
Each problem comes with a suggested fix. The exit status is 1 if there is any problem.

Example:
  gangplank check --config /etc/gangplank.toml")]
    Check {
        /// The daemon's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run a demo: a pod whose web page is reachable only through the relay, the daemon and a forwarded port
    Demo(demo::DemoOptions),
    /// Print shell completions
    #[command(after_help = "\
Example:
  gangplank completions bash > /etc/bash_completion.d/gangplank")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages to a folder
    #[command(after_help = "\
Example:
  gangplank man /usr/local/share/man/man1")]
    Man {
        /// An existing folder
        folder: PathBuf,
    },
    /// The pod of the demo, which starts it
    #[command(hide = true)]
    DemoGuest(demo::GuestOptions),
}

impl Cli {
    /// Runs the command. If it fails, prints one sentence on standard error and exits with status 1.
    pub fn run(self) -> ExitCode {
        match self.command.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // If standard error is closed, the exit status must do.
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
            // Not in the runtime: it must enter a namespace while the process has a single thread.
            Self::DemoGuest(options) => Ok(demo::guest(&options)?),
        }
    }
}

fn block_on<E: Error + 'static>(command: impl Future<Output = Result<(), E>>) -> Result<(), AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    // A read of standard input on a blocking thread may never end; do not wait for it.
    runtime.shutdown_background();
    Ok(result?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_valid_and_every_command_has_a_description() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands_mut() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
    }
}
