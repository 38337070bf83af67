//! The demo's pod: a process that runs it, and what that says of it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long a pod may take to be ready. A guest boots in 3 s, on a busy machine without KVM in 30.
const READY: Duration = Duration::from_secs(120);

/// The port of the page, unless the pod says otherwise.
const PAGE: u16 = 80;

/// A pod that runs. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Pod {
    /// How its relay is reached.
    pub(super) endpoint: String,
    /// The port of its page.
    pub(super) port: u16,
    child: Child,
    output: BufReader<ChildStdout>,
    // Taken from the child, whose `wait` would close it, and with that end the pod.
    _input: Option<ChildStdin>,
}

/// Why there is no pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// Its program does not start.
    #[error("cannot start the pod with {}: {source}; see whether it is there and may be run", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It ended, or said nothing for too long.
    #[error("the pod is not ready: {0}; see its messages above")]
    NotReady(String),
    /// It has ended.
    #[error("the pod has ended ({0}); start the demo again")]
    Ended(String),
}

impl Pod {
    /// A pod in a network namespace of its own on this machine, with its relay.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(super) async fn embedded(folder: &Path) -> Result<Self, PodError> {
        let program = std::env::current_exe()
            .map_err(|source| PodError::Start { program: "gangplank".into(), source })?;
        Self::start(&program, Command::new(&program).arg("demo-guest").arg(folder)).await
    }

    /// A pod in a VM, which `program` boots.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(super) async fn vm(program: &Path, folder: &Path) -> Result<Self, PodError> {
        Self::start(program, Command::new(program).arg(folder)).await
    }

    async fn start(program: &Path, command: &mut Command) -> Result<Self, PodError> {
        let failed = |source| PodError::Start { program: program.into(), source };
        // A group of its own: Ctrl-C is for us, and the pod ends when we say so. It also ends when its standard
        // input does, which we hold, so it never outlives us.
        let spawned =
            command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = spawned.spawn().map_err(failed)?;
        let output = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let input = child.stdin.take();
        let output = BufReader::new(output);
        let mut pod = Self { endpoint: String::new(), port: PAGE, child, output, _input: input };
        let line = tokio::time::timeout(READY, pod.first_line())
            .await
            .map_err(|_| PodError::NotReady(format!("it said nothing for {} s", READY.as_secs())))??;
        pod.understand(&line)?;
        Ok(pod)
    }

    /// `ENDPOINT` or `ENDPOINT PORT`.
    fn understand(&mut self, line: &str) -> Result<(), PodError> {
        let strange =
            || PodError::NotReady(format!("it said {line:?} rather than ENDPOINT or ENDPOINT PORT"));
        let (endpoint, port) = match line.trim_end().rsplit_once(' ') {
            Some((endpoint, port)) => (endpoint, port.parse().map_err(|_| strange())?),
            None => (line.trim_end(), PAGE),
        };
        endpoint.parse::<gangplank_dial::PodEndpoint>().map_err(|_| strange())?;
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

    /// Waits until it ends by itself.
    pub(super) async fn ended(&mut self) -> PodError {
        PodError::Ended(match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(pid) = pid {
            // Fails only when it has ended already.
            let _ = kill_process_group(pid, Signal::TERM);
        }
    }
}
