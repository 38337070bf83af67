//! The delay that the daemon adds to a CRI call that passes through it: a unary call to a runtime in this program, with
//! and without the daemon in between.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};

use crate::cri::connect;
use crate::error::{Doing, Error, Result};
use crate::process::Process;
use crate::server::wait_for;

/// The most that the daemon may add to the median.
const MOST_ADDED: Duration = Duration::from_micros(200);

/// Calls per turn. Turns with and without the daemon alternate, so that a disturbance affects both.
const TURN: usize = 200;

/// A method that neither the runtime nor the daemon knows. It passes through like any other and is answered at once.
const METHOD: &str = "/runtime.v1.RuntimeService/Measured";

/// The median time of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Added {
    direct: Duration,
    through: Duration,
}

impl Added {
    fn added(self) -> Duration {
        self.through.saturating_sub(self.direct)
    }

    pub(crate) fn is_met(self) -> bool {
        self.added() <= MOST_ADDED
    }
}

impl std::fmt::Display for Added {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "\nunary CRI call p50: runtime {} us, through the daemon {} us, added {} us  at most {}  {}",
            self.direct.as_micros(),
            self.through.as_micros(),
            self.added().as_micros(),
            MOST_ADDED.as_micros(),
            if self.is_met() { "met" } else { "NOT met" },
        )
    }
}

/// Measures this many turns of each kind.
pub(crate) fn measure(turns: usize, daemon: &Path, dir: &Path) -> Result<Added> {
    let dir = dir.join("pass");
    fs::create_dir(&dir).doing(format!("creating {}", dir.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.doing("starting a runtime")?.block_on(async {
        let (behind, front) = (dir.join("runtime.sock"), dir.join("cri.sock"));
        let serving = serve(&behind)?;
        let _daemon = start(daemon, &dir, &front, &behind)?;
        let failed = |e: String| Error::Contender(format!("unary CRI calls: {e}"));
        let (mut direct, mut through) = (Vec::new(), Vec::new());
        let mut client = Caller::of(&behind).await.map_err(failed)?;
        let mut other = Caller::of(&front).await.map_err(failed)?;
        // The first turn warms up.
        for turn in 0..=turns {
            let (a, b) = (client.turn().await.map_err(failed)?, other.turn().await.map_err(failed)?);
            if turn > 0 {
                direct.extend(a);
                through.extend(b);
            }
        }
        serving.abort();
        Ok(Added { direct: median(direct), through: median(through) })
    })
}

fn serve(socket: &Path) -> Result<JoinHandle<()>> {
    let listener = UnixListener::bind(socket).doing(format!("listening on {}", socket.display()))?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = hyper::service::service_fn(|_: Request<hyper::body::Incoming>| async {
                let answer: Response<Body> = Status::unimplemented("").into_http();
                Ok::<_, Infallible>(answer)
            });
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), answer));
        }
    }))
}

fn start(daemon: &Path, dir: &Path, front: &Path, behind: &Path) -> Result<Process> {
    let config = dir.join("gangplank.toml");
    let (front_url, behind_url) = (front.display(), behind.display());
    let text = format!("[cri]\nlisten = \"unix://{front_url}\"\nupstream = \"unix://{behind_url}\"\n");
    fs::write(&config, text).doing(format!("writing {}", config.display()))?;
    let mut process =
        Process::start("daemon", dir, Command::new(daemon).args(["serve", "--config"]).arg(&config))?;
    wait_for(front, &mut process)?;
    Ok(process)
}

struct Caller(tonic::client::Grpc<tonic::transport::Channel>);

impl Caller {
    async fn of(socket: &Path) -> std::result::Result<Self, String> {
        connect(socket)
            .await
            .map(|channel| Self(tonic::client::Grpc::new(channel)))
            .map_err(|e| format!("{e:?}"))
    }

    async fn turn(&mut self) -> std::result::Result<Vec<Duration>, String> {
        let mut times = Vec::with_capacity(TURN);
        for _ in 0..TURN {
            let begun = Instant::now();
            self.call().await?;
            times.push(begun.elapsed());
        }
        Ok(times)
    }

    async fn call(&mut self) -> std::result::Result<(), String> {
        self.0.ready().await.map_err(|e| e.to_string())?;
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        match self.0.unary(tonic::Request::new(()), PathAndQuery::from_static(METHOD), codec).await {
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            other => Err(format!("{other:?} instead of the runtime's answer")),
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
