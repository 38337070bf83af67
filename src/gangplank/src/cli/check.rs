//! `gangplank check`: the doctor. Looks at one thing after the other, and says of what is wrong what to do.

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

/// How long a relay may take to show that it is there.
const PROBE: Duration = Duration::from_secs(3);

/// Descriptors that a busy daemon needs: two for each connection, and as many again for pipes.
const DESCRIPTORS: u64 = 4096;

/// CAP_SYS_ADMIN's bit in a set of capabilities (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;

/// Why the exit status is not zero.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// Something is wrong.
    #[error("{failed} of {all} checks failed; what to do about each is above")]
    Failed {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
    /// The checks themselves cannot be made.
    #[error("cannot check: {0}")]
    System(#[from] io::Error),
}

/// What was looked at, and what is wrong with it.
type Finding = (String, Result<String, String>);

/// Checks what this configuration needs, and prints what was found.
///
/// # Errors
/// When anything is wrong.
pub(crate) async fn run(file: &Path) -> Result<(), CheckError> {
    let mut findings = Vec::new();
    match Config::load(file) {
        Err(error) => findings.push(("configuration".into(), Err(error.to_string()))),
        Ok(config) => {
            let pods = config.pod.len();
            findings.push(("configuration".into(), Ok(format!("{} is sound; {pods} pods", file.display()))));
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

/// Where the daemon listens, or could.
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
        Err(ErrorKind::NotFound) => "it is not there; start \"gangplank serve\"".into(),
        Err(ErrorKind::ConnectionRefused) => {
            "nobody answers any more; start \"gangplank serve\", which replaces it".into()
        }
        Err(ErrorKind::PermissionDenied) => {
            "you may not use it; run this as its owner, or set socket_mode".into()
        }
        Err(kind) => format!("{kind}; see what it is"),
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
            "{address}: the daemon runs and does not listen there; start it again with this file"
        )),
        Ok(_) => Ok(format!("{address} can be had")),
        Err(error) if runs && error.kind() == ErrorKind::AddrInUse => {
            Ok(format!("{address} is in use, as it should"))
        }
        Err(error) => Err(format!("{address}: {error}; stop whoever uses it or choose another")),
    }
}

/// What the machine must have and allow.
fn machine(config: &Config, findings: &mut Vec<Finding>) {
    let any = |wanted: fn(&PodEndpoint) -> bool| config.pod.iter().any(|pod| wanted(&pod.endpoint));
    if any(|endpoint| endpoint.kind() == "vsock") {
        let here = |file: &str, module: &str| match fs::metadata(file) {
            Ok(_) => Ok(format!("{file} is there")),
            Err(_) => Err(format!("{file} is not there; run \"modprobe {module}\"")),
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
        return Ok("this user may enter them".into());
    }
    Err("this user may not enter those of pods; run gangplank as root or with CAP_SYS_ADMIN".into())
}

fn descriptors() -> Result<String, String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < DESCRIPTORS => Err(format!(
            "at most {limit} may be open, which is some {} connections; raise it with \"ulimit -n\" or LimitNOFILE=",
            limit / 4
        )),
        Some(limit) => Ok(format!("{limit} may be open")),
        None => Ok("as many as one likes may be open".into()),
    }
}

async fn relays(config: &Config, findings: &mut Vec<Finding>) -> io::Result<()> {
    let dialer = Dialer::new(Arc::new(Registry::default()), Accounts::default(), PROBE)?;
    for pod in &config.pod {
        let endpoint = &pod.endpoint;
        let pod: Pod = pod.to_pod(Source::Configuration, SystemTime::now());
        let found = match (dialer.probe(&pod, PROBE).await, endpoint) {
            (Ok(()), PodEndpoint::Netns(path)) => Ok(format!("{} is there", path.display())),
            (Ok(()), endpoint) => Ok(format!("the relay at {endpoint} answers")),
            (Err(error), _) => Err(error.cause),
        };
        findings.push((format!("pod {}/{}", pod.namespace, pod.name), found));
    }
    Ok(())
}
