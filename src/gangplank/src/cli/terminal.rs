//! Redraws a part of the terminal in place.

use std::io::{self, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// A part of the terminal that is redrawn in place. Dropping it restores the terminal.
pub(crate) struct Screen {
    /// Whether it is the whole alternate screen, or the lines below the cursor.
    whole: bool,
    /// The terminal's modes before we changed them.
    keys: Option<Termios>,
    /// How many lines were drawn last.
    lines: usize,
}

impl Screen {
    /// Switches to the alternate screen. Keys are delivered one by one and not echoed.
    pub(crate) fn whole() -> io::Result<Self> {
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(Self { whole: true, keys: raw_keys(), lines: 0 })
    }

    /// Uses the lines below the cursor.
    pub(crate) fn below() -> Self {
        Self { whole: false, keys: None, lines: 0 }
    }

    /// Replaces what was drawn before. Text that does not fit is cut off.
    pub(crate) fn draw(&mut self, text: &str) -> io::Result<()> {
        let (width, height) = size();
        let mut out = if self.whole { "\x1b[H".to_owned() } else { self.up() };
        let fits = if self.whole { height.saturating_sub(1) } else { height };
        self.lines = 0;
        for line in text.lines().take(fits) {
            out.extend(line.chars().take(width));
            out += "\x1b[K\n";
            self.lines += 1;
        }
        out += "\x1b[J";
        let mut stdout = io::stdout();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()
    }

    /// Writes a permanent line above the drawn part.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        let up = self.up();
        self.lines = 0;
        writeln!(io::stdout(), "{up}\x1b[J{line}")
    }

    fn up(&self) -> String {
        if self.lines == 0 { String::new() } else { format!("\x1b[{}A\r", self.lines) }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Errors are ignored: the terminal may be gone.
        if self.whole {
            let _ = write!(io::stdout(), "\x1b[?25h\x1b[?1049l");
            let _ = io::stdout().flush();
        }
        if let Some(keys) = &self.keys {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, keys);
        }
    }
}

/// Columns and lines of the terminal; 80 and 24 if unknown.
fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

fn raw_keys() -> Option<Termios> {
    let before = tcgetattr(io::stdin()).ok()?;
    let mut keys = before.clone();
    keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(io::stdin(), OptionalActions::Now, &keys).ok()?;
    Some(before)
}
