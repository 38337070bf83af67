//! Library clients, which forward ports by channel WebSockets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing helper is a failing test")]

use std::path::Path;

use gangplank_e2e::daemon::{self, Daemon};
use gangplank_e2e::parts;
use gangplank_e2e::pod::{Place, Pod};
use gangplank_e2e::process::Process;
use gangplank_e2e::services::Service;

/// The official Python client: bytes both ways with hashes compared, a refused port beside an open one and alone.
fn python(place: Place) {
    let pod = Pod::run(place);
    let daemon = Daemon::serve(&[&pod]);
    let program = parts::cached("python/bin/python3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/forward.py");
    let mut python = Process::start("python", &program, daemon.dir(), |command| {
        command.arg(&script).arg(format!("http://{}", daemon.kube_api())).arg(daemon::name(0));
        command.args([Service::Echo, Service::Refused].map(|service| pod.port(service).to_string()));
        command.env_clear().env("HOME", daemon.dir()).env("PATH", "/usr/bin:/bin");
    });
    let status = python.wait();
    assert!(status.success(), "{}\n{}", python.output(), daemon.log());
    assert_eq!(python.output(), "echoed\nrefused\nended\n");
}

#[test]
fn python_direct() {
    python(Place::Direct);
}

#[test]
fn python_relay() {
    python(Place::Relay);
}
