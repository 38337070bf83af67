//! The benchmark: ours beside the reference server and a plain TCP relay, in one run on this machine.
//!
//! Every contender is a server between a client of this program and the pod, which is this program too.
//! Reference and ours are reached through a streaming URL by a fast SPDY client and by the Go client that
//! kubectl has; the floor, which speaks no SPDY, by plain TCP.

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
    /// Measure only what the daemon adds to a CRI call that it passes on
    Pass {
        /// The daemon [default: beside this program]
        #[arg(long)]
        daemon: Option<PathBuf>,
    },
    /// Measure only the ways into a QEMU guest
    Guest {
        /// Rounds
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// The floor: a plain TCP relay (the benchmark starts it itself)
    Floor(floor::Args),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Small sizes and two rounds: shows that everything works, and hardly more
    #[arg(long)]
    quick: bool,
    /// Fail when a mark is not met
    #[arg(long)]
    check: bool,
    /// These contenders only
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// These workloads only, without the memory measurement
    #[arg(long, value_delimiter = ',')]
    work: Vec<Work>,
    /// No table: one contender (--only) does one workload (--work) for so many seconds, to be looked at
    #[arg(long)]
    seconds: Option<u64>,
    /// Rounds, in place of the usual number
    #[arg(long)]
    rounds: Option<usize>,
    /// The daemon [default: beside this program]
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// The relay [default: beside this program]
    #[arg(long)]
    relay: Option<PathBuf>,
    /// Where reference-server and reference-client are
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/bin"))]
    reference: PathBuf,
}

/// Turns of CRI calls for each round of the others.
const PASS_TURNS: usize = 5;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Pass { daemon } => pass(daemon.as_ref()),
        Command::Guest { rounds } => guest(rounds),
        Command::Floor(args) => floor::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|e| {
        // The exit code still tells when nobody reads this.
        let _ = writeln!(std::io::stderr(), "gangplank-bench: {e}");
        ExitCode::FAILURE
    })
}

fn run(args: &RunArgs) -> Result<ExitCode> {
    let programs = programs(args)?;
    let pod = pod::start().doing("listening on free loopback ports")?;
    let dir = tempfile::Builder::new().prefix("gangplank-bench-").tempdir();
    let mut dir = dir.doing("creating a temporary directory")?;
    // Logs of a failed run are worth keeping.
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
            return Err(Error::Contender("--seconds needs one --only and one --work".into()));
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

/// Sizes such that a full run takes some four minutes and a quick one well under one.
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

/// The program that was named, or else the one beside this.
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
