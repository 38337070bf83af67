//! Shell completions and manual pages, generated from the definition of the command line.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Why the pages could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; name an existing, writable folder", file.display())]
pub(crate) struct PageError {
    file: PathBuf,
    source: io::Error,
}

/// Prints the completions of a shell.
///
/// # Errors
/// If standard output is closed.
pub(crate) fn completions(shell: Shell, mut command: Command) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "gangplank", &mut text);
    io::Write::write_all(&mut io::stdout(), &text)
}

/// Writes a page for the program and one for each command.
///
/// # Errors
/// If the folder cannot be written to.
pub(crate) fn pages(folder: &Path, command: Command) -> Result<(), PageError> {
    let mut command = command.flatten_help(false);
    command.build();
    page(folder, &command, "gangplank")?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        page(folder, sub, &format!("gangplank-{}", sub.get_name()))?;
    }
    Ok(())
}

fn page(folder: &Path, command: &Command, name: &str) -> Result<(), PageError> {
    let file = folder.join(format!("{name}.1"));
    let write = || {
        let man = Man::new(command.clone().display_name(name));
        man.render(&mut File::create(&file)?)
    };
    write().map_err(|source| PageError { file: file.clone(), source })
}
