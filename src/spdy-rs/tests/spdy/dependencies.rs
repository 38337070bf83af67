//! The crate does no I/O, and cannot: none of its dependencies do.

use std::process::Command;

#[test]
fn no_dependency_does_io() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            "spdy-rs",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .args(["--format", "{lib}"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert_eq!(tree.lines().collect::<Vec<_>>(), ["spdy_rs", "flate2", "zlib_rs", "thiserror"]);
}
