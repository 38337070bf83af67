//! `gangplank demo`: the whole way in one command, with a pod whose page nothing else reaches.
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
use self::pod::{Pod, PodError};
use crate::cli::forward::{Forward, ForwardError, PortPair, Report, Target, Way};
use crate::daemon::config::{Config, ConfigError, LogSection};
use crate::daemon::logs;
use crate::daemon::{Addresses, Daemon, DaemonError};
use crate::listen::BindError;
use crate::signals::Signals;

/// What crictl calls the pod: as long as the ids it prints.
const SANDBOX: &str = "d3m0c0ffee123";

/// The port that the documentation uses for the Kubernetes API, taken if it is free.
const KUBE_API_PORT: u16 = 8001;

/// Options of the demo.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Boot a guest with this program instead. It gets a folder for its files, prints the endpoint of the
    /// relay when that is ready, and ends at SIGTERM
    #[arg(long, value_name = "PROGRAM")]
    vm: Option<PathBuf>,
}

/// Why there is nothing to be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The pod does not run.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The demo's own configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon does not run.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The port is not forwarded.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The page does not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The system refuses something else.
    #[error("the demo cannot go on: {0}")]
    System(#[from] io::Error),
}

/// Shows it, then stays until a signal asks to end.
///
/// # Errors
/// When any part does not work, or stops working.
pub(crate) async fn run(options: &Options) -> Result<(), DemoError> {
    let mut signals = Signals::catch()?;
    let demo = tokio::select! {
        demo = Demo::start(options) => demo?,
        _ = signals.next() => return Ok(()),
    };
    demo.stay(&mut signals).await
}

/// All of its parts, which end together.
struct Demo {
    forward: Forward,
    daemon: Daemon,
    pod: Pod,
    // After all that has files there.
    _folder: TempDir,
}

impl Demo {
    async fn start(options: &Options) -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new().prefix("gangplank-demo-").tempdir()?;
        let pod = match &options.vm {
            None => Pod::embedded(folder.path()).await?,
            Some(program) => Pod::vm(program, folder.path()).await?,
        };
        let daemon = match Daemon::start(&configure(&folder, &pod, KUBE_API_PORT)?).await {
            Err(DaemonError::Listen(BindError::Tcp { .. })) => {
                Daemon::start(&configure(&folder, &pod, 0)?).await?
            }
            other => other?,
        };
        let pairs = vec![PortPair { address: None, local: 0, remote: pod.port, network: Network::Tcp }];
        let target = Target { pod: "demo".into(), pairs };
        let forward = Forward::start(&Way::Cri(daemon.addresses().cri.clone()), &[target]).await?;
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
        // Whoever still forwards is told that it is over; nobody is waited for.
        tokio::select! {
            _ = self.daemon.shut_down(Duration::ZERO) => {}
            _ = signals.next() => {}
        }
        result
    }
}

/// Shows the page, then waits for ever.
async fn introduce(addresses: &Addresses, port: u16, local: SocketAddr) -> Result<(), DemoError> {
    let started = Instant::now();
    let page = fetch(local).await?;
    let took = started.elapsed();
    write!(io::stdout(), "{}{}", came(local, &page, took), invitation(addresses, port, local))?;
    // Only now, so that events do not mix with what was said above.
    // Nobody audits a demo.
    logs::start(&LogSection { audit: false, ..LogSection::default() });
    std::future::pending().await
}

/// The daemon's configuration, as a file that can be looked at.
fn configure(folder: &TempDir, pod: &Pod, kube_api_port: u16) -> Result<Config, DemoError> {
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

fn came(local: SocketAddr, page: &str, took: Duration) -> String {
    let mut text = format!("GET http://{local}/ took {:.1} ms and gave:\n\n", took.as_secs_f64() * 1e3);
    for line in page.lines() {
        // Writing to a string does not fail.
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
