//! A program started by a test, with its output in a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

/// How long anything may take before the test fails. It only ends tests that hang, so it is generous.
pub const LIMIT: Duration = Duration::from_secs(180);

/// How often a condition is checked.
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
    /// If it does not start.
    pub fn start(name: &str, program: &Path, dir: &Path, build: impl FnOnce(&mut Command)) -> Self {
        // setpriv (util-linux) makes the kernel kill the program if the test is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        build(&mut command);
        Self::spawn(name, command, dir)
    }

    /// The same, but it outlives the thread that started it: for programs that several tests share, where their
    /// namespace ends what they leave behind.
    ///
    /// # Panics
    /// If it does not start.
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

    /// Its output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it is still running.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the condition, which examines the program's output.
    ///
    /// # Panics
    /// If the program ends first, or the limit passes.
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
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends this signal.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("cannot send {signal:?} to {}: {error}", self.name));
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it to end, without a limit.
    pub fn wait_for_ever(&mut self) {
        // It has ended, whatever the status.
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If the limit passes.
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
