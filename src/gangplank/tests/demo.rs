//! `gangplank demo`, from start to Ctrl-C.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use common::{GANGPLANK, Process, connect, eventually};
use rustix::process::Signal;

fn page(address: SocketAddr) -> String {
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The processes whose parent is this one.
fn children(parent: u32) -> Vec<u32> {
    let of = |task: u32| std::fs::read_to_string(format!("/proc/{parent}/task/{task}/children"));
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).unwrap();
    let tasks = tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap());
    tasks
        .flat_map(|task| {
            of(task)
                .unwrap_or_default()
                .split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// What each thread of a process may call: `0`, or `2` with a filter.
fn filters(process: u32) -> BTreeSet<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // A thread may end meanwhile.
    let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).ok();
    let field = |status: String| status.lines().find(|line| line.starts_with("Seccomp:")).unwrap().to_owned();
    tasks.filter_map(|task| status(task.ok()?)).map(field).collect()
}

#[test]
fn the_demo_shows_its_page_stays_up_and_leaves_nothing_behind() {
    let demo = Process::start(&["demo"]);
    demo.line_with("You are aboard");
    let curl = demo.line_with("curl http://");
    let address = curl.trim().strip_prefix("curl http://").unwrap().trim_end_matches('/').parse().unwrap();
    let crictl = demo.line_with("crictl --runtime-endpoint unix://");
    let socket = PathBuf::from(crictl.split_once("unix://").unwrap().1.split(' ').next().unwrap());
    demo.line_with("Ctrl-C");
    assert!(page(address).contains("You are aboard"));
    assert!(socket.exists());
    let pods = children(demo.pid());
    assert_eq!(pods.len(), 1);
    // What the relay's program gives up, a process that does more than it must keep.
    assert_eq!(filters(pods[0]), filters(std::process::id()));

    demo.signal(Signal::INT);
    assert_eq!(demo.ends().code(), Some(0));
    assert!(!socket.parent().unwrap().exists());
    eventually("the pod has ended", || !std::path::Path::new(&format!("/proc/{}", pods[0])).exists());
}

#[test]
fn a_pod_does_not_outlive_a_demo_that_was_killed() {
    // A killed demo cannot remove its folder; this one's goes with the test's.
    let folder = tempfile::tempdir().unwrap();
    let demo = Process::start_with(Command::new(GANGPLANK).arg("demo").env("TMPDIR", folder.path()));
    demo.line_with("Ctrl-C");
    let pods = children(demo.pid());
    demo.signal(Signal::KILL);
    demo.ends();
    eventually("the pod has ended", || !std::path::Path::new(&format!("/proc/{}", pods[0])).exists());
}

#[test]
fn a_pod_that_does_not_start_is_told() {
    let demo = Process::start(&["demo", "--vm", "/nowhere/run-guest"]);
    let line = demo.line_with("gangplank:");
    assert!(line.contains("/nowhere/run-guest"), "{line}");
    assert_eq!(demo.ends().code(), Some(1));
    let demo = Process::start(&["demo", "--vm", "/bin/echo"]);
    let line = demo.line_with("gangplank:");
    assert!(line.contains("ENDPOINT"), "{line}");
    assert_eq!(demo.ends().code(), Some(1));
}
