//! A program in a real terminal (tmux): reads its screen and presses keys.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::LIMIT;

/// How often the screen is checked.
const POLL: Duration = Duration::from_millis(50);

/// A terminal with 100 columns and 30 lines. Dropping it ends the program.
pub struct Terminal {
    server: PathBuf,
}

impl Terminal {
    /// Runs a shell command in it. It has its own tmux server, with a socket in the directory.
    ///
    /// # Panics
    /// If tmux is missing.
    pub fn run(dir: &Path, command: &str) -> Self {
        let terminal = Self { server: dir.join("tmux.sock") };
        // The screen remains after the command has ended, for the tests to read.
        let command = format!("{command}; echo \"status $?\"; sleep 60");
        let output =
            terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", &command]);
        assert!(output.status.success(), "tmux: {}", String::from_utf8_lossy(&output.stderr));
        terminal
    }

    /// What is on the screen now.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    /// Presses keys, by tmux' names: `q`, `C-c`.
    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Waits until the screen satisfies the condition, and returns it.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn shows(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "the screen never shows {what}:\n{screen}");
            thread::sleep(POLL);
        }
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.server).args(arguments).env("TERM", "xterm").env_remove("TMUX");
        command.output().expect("tmux is installed: `make packages`")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
