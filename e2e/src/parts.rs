//! Locations of the programs and files that `make` has built for the tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e/ lies in the repository")
}

/// A file of `e2e/.cache`.
///
/// # Panics
/// If it has not been built.
pub fn cached(name: &str) -> PathBuf {
    existing(repository().join("e2e/.cache").join(name), "make tools node")
}

/// A program that also runs in the guest, and so is built statically.
///
/// # Panics
/// If it has not been built.
pub fn static_program(name: &str) -> PathBuf {
    existing(repository().join("target/x86_64-unknown-linux-gnu/release").join(name), "make relay tools")
}

/// A program of the tests' own.
///
/// # Panics
/// If it has not been built.
pub fn program(name: &str) -> PathBuf {
    existing(repository().join("target/release").join(name), "make e2e-node")
}

/// The daemon: `target/release/gangplank`, or what `GANGPLANK_BIN` names.
///
/// # Panics
/// If it has not been built.
pub fn daemon() -> PathBuf {
    let built = || repository().join("target/release/gangplank");
    existing(std::env::var_os("GANGPLANK_BIN").map_or_else(built, PathBuf::from), "make e2e")
}

fn existing(path: PathBuf, command: &str) -> PathBuf {
    assert!(path.exists(), "{} is not there: `{command}` builds it", path.display());
    path
}

/// A directory for one test, removed at its end. Its path is short, as Unix sockets need (107 bytes).
pub struct Scratch(PathBuf);

impl Scratch {
    /// Creates it.
    ///
    /// # Panics
    /// If the system's directory for temporary files cannot be written.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gangplank-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // At worst, it is left behind.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
