//! A run: every contender does every workload, in rounds, so that a temporary disturbance of the machine affects all of
//! them.

use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};
use crate::figures::{Figures, Metric};
use crate::server::{Contender, Programs, Server};
use crate::work::{self, Work};
use gangplank_e2e::bulk::{CHECKED, Ports};

/// What to measure, and how much of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) contenders: Vec<Contender>,
    pub(crate) works: Vec<Work>,
    pub(crate) rounds: usize,
    /// How many fresh servers to start per contender to measure memory.
    pub(crate) idle_rounds: usize,
    /// Idle connections in one session. There are two sessions, because a session of gangplank's has at most 1,024
    /// streams.
    pub(crate) idle: usize,
    pub(crate) fast: Sizes,
    pub(crate) go: Sizes,
}

/// The sizes of the workloads for one kind of client. The Go client is several times slower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Bytes in a download or upload.
    pub(crate) bytes: u64,
    pub(crate) connects: usize,
    pub(crate) round_trips: usize,
}

const IDLE_SESSIONS: usize = 2;

/// How long to wait before reading the CPU time, for the work that a server does after its client has its answer.
const SETTLE: Duration = Duration::from_millis(20);

/// How long to wait before reading the memory, so that the connections are really idle.
const IDLE_SETTLE: Duration = Duration::from_millis(500);

/// A contender with its server.
struct Running {
    contender: Contender,
    server: usize,
}

/// The state of a run.
struct Run<'a> {
    plan: &'a Plan,
    programs: &'a Programs,
    pod: Ports,
    dir: &'a Path,
    servers: Vec<(Contender, Server)>,
    figures: Figures,
}

/// Runs the plan. Progress goes to standard error.
pub(crate) fn run(plan: &Plan, programs: &Programs, pod: Ports, dir: &Path) -> Result<Figures> {
    let mut run = Run { plan, programs, pod, dir, servers: Vec::new(), figures: Figures::default() };
    let running = run.start()?;
    for round in 0..plan.rounds {
        say(&format!("round {} of {}", round + 1, plan.rounds));
        for work in plan.works.iter().copied() {
            for turn in 0..running.len() {
                // A different contender goes first in each round.
                let who = &running[(turn + round) % running.len()];
                run.measure(who, work)
                    .map_err(|e| Error::Contender(format!("{}, {work:?}: {e}", who.contender.name())))?;
            }
        }
    }
    // Stop them, so that they do not disturb the fresh servers.
    run.servers.clear();
    for round in 0..plan.idle_rounds {
        say(&format!("memory, {} of {}", round + 1, plan.idle_rounds));
        for contender in plan.contenders.iter().copied().filter(|c| !c.has_go_client()) {
            run.measure_idle(contender)
                .map_err(|e| Error::Contender(format!("{}, idle connections: {e}", contender.name())))?;
        }
    }
    Ok(run.figures)
}

/// Repeats one workload with one contender, so that its server can be profiled meanwhile.
pub(crate) fn profile(
    contender: Contender,
    work: Work,
    time: Duration,
    sizes: Sizes,
    (programs, pod, dir): (&Programs, Ports, &Path),
) -> Result<()> {
    let mut server = Server::start(contender, programs, pod, dir)?;
    for process in server.processes() {
        say(&format!("{} is pid {}", process.name(), process.pid()));
    }
    let (start, cpu) = (Instant::now(), server.cpu()?);
    let mut times = 0u64;
    while start.elapsed() < time {
        let mut session = server.session(contender.has_go_client())?;
        once(session.as_mut(), work, sizes)?;
        times += 1;
    }
    let took = start.elapsed().as_secs_f64();
    let per = match work {
        Work::Download | Work::Upload => format!("{:.0} MB/s", (times * sizes.bytes) as f64 / took / 1e6),
        Work::Connect => format!("{:.0} connections/s", times as f64 * sizes.connects as f64 / took),
        Work::RoundTrip => format!("{:.0} round trips/s", times as f64 * sizes.round_trips as f64 / took),
    };
    say(&format!("{per} for {took:.1} s"));
    for (process, used) in server.processes().iter().zip(since(&cpu, &server.cpu()?)) {
        say(&format!("{} used {used:.2} s of CPU", process.name()));
    }
    Ok(())
}

/// Does a workload once and returns the latencies.
fn once(session: &mut dyn crate::session::Session, work: Work, sizes: Sizes) -> Result<Vec<Duration>> {
    match work {
        Work::Download => Ok(vec![work::download(session, sizes.bytes)?]),
        Work::Upload => Ok(vec![work::upload(session, sizes.bytes)?]),
        Work::Connect => (0..sizes.connects).map(|_| work::connect(session)).collect(),
        Work::RoundTrip => {
            let conn = work::open_echo(session)?;
            (0..sizes.round_trips).map(|_| work::round_trip(session, conn)).collect()
        }
    }
}

impl Run<'_> {
    /// Starts every server, and checks that each contender passes bytes through unchanged.
    fn start(&mut self) -> Result<Vec<Running>> {
        let mut running = Vec::new();
        for contender in self.plan.contenders.iter().copied() {
            say(&format!("starting {}", contender.name()));
            let started = self.servers.iter().position(|(server, _)| *server == contender.server());
            let server = match started {
                Some(server) => server,
                None => {
                    let server = Server::start(contender, self.programs, self.pod, self.dir)?;
                    self.servers.push((contender.server(), server));
                    self.servers.len() - 1
                }
            };
            let who = Running { contender, server };
            self.verify(&who).map_err(|e| Error::Contender(format!("{}: {e}", contender.name())))?;
            running.push(who);
        }
        Ok(running)
    }

    fn verify(&mut self, who: &Running) -> Result<()> {
        let mut session = self.servers[who.server].1.session(who.contender.has_go_client())?;
        work::download(session.as_mut(), CHECKED)?;
        work::upload(session.as_mut(), CHECKED)?;
        work::connect(session.as_mut())?;
        work::open_echo(session.as_mut())?;
        Ok(())
    }

    fn measure(&mut self, who: &Running, work: Work) -> Result<()> {
        let contender = who.contender;
        let sizes = if contender.has_go_client() { self.plan.go } else { self.plan.fast };
        let server = &mut self.servers[who.server].1;
        let mut session = server.session(contender.has_go_client())?;
        let before = server.cpu()?;
        let mut latencies = once(session.as_mut(), work, sizes)?;
        thread::sleep(SETTLE);
        let cpu = since(&before, &server.cpu()?);
        let figures = &mut self.figures;
        match work {
            Work::Download | Work::Upload => {
                let (rate, per_gb) = match work {
                    Work::Download => (Metric::Download, Metric::DownloadCpu),
                    _ => (Metric::Upload, Metric::UploadCpu),
                };
                let took: f64 = latencies.iter().map(Duration::as_secs_f64).sum();
                figures.add(contender, rate, sizes.bytes as f64 / took / 1e6);
                let gb = sizes.bytes as f64 / 1e9;
                figures.add_parts(contender, per_gb, cpu.iter().map(|s| s / gb).collect());
            }
            Work::Connect => {
                figures.add_latencies(contender, [Metric::ConnectP50, Metric::ConnectP99], &mut latencies);
                let ms = 1e3 / sizes.connects as f64;
                figures.add_parts(contender, Metric::ConnectCpu, cpu.iter().map(|s| s * ms).collect());
            }
            Work::RoundTrip => {
                let metrics = [Metric::RoundTripP50, Metric::RoundTripP99];
                figures.add_latencies(contender, metrics, &mut latencies);
            }
        }
        Ok(())
    }

    /// Measures how much a fresh server grows with idle connections. Each connection is proven to work by one byte; a
    /// connection that has already ended has warmed the server up.
    fn measure_idle(&mut self, contender: Contender) -> Result<()> {
        let mut server = Server::start(contender, self.programs, self.pod, self.dir)?;
        let mut sessions = Vec::new();
        for _ in 0..IDLE_SESSIONS {
            let mut session = server.session(false)?;
            work::connect(session.as_mut())?;
            sessions.push(session);
        }
        thread::sleep(IDLE_SETTLE);
        let before = server.resident()?;
        for session in &mut sessions {
            for _ in 0..self.plan.idle {
                work::open_echo(session.as_mut())?;
            }
        }
        thread::sleep(IDLE_SETTLE);
        let count = (self.plan.idle * IDLE_SESSIONS) as f64;
        let after = server.resident()?;
        let parts = before.iter().zip(after).map(|(before, after)| (after as f64 - *before as f64) / count);
        self.figures.add_parts(contender, Metric::Idle, parts.collect());
        Ok(())
    }
}

/// The CPU seconds that each process has used in between.
fn since(before: &[Duration], after: &[Duration]) -> Vec<f64> {
    before.iter().zip(after).map(|(before, after)| after.saturating_sub(*before).as_secs_f64()).collect()
}

fn say(what: &str) {
    // Go on even if nobody reads the progress.
    let _ = writeln!(std::io::stderr(), "{what}").doing("printing the progress");
}
