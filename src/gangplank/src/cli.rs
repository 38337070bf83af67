//! The command line.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::UnixUrl;
use crate::forward::{self, PortPair};
use crate::{daemon, demo};

/// Reach a port inside a pod that runs in its own VM, from kubectl, crictl and friends.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Serve {
        /// The configuration file; gangplank.sample.toml documents every key
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Forward local ports to a pod until interrupted
    Forward {
        /// The CRI socket of the daemon
        #[arg(long, value_name = "URL", default_value_t = UnixUrl::default(), value_parser = cri_socket)]
        cri: UnixUrl,
        /// The pod: the id of its sandbox, an unambiguous beginning of it, its name, or NAMESPACE/NAME
        pod: String,
        /// Ports: 8080:80, 80 for the same port on both sides, or :80 for any free port here
        #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
        ports: Vec<PortPair>,
    },
    /// Show it at work: a pod whose page is reachable only through the relay, the daemon and a forwarded port
    Demo(demo::Options),
    /// The pod of the demo, started by it
    #[command(hide = true)]
    DemoGuest(demo::GuestOptions),
}

fn cri_socket(url: &str) -> Result<UnixUrl, String> {
    UnixUrl::from_url(url).ok_or_else(|| {
        "expected the URL of a Unix socket with an absolute path, such as unix:///run/gangplank/cri.sock"
            .into()
    })
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
            Self::Forward { cri, pod, ports } => block_on(forward::run(&cri, &pod, &ports)),
            Self::Demo(options) => block_on(demo::run(&options)),
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
