//! The process that acts as the demo's pod: a web page, and a relay behind a hybrid vsock socket.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;

use clap::Args;
use gangplank_relay::{Listen, Relay, RelayError};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;

use super::{hybrid, namespace, page};

/// The vsock port of the relay, as in the documentation.
const RELAY: u32 = 1024;

/// The page's port, if the pod has its own namespace.
const PAGE: u16 = 80;

/// Options of the pod's process.
#[derive(Debug, Args)]
pub(crate) struct GuestOptions {
    /// The folder for its sockets
    folder: PathBuf,
}

/// Why the pod failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// A system call failed.
    #[error("the demo's pod cannot {what}: {source}")]
    System {
        /// What the pod tried to do.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The relay could not start.
    #[error("the demo's pod cannot start its relay: {0}")]
    Relay(#[from] RelayError),
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> GuestError {
    move |source| GuestError::System { what, source }
}

/// Runs the pod until standard input ends, which happens when the demo exits.
///
/// Must be called while the process is a single thread.
///
/// # Errors
/// If a necessary system call fails.
pub(crate) fn guest(options: &GuestOptions) -> Result<(), GuestError> {
    let port = match namespace::enter() {
        Ok(()) => PAGE,
        Err(error) => {
            explain(&error);
            0
        }
    };
    let page = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(cannot("serve its page"))?;
    let port = page.local_addr().map_err(cannot("serve its page"))?.port();
    let relay = options.folder.join("relay.sock");
    start_relay(&relay)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(cannot("start a runtime"))?.block_on(async {
        let socket = options.folder.join("v.sock");
        let multiplexer = UnixListener::bind(&socket).map_err(cannot("listen for channels"))?;
        tokio::spawn(hybrid::serve(multiplexer, RELAY, relay));
        tokio::spawn(page::serve(page, SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        let ready = format!("hvsock://{}:{RELAY} {port}\n", socket.display());
        io::stdout().write_all(ready.as_bytes()).map_err(cannot("report that it is ready"))?;
        // Nothing is ever written to it, so this waits for its end.
        let _ = tokio::io::stdin().read(&mut [0]).await;
        Ok(())
    })
}

fn explain(error: &namespace::EnterNamespaceError) {
    let _ = writeln!(
        io::stderr(),
        "gangplank: {error}. So the page is served on this machine's own loopback: the forwarded port works \
         the same way, but the page could also be reached without it."
    );
}

/// Runs the relay on its own thread, in the namespace that this thread has entered.
fn start_relay(socket: &Path) -> Result<(), GuestError> {
    let relay = Relay::bind(&[Listen::Unix { path: socket.into() }], gangplank_relay::Config::default())?;
    let run = move || {
        if let Err(error) = relay.run() {
            let _ = writeln!(io::stderr(), "gangplank: {error}");
        }
    };
    thread::Builder::new().name("relay".into()).spawn(run).map_err(cannot("start a thread"))?;
    Ok(())
}
