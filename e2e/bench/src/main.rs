//! The benchmark: gangplank, the reference server and a plain TCP relay, compared in one run on this machine.
//!
//! Every contender is a server between a client and a pod, which are both part of this program. Gangplank and the
//! reference are reached through a streaming URL, by a fast SPDY client and by kubectl's Go client. The floor, which does
//! not speak SPDY, is reached over plain TCP.

mod cri;
mod error;
mod figures;
mod floor;
mod guest;
mod pass;
mod process;
mod report;
mod run;
mod server;
mod session;
mod spdy_session;
mod work;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use gangplank_e2e::bulk as pod;

use crate::error::{Doing, Error, Result};
use crate::run::{Plan, Sizes};
use crate::server::{Contender, Programs};
use crate::work::Work;

#[derive(Debug, Parser)]
#[command(name = "gangplank-bench", about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure all contenders and print one table
    Run(RunArgs),
    /// Measure only the delay that the daemon adds to a CRI call that passes through
    Pass {
        /// The daemon [default: next to this program]
        #[arg(long)]
        daemon: Option<PathBuf>,
    },
    /// Measure only the routes into a QEMU guest
    Guest {
        /// Number of rounds
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Run the floor, a plain TCP relay (the benchmark starts it itself)
    Floor(floor::Args),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Small sizes and two rounds: shows that everything works, but little more
    #[arg(long)]
    quick: bool,
    /// Fail if a target is not met
    #[arg(long)]
    check: bool,
    /// Only these contenders
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Only these workloads, without the memory measurement
    #[arg(long, value_delimiter = ',')]
    work: Vec<Work>,
    /// For profiling: run one workload (--work) with one contender (--only) for this many seconds, without a table
    #[arg(long)]
    seconds: Option<u64>,
    /// Number of rounds
    #[arg(long)]
    rounds: Option<usize>,
    /// The daemon [default: next to this program]
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// The relay [default: next to this program]
    #[arg(long)]
    relay: Option<PathBuf>,
    /// The directory of reference-server and reference-client
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/bin"))]
    reference: PathBuf,
}

/// Turns of CRI calls per round of the other measurements.
const PASS_TURNS: usize = 5;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Pass { daemon } => pass(daemon.as_ref()),
        Command::Guest { rounds } => guest(rounds),
        Command::Floor(args) => floor::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|e| {
        // If nobody reads this, the exit code still reports the failure.
        let _ = writeln!(std::io::stderr(), "gangplank-bench: {e}");
        ExitCode::FAILURE
    })
}

fn run(args: &RunArgs) -> Result<ExitCode> {
    let programs = programs(args)?;
    let pod = pod::start().doing("listening on free loopback ports")?;
    let dir = tempfile::Builder::new().prefix("gangplank-bench-").tempdir();
    let mut dir = dir.doing("creating a temporary directory")?;
    // Keep the logs of a failed run.
    dir.disable_cleanup(true);
    let place = (&programs, pod, dir.path());
    measure(args, place)
        .map_err(|e| Error::Contender(format!("{e} (logs in {})", dir.path().display())))
        .inspect(|_| {
            dir.disable_cleanup(false);
        })
}

fn measure(args: &RunArgs, place: (&Programs, pod::Ports, &Path)) -> Result<ExitCode> {
    let plan = plan(args);
    if let Some(seconds) = args.seconds {
        let ([contender], [work]) = (&args.only[..], &args.work[..]) else {
            return Err(Error::Contender("--seconds needs exactly one --only and one --work".into()));
        };
        let sizes = if contender.has_go_client() { plan.go } else { plan.fast };
        run::profile(*contender, *work, Duration::from_secs(seconds), sizes, place)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (programs, pod, dir) = place;
    let figures = run::run(&plan, programs, pod, dir)?;
    write!(std::io::stdout(), "{}", report::text(&figures)).doing("printing the table")?;
    let mut met = report::all_met(&figures);
    if args.only.is_empty() && args.work.is_empty() {
        let added = pass::measure(plan.rounds * PASS_TURNS, &programs.daemon, dir)?;
        write!(std::io::stdout(), "{added}").doing("printing the table")?;
        met &= added.is_met();
        let sizes = guest::Sizes { rounds: plan.rounds, ..guest::FULL };
        let guest = guest::measure(sizes, dir)?;
        write!(std::io::stdout(), "{guest}").doing("printing the table")?;
        met &= guest.is_met();
    }
    let failed = args.check && !met;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// With these sizes, a full run takes about four minutes and a quick one well under one.
fn plan(args: &RunArgs) -> Plan {
    let mut plan = Plan {
        contenders: Contender::value_variants().to_vec(),
        works: Work::ALL.to_vec(),
        rounds: 5,
        idle_rounds: 3,
        idle: 500,
        fast: Sizes { bytes: 512 << 20, connects: 2_000, round_trips: 10_000 },
        go: Sizes { bytes: 192 << 20, connects: 500, round_trips: 4_000 },
    };
    if args.quick {
        plan.rounds = 2;
        plan.idle_rounds = 1;
        plan.idle = 100;
        plan.fast = Sizes { bytes: 96 << 20, connects: 200, round_trips: 1_000 };
        plan.go = Sizes { bytes: 32 << 20, connects: 100, round_trips: 500 };
    }
    if !args.only.is_empty() {
        plan.contenders.clone_from(&args.only);
    }
    if !args.work.is_empty() {
        plan.works.clone_from(&args.work);
        plan.idle_rounds = 0;
    }
    plan.rounds = args.rounds.unwrap_or(plan.rounds);
    plan
}

fn pass(daemon: Option<&PathBuf>) -> Result<ExitCode> {
    let dir = tempfile::tempdir().doing("creating a temporary directory")?;
    let added = pass::measure(5 * PASS_TURNS, &beside(daemon, "gangplank")?, dir.path())?;
    write!(std::io::stdout(), "{added}").doing("printing the figures")?;
    Ok(ExitCode::SUCCESS)
}

fn guest(rounds: usize) -> Result<ExitCode> {
    let dir = tempfile::tempdir().doing("creating a temporary directory")?;
    let figures = guest::measure(guest::Sizes { rounds, ..guest::FULL }, dir.path())?;
    write!(std::io::stdout(), "{figures}").doing("printing the figures")?;
    Ok(ExitCode::SUCCESS)
}

/// The given program, or else the one next to this program.
fn beside(given: Option<&PathBuf>, name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().doing("finding this program")?;
    Ok(given.cloned().unwrap_or_else(|| own.with_file_name(name)))
}

fn programs(args: &RunArgs) -> Result<Programs> {
    Ok(Programs {
        daemon: beside(args.daemon.as_ref(), "gangplank")?,
        relay: beside(args.relay.as_ref(), "gangplank-relay")?,
        reference: args.reference.clone(),
    })
}
