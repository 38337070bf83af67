//! `gangplank demo`: everything in one command, with a pod whose web page can be reached in no other way.
//!
//! ```text
//! here                                                    the pod's network namespace
//! our client ── streaming server ── v.sock: CONNECT/OK ──┼── relay ── 127.0.0.1:80
//! ```

mod guest;
mod hybrid;
mod namespace;
mod page;
mod pod;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use gangplank_dial::Network;
use tempfile::TempDir;

pub(crate) use self::guest::{GuestOptions, guest};
use self::page::{FetchError, fetch};
use self::pod::{DemoPod, PodError};
use crate::cli::forward::{ForwardApi, ForwardError, Forwarder, PodPorts, PortPair, Report};
use crate::daemon::config::{Config, ConfigError, LogSection};
use crate::daemon::logs;
use crate::daemon::{Addresses, Daemon, DaemonError};
use crate::listen::BindError;
use crate::signals::Signals;

/// The sandbox id of the pod, as long as the ids that crictl prints.
const SANDBOX: &str = "d3m0c0ffee123";

/// The port that the documentation uses for the Kubernetes API, taken if it is free.
const KUBE_API_PORT: u16 = 8001;

/// Options of the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Boot a guest with this program instead. Its argument is a folder for its files; it prints the endpoint of the relay
    /// when that is ready, and exits on SIGTERM
    #[arg(long, value_name = "PROGRAM")]
    vm: Option<PathBuf>,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The pod failed.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The demo's own configuration was rejected.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon failed.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The port could not be forwarded.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The page could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Another system call failed.
    #[error("the demo cannot continue: {0}")]
    System(#[from] io::Error),
}

/// Shows the page, then stays up until a signal arrives.
///
/// # Errors
/// If any part fails.
pub(crate) async fn run(options: &DemoOptions) -> Result<(), DemoError> {
    let mut signals = Signals::catch()?;
    let demo = tokio::select! {
        demo = Demo::start(options) => demo?,
        _ = signals.next() => return Ok(()),
    };
    demo.stay(&mut signals).await
}

/// The parts of the demo, which end together.
struct Demo {
    forward: Forwarder,
    daemon: Daemon,
    pod: DemoPod,
    // Declared last, so that it is removed after everything that has files in it.
    _folder: TempDir,
}

impl Demo {
    async fn start(options: &DemoOptions) -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new().prefix("gangplank-demo-").tempdir()?;
        let pod = match &options.vm {
            None => DemoPod::embedded(folder.path()).await?,
            Some(program) => DemoPod::vm(program, folder.path()).await?,
        };
        let daemon = match Daemon::start(&configure(&folder, &pod, KUBE_API_PORT)?).await {
            Err(DaemonError::Listen(BindError::Tcp { .. })) => {
                Daemon::start(&configure(&folder, &pod, 0)?).await?
            }
            other => other?,
        };
        let pairs = vec![PortPair { address: None, local: 0, remote: pod.port, network: Network::Tcp }];
        let target = PodPorts { pod: "demo".into(), pairs };
        let forward = Forwarder::start(&ForwardApi::Cri(daemon.addresses().cri.clone()), &[target]).await?;
        Ok(Self { forward, daemon, pod, _folder: folder })
    }

    async fn stay(mut self, signals: &mut Signals) -> Result<(), DemoError> {
        let [local, ..] = self.forward.ports() else {
            return Err(io::Error::other("no port was forwarded").into());
        };
        let (local, port) = (local.here, self.pod.port);
        let result = tokio::select! {
            ended = self.forward.run(Report::Quiet, false) => ended.map_err(Into::into),
            ended = self.pod.ended() => Err(ended.into()),
            failed = introduce(self.daemon.addresses(), port, local) => failed,
            _ = signals.next() => Ok(()),
        };
        // Open sessions are told that the daemon is going away; the demo does not wait for them.
        tokio::select! {
            _ = self.daemon.shut_down(Duration::ZERO) => {}
            _ = signals.next() => {}
        }
        result
    }
}

/// Shows the page, then waits forever.
async fn introduce(addresses: &Addresses, port: u16, local: SocketAddr) -> Result<(), DemoError> {
    let started = Instant::now();
    let page = fetch(local).await?;
    let took = started.elapsed();
    write!(io::stdout(), "{}{}", fetched(local, &page, took), invitation(addresses, port, local))?;
    // Start logging only now, so that log lines do not mix with the text above. The demo needs no audit log.
    logs::start(&LogSection { audit: false, ..LogSection::default() });
    std::future::pending().await
}

/// Writes the daemon's configuration to a file, which the user can read.
fn configure(folder: &TempDir, pod: &DemoPod, kube_api_port: u16) -> Result<Config, DemoError> {
    let file = folder.path().join("gangplank.toml");
    std::fs::write(&file, configuration(folder.path(), &pod.endpoint, kube_api_port))?;
    Ok(Config::load(&file)?)
}

fn configuration(folder: &Path, endpoint: &str, kube_api_port: u16) -> String {
    let text = |text: String| toml::Value::String(text).to_string();
    format!(
        "[cri]\nlisten = {cri}\n\n[kube_api]\nlisten = \"127.0.0.1:{kube_api_port}\"\n\n\
         [[pod]]\nid = \"{SANDBOX}\"\nname = \"demo\"\nuid = \"demo\"\nendpoint = {endpoint}\n",
        cri = text(format!("unix://{}/cri.sock", folder.display())),
        endpoint = text(endpoint.into()),
    )
}

fn fetched(local: SocketAddr, page: &str, took: Duration) -> String {
    let mut text = format!("GET http://{local}/ took {:.1} ms and returned:\n\n", took.as_secs_f64() * 1e3);
    for line in page.lines() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {line}");
    }
    text
}

fn invitation(addresses: &Addresses, port: u16, local: SocketAddr) -> String {
    let cri = &addresses.cri;
    let gangplank = std::env::current_exe().unwrap_or_else(|_| "gangplank".into());
    let mut text = format!("\nIt stays up. Try from another terminal:\n\n  curl http://{local}/\n");
    if let Some(kube_api) = addresses.kube_api {
        let _ = writeln!(text, "  kubectl --server http://{kube_api} get pods");
        let _ = writeln!(text, "  kubectl --server http://{kube_api} port-forward pod/demo 8080:{port}");
    }
    let _ = writeln!(text, "  crictl --runtime-endpoint {cri} port-forward {SANDBOX} 8081:{port}");
    let _ = writeln!(text, "  {} forward --cri {cri} demo 8082:{port}", gangplank.display());
    text += "\nand then, for the last three, curl http://127.0.0.1:8080/ (or 8081, 8082). Ctrl-C here ends it all.\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_a_valid_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        std::fs::write(&file, configuration(folder.path(), "hvsock:///a \"b\"/v.sock:1024", 0)).unwrap();
        let config = Config::load(&file).unwrap();
        assert_eq!(config.pod[0].endpoint.to_string(), "hvsock:///a \"b\"/v.sock:1024");
        assert_eq!(config.cri.listen.path(), folder.path().join("cri.sock"));
    }
}
