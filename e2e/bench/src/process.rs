//! A program under measurement. The benchmark starts and ends it, and reads its CPU time and memory from the kernel.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::error::{Doing, Error, Result};

/// How long a program may take to end when asked to, before it is killed.
const END: Duration = Duration::from_secs(3);

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it. Its standard error goes to `NAME.log` in the directory.
    pub(crate) fn start(name: &str, logs: &Path, command: &mut Command) -> Result<Self> {
        let path = logs.join(format!("{name}.log"));
        let log = File::create(&path).doing(format!("creating {}", path.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .doing(format!("starting {program} (`make bench` builds it)"))?;
        let stdin = child.stdin.take();
        let Some(stdout) = child.stdout.take() else {
            return Err(Error::Contender(format!("{program} was started without standard output")));
        };
        Ok(Self { name: name.into(), child, stdin, stdout: BufReader::new(stdout) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time it has used so far: user and system time of all threads, including those that have ended. The
    /// kernel's clock of the process counts nanoseconds, while `/proc/PID/stat` counts ticks of 10 ms.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(self.nix_pid()).doing(self.about("finding the CPU clock"))?;
        let now = clock_gettime(clock).doing(self.about("reading the CPU clock"))?;
        Ok(Duration::from(now))
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).doing(self.about("reading the memory"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok())
            .ok_or_else(|| Error::Contender(format!("{path} has no VmRSS: has {} ended?", self.name)))
    }

    /// Reads the next line that it prints.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let n = self.stdout.read_line(&mut line).doing(format!("reading the output of {}", self.name))?;
        if n == 0 {
            return Err(Error::Contender(format!("{} ended without an answer", self.name)));
        }
        Ok(line.trim().into())
    }

    /// Sends it an empty line and reads one line back.
    pub(crate) fn ask(&mut self) -> Result<String> {
        if let Some(stdin) = &mut self.stdin {
            writeln!(stdin).doing(format!("asking {}", self.name))?;
        }
        self.line()
    }

    /// Fails if the program has ended.
    pub(crate) fn must_live(&mut self) -> Result<()> {
        match self.child.try_wait().doing(format!("checking on {}", self.name))? {
            None => Ok(()),
            Some(status) => Err(Error::Contender(format!("{} ended unexpectedly: {status}", self.name))),
        }
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn about(&self, what: &str) -> String {
        format!("{what} of {} (pid {})", self.name, self.pid())
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = kill(self.nix_pid(), Signal::SIGTERM);
        let until = Instant::now() + END;
        while !self.has_ended() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let logs = std::env::temp_dir();
        Process::start("shell-test", &logs, Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn answers_and_accounts() {
        let mut shell =
            shell("read x; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done $i; read y");
        let before = shell.cpu().unwrap();
        assert_eq!(shell.ask().unwrap(), "done 20000");
        assert!(shell.cpu().unwrap() > before);
        assert!(shell.resident().unwrap() > 0);
        shell.must_live().unwrap();
    }

    #[test]
    fn an_ended_program_is_an_error() {
        let mut shell = shell("exit 3");
        assert!(shell.line().unwrap_err().to_string().contains("ended without an answer"));
        while !shell.has_ended() {
            thread::yield_now();
        }
        assert!(shell.must_live().unwrap_err().to_string().contains("exit status: 3"));
    }
}
