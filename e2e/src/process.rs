//! A program that a test has started, with its output in a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

/// How long anything may take before the test fails: only to end a test that hangs, so generous.
pub const LIMIT: Duration = Duration::from_secs(180);

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(10);

/// A running program. It is killed when this is dropped, and when the thread that started it ends.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, its output in `DIR/NAME.log`.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start(name: &str, program: &Path, dir: &Path, build: impl FnOnce(&mut Command)) -> Self {
        // setpriv (of util-linux) has the kernel kill the program should the test be killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        build(&mut command);
        Self::spawn(name, command, dir)
    }

    /// The same, but it outlives the thread that started it: for what several tests share, where the namespace in
    /// which they run ends what they leave.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start_shared(name: &str, program: &Path, dir: &Path, build: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(program);
        build(&mut command);
        Self::spawn(name, command, dir)
    }

    fn spawn(name: &str, mut command: Command, dir: &Path) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file =
            File::create(&log).unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// All that it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the condition, which looks at the program's output.
    ///
    /// # Panics
    /// Where the program ends first, or the limit passes.
    pub fn wait_until<T>(&mut self, what: &str, mut condition: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            let alive = self.is_alive();
            if let Some(value) = condition(&self.output()) {
                return value;
            }
            assert!(alive, "{} ended before {what}; it wrote:\n{}", self.name, self.output());
            assert!(Instant::now() < deadline, "{}: not {what} after {LIMIT:?}", self.name);
            thread::sleep(POLL);
        }
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// Where it has ended already.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends this signal.
    ///
    /// # Panics
    /// Where it has ended already.
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("cannot send {signal:?} to {}: {error}", self.name));
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns when it has ended, however late.
    pub fn wait_for_ever(&mut self) {
        // Whatever the status, it has ended.
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where the limit passes.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} still runs after {LIMIT:?}", self.name);
            thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("---- {} wrote:\n{}", self.name, self.output());
        }
    }
}
