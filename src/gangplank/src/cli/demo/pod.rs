//! The demo's pod: the process that runs it, and the endpoint that the process reports.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long a pod may take to become ready. A guest boots in 3 s, or in 30 s on a busy machine without KVM.
const READY: Duration = Duration::from_secs(120);

/// The port of the page, unless the pod says otherwise.
const PAGE: u16 = 80;

/// A running pod. Dropping it ends it.
#[derive(Debug)]
pub(super) struct DemoPod {
    /// The endpoint of its relay.
    pub(super) endpoint: String,
    /// The port of its web page.
    pub(super) port: u16,
    child: Child,
    output: BufReader<ChildStdout>,
    // Taken from the child, because `Child::wait` would close it, which ends the pod.
    _input: Option<ChildStdin>,
}

/// Why the pod failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// Its program could not be started.
    #[error("cannot start the pod with {}: {source}; check that it exists and is executable", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It exited, printed something else, or took too long.
    #[error("the pod is not ready: {0}; see its messages above")]
    NotReady(String),
    /// It has ended.
    #[error("the pod has ended ({0}); start the demo again")]
    Ended(String),
}

impl DemoPod {
    /// A pod in a network namespace of its own on this machine, with its relay.
    ///
    /// # Errors
    /// If it does not become ready.
    pub(super) async fn embedded(folder: &Path) -> Result<Self, PodError> {
        let program = std::env::current_exe()
            .map_err(|source| PodError::Start { program: "gangplank".into(), source })?;
        Self::start(&program, Command::new(&program).arg("demo-guest").arg(folder)).await
    }

    /// A pod in a VM, which `program` boots.
    ///
    /// # Errors
    /// If it does not become ready.
    pub(super) async fn vm(program: &Path, folder: &Path) -> Result<Self, PodError> {
        Self::start(program, Command::new(program).arg(folder)).await
    }

    async fn start(program: &Path, command: &mut Command) -> Result<Self, PodError> {
        let failed = |source| PodError::Start { program: program.into(), source };
        // In its own process group, so that Ctrl-C reaches only us and we end the pod in order. The pod also ends
        // when its standard input does, so it never outlives us.
        let spawned =
            command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = spawned.spawn().map_err(failed)?;
        let output = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let input = child.stdin.take();
        let output = BufReader::new(output);
        let mut pod = Self { endpoint: String::new(), port: PAGE, child, output, _input: input };
        let line = tokio::time::timeout(READY, pod.first_line())
            .await
            .map_err(|_| PodError::NotReady(format!("it printed nothing within {} s", READY.as_secs())))??;
        pod.parse_first_line(&line)?;
        Ok(pod)
    }

    /// Parses `ENDPOINT` or `ENDPOINT PORT`.
    fn parse_first_line(&mut self, line: &str) -> Result<(), PodError> {
        let malformed =
            || PodError::NotReady(format!("it printed {line:?} instead of ENDPOINT or ENDPOINT PORT"));
        let (endpoint, port) = match line.trim_end().rsplit_once(' ') {
            Some((endpoint, port)) => (endpoint, port.parse().map_err(|_| malformed())?),
            None => (line.trim_end(), PAGE),
        };
        endpoint.parse::<gangplank_dial::PodEndpoint>().map_err(|_| malformed())?;
        (self.endpoint, self.port) = (endpoint.into(), port);
        Ok(())
    }

    async fn first_line(&mut self) -> Result<String, PodError> {
        let mut line = String::new();
        match self.output.read_line(&mut line).await {
            Ok(0) => Err(PodError::NotReady("it has ended".into())),
            Ok(_) => Ok(line),
            Err(error) => Err(PodError::NotReady(error.to_string())),
        }
    }

    /// Waits until the pod exits.
    pub(super) async fn ended(&mut self) -> PodError {
        PodError::Ended(match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        })
    }
}

impl Drop for DemoPod {
    fn drop(&mut self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(pid) = pid {
            // Fails only if the pod has already ended.
            let _ = kill_process_group(pid, Signal::TERM);
        }
    }
}
