//! `gangplank check`: checks what a configuration needs, and suggests a fix for each problem.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gangplank_dial::PodEndpoint;

use crate::daemon::config::Config;
use crate::daemon::connections::Accounts;
use crate::daemon::dial::Dialer;
use crate::daemon::pods::{Pod, Registry, Source};
use crate::unix_url::UnixUrl;

/// How long a relay may take to answer.
const PROBE: Duration = Duration::from_secs(3);

/// How many descriptors a busy daemon should be able to open.
const DESCRIPTORS: u64 = 4096;

/// CAP_SYS_ADMIN's bit in a set of capabilities (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;

/// Why the exit status is not zero.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// Some checks failed.
    #[error("{failed} of {all} checks failed; each is listed above with a suggested fix")]
    Failed {
        /// How many checks failed.
        failed: usize,
        /// How many were made.
        all: usize,
    },
    /// The checks could not be made.
    #[error("cannot check: {0}")]
    System(#[from] io::Error),
}

/// What was checked, and either its state or the problem with a fix.
type Finding = (String, Result<String, String>);

/// Checks what this configuration needs, and prints what was found.
///
/// # Errors
/// If any check failed.
pub(crate) async fn run(file: &Path) -> Result<(), CheckError> {
    let mut findings = Vec::new();
    match Config::load(file) {
        Err(error) => findings.push(("configuration".into(), Err(error.to_string()))),
        Ok(config) => {
            let pods = config.pod.len();
            findings.push(("configuration".into(), Ok(format!("{} is valid; {pods} pods", file.display()))));
            listeners(&config, &mut findings);
            machine(&config, &mut findings);
            relays(&config, &mut findings).await?;
        }
    }
    report(&findings)
}

fn report(findings: &[Finding]) -> Result<(), CheckError> {
    let mut out = io::stdout();
    for (what, found) in findings {
        match found {
            Ok(good) => writeln!(out, "ok     {what}: {good}")?,
            Err(bad) => writeln!(out, "WRONG  {what}: {bad}")?,
        }
    }
    match findings.iter().filter(|(_, found)| found.is_err()).count() {
        0 => Ok(()),
        failed => Err(CheckError::Failed { failed, all: findings.len() }),
    }
}

/// Whether the daemon listens where it should, or could.
fn listeners(config: &Config, findings: &mut Vec<Finding>) {
    let runs = UnixStream::connect(config.cri.listen.path()).is_ok();
    findings.push(("CRI socket".into(), socket(&config.cri.listen)));
    if let Some(rpc) = &config.jsonrpc {
        findings.push(("JSON-RPC socket".into(), socket(&rpc.listen)));
    }
    if let Some(runtime) = &config.cri.upstream {
        findings.push(("container runtime".into(), upstream(runtime)));
    }
    let ports = [
        ("streaming server", Some(config.streaming.listen)),
        ("Kubernetes API", config.kube_api.as_ref().map(|kube_api| kube_api.listen)),
        ("metrics", config.metrics.as_ref().map(|metrics| metrics.listen)),
    ];
    for (what, address) in ports {
        if let Some(address) = address {
            findings.push((what.into(), port(address, runs)));
        }
    }
}

fn socket(url: &UnixUrl) -> Result<String, String> {
    let advice = match UnixStream::connect(url.path()).map_err(|error| error.kind()) {
        Ok(_) => return Ok(format!("{url} answers")),
        Err(ErrorKind::NotFound) => "it does not exist; start \"gangplank serve\"".into(),
        Err(ErrorKind::ConnectionRefused) => {
            "nothing listens on it; start \"gangplank serve\", which replaces it".into()
        }
        Err(ErrorKind::PermissionDenied) => {
            "permission denied; run this as its owner, or set socket_mode".into()
        }
        Err(kind) => format!("{kind}; check what this path is"),
    };
    Err(format!("{url}: {advice}"))
}

fn upstream(url: &UnixUrl) -> Result<String, String> {
    match UnixStream::connect(url.path()) {
        Ok(_) => Ok(format!("{url} answers")),
        Err(error) => Err(format!("{url}: {error}; start the runtime, or correct cri.upstream")),
    }
}

fn port(address: SocketAddr, runs: bool) -> Result<String, String> {
    match TcpListener::bind(address) {
        Ok(_) if runs && address.port() != 0 => Err(format!(
            "{address}: the daemon is running but does not listen there; restart it with this file"
        )),
        Ok(_) => Ok(format!("{address} is free")),
        Err(error) if runs && error.kind() == ErrorKind::AddrInUse => {
            Ok(format!("{address} is in use by the daemon, as expected"))
        }
        Err(error) => {
            Err(format!("{address}: {error}; stop the program that uses it or choose another port"))
        }
    }
}

/// Kernel modules, permissions and limits that the configuration needs.
fn machine(config: &Config, findings: &mut Vec<Finding>) {
    let any = |wanted: fn(&PodEndpoint) -> bool| config.pod.iter().any(|pod| wanted(&pod.endpoint));
    if any(|endpoint| endpoint.kind() == "vsock") {
        let here = |file: &str, module: &str| match fs::metadata(file) {
            Ok(_) => Ok(format!("{file} exists")),
            Err(_) => Err(format!("{file} does not exist; run \"modprobe {module}\"")),
        };
        findings.push(("vsock".into(), here("/dev/vsock", "vsock")));
        findings.push(("vhost_vsock".into(), here("/dev/vhost-vsock", "vhost_vsock")));
    }
    if any(|endpoint| endpoint.kind() == "netns") {
        findings.push(("network namespaces".into(), namespaces()));
    }
    findings.push(("open files".into(), descriptors()));
}

fn namespaces() -> Result<String, String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    if set & (1 << CAP_SYS_ADMIN) != 0 {
        return Ok("this user may enter the namespaces of pods".into());
    }
    Err("this user may not enter the namespaces of pods; run gangplank as root or with CAP_SYS_ADMIN".into())
}

fn descriptors() -> Result<String, String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < DESCRIPTORS => Err(format!(
            "the limit is {limit}, enough for about {} connections; raise it with \"ulimit -n\" or LimitNOFILE=",
            limit / 4
        )),
        Some(limit) => Ok(format!("the limit is {limit}")),
        None => Ok("no limit on open files".into()),
    }
}

async fn relays(config: &Config, findings: &mut Vec<Finding>) -> io::Result<()> {
    let dialer = Dialer::new(Arc::new(Registry::default()), Accounts::default(), PROBE)?;
    for pod in &config.pod {
        let endpoint = &pod.endpoint;
        let pod: Pod = pod.to_pod(Source::Configuration, SystemTime::now());
        let found = match (dialer.probe(&pod, PROBE).await, endpoint) {
            (Ok(()), PodEndpoint::Netns(path)) => Ok(format!("{} exists", path.display())),
            (Ok(()), endpoint) => Ok(format!("the relay at {endpoint} answers")),
            (Err(error), _) => Err(error.cause),
        };
        findings.push((format!("pod {}/{}", pod.namespace, pod.name), found));
    }
    Ok(())
}
