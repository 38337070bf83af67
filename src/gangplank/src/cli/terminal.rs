//! Drawing again and again on a terminal.

use std::io::{self, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// A part of the terminal that is drawn over. Dropping it leaves the terminal as it was.
pub(crate) struct Screen {
    /// The whole screen, on a page of its own; else the lines below the cursor.
    whole: bool,
    /// How the terminal took its keys before.
    keys: Option<Termios>,
    /// Lines that were drawn last.
    lines: usize,
}

impl Screen {
    /// The whole screen. Keys come one by one and are not shown.
    pub(crate) fn whole() -> io::Result<Self> {
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(Self { whole: true, keys: raw_keys(), lines: 0 })
    }

    /// The lines below what was written last.
    pub(crate) fn below() -> Self {
        Self { whole: false, keys: None, lines: 0 }
    }

    /// Draws over what was drawn before. What does not fit is cut.
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

    /// Writes a line for good, above what is drawn.
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
        // Nothing can be done about a terminal that is gone.
        if self.whole {
            let _ = write!(io::stdout(), "\x1b[?25h\x1b[?1049l");
            let _ = io::stdout().flush();
        }
        if let Some(keys) = &self.keys {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, keys);
        }
    }
}

/// Columns and lines; 80 and 24 where the terminal does not tell.
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
