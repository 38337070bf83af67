//! The process that is the demo's pod: a page, and a relay behind a hybrid vsock socket.

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

/// The page's port in a namespace of its own.
const PAGE: u16 = 80;

/// Options of the pod.
#[derive(Debug, Args)]
pub(crate) struct GuestOptions {
    /// Where its sockets go
    folder: PathBuf,
}

/// Why the pod does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// The system refuses something.
    #[error("the demo's pod cannot {what}: {source}")]
    System {
        /// What it tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The relay does not run.
    #[error("the demo's pod has no relay: {0}")]
    Relay(#[from] RelayError),
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> GuestError {
    move |source| GuestError::System { what, source }
}

/// Runs the pod until standard input ends, as it does when the demo does.
///
/// Must be called while the process is a single thread.
///
/// # Errors
/// When the system refuses what cannot be done without.
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
        io::stdout().write_all(ready.as_bytes()).map_err(cannot("say that it is ready"))?;
        // Nothing is ever written there.
        let _ = tokio::io::stdin().read(&mut [0]).await;
        Ok(())
    })
}

fn explain(error: &namespace::NamespaceError) {
    let _ = writeln!(
        io::stderr(),
        "gangplank: {error}. The page is therefore served on this machine's own loopback: the forwarded port works \
         just the same, but the page could also be reached without it."
    );
}

/// Runs the relay on a thread of its own, in the namespace that this thread has entered.
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
