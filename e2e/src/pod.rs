//! The pod of a test: the same programs behind each kind of endpoint.

use std::path::Path;
use std::process::Command;

use crate::guest::Guest;
use crate::parts::{self, Scratch};
use crate::process::Process;
use crate::services::{SERVICES, Service};

/// Where a pod runs, which decides how its ports are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the host: the daemon dials its network namespace.
    Direct,
    /// On the host, behind a relay on a Unix socket.
    Relay,
    /// In a QEMU guest, behind the relay in it.
    Guest,
}

/// The base of the guest's ports; http is the usual 80.
const GUEST_BASE: u16 = 80;

/// A running pod. Dropping it ends all its parts.
pub struct Pod {
    endpoint: String,
    token_file: Option<String>,
    ports: [u16; SERVICES.len()],
    parts: Parts,
    _scratch: Scratch,
}

enum Parts {
    Host { _programs: Process, _relay: Option<Process> },
    Guest(Guest),
}

impl Pod {
    /// Starts a pod.
    ///
    /// # Panics
    /// If a part is missing or does not come up.
    pub fn run(place: Place) -> Self {
        let scratch = Scratch::new();
        match place {
            Place::Guest => {
                let guest = Guest::boot(scratch.path());
                Self::of_guest(guest, scratch)
            }
            Place::Relay => Self::behind_relay(&[]),
            Place::Direct => {
                let (programs, ports) = start_programs(scratch.path());
                let parts = Parts::Host { _programs: programs, _relay: None };
                Self::of("netns:///proc/self/ns/net".to_owned(), ports, parts, scratch)
            }
        }
    }

    /// A pod at [`Place::Relay`] whose relay has additional options.
    ///
    /// # Panics
    /// If a part is missing or does not come up.
    pub fn behind_relay(options: &[&str]) -> Self {
        let scratch = Scratch::new();
        let (programs, ports) = start_programs(scratch.path());
        let (endpoint, relay) = start_relay(scratch.path(), options);
        let parts = Parts::Host { _programs: programs, _relay: Some(relay) };
        Self::of(endpoint, ports, parts, scratch)
    }

    /// A pod at [`Place::Guest`] with programs from this machine and the files in this directory, of which
    /// `/extra` is run at boot.
    ///
    /// # Panics
    /// If a part is missing or does not come up.
    pub fn guest_with(files: &Path, programs: &[&str]) -> Self {
        let scratch = Scratch::new();
        let initrd = scratch.path().join("initrd.img");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/add-programs");
        let mut add = Command::new(script);
        add.arg(parts::cached("guest/initrd.img")).arg(files).arg(&initrd).args(programs);
        let output = add.output().expect("e2e/guest/add-programs");
        assert!(output.status.success(), "add-programs: {}", String::from_utf8_lossy(&output.stderr));
        let guest = Guest::boot_with(scratch.path(), &initrd);
        Self::of_guest(guest, scratch)
    }

    fn of_guest(guest: Guest, scratch: Scratch) -> Self {
        let ports = SERVICES.map(|service| GUEST_BASE + service as u16);
        Self::of(guest.endpoint(), ports, Parts::Guest(guest), scratch)
    }

    fn of(endpoint: String, ports: [u16; SERVICES.len()], parts: Parts, scratch: Scratch) -> Self {
        Self { endpoint, token_file: None, ports, parts, _scratch: scratch }
    }

    /// Makes daemons prove the token in this file to its relay.
    pub fn set_token_file(&mut self, file: &str) {
        self.token_file = Some(file.to_owned());
    }

    /// Its endpoint.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its lines in the daemon's configuration.
    pub fn configuration(&self) -> String {
        let token = self.token_file.as_ref().map(|file| format!("token_file = \"{file}\"\n"));
        format!("endpoint = \"{}\"\n{}", self.endpoint, token.unwrap_or_default())
    }

    /// The service's port inside the pod.
    pub fn port(&self, service: Service) -> u16 {
        self.ports[service as usize]
    }

    /// Ends the guest like a power cut.
    ///
    /// # Panics
    /// If the pod does not run in a guest.
    pub fn kill_guest(&mut self) {
        self.guest().kill();
    }

    /// Boots another guest in its place, at the same endpoint.
    ///
    /// # Panics
    /// If the pod does not run in a guest.
    pub fn reboot_guest(&mut self) {
        self.guest().restart();
    }

    /// The guest.
    ///
    /// # Panics
    /// If the pod does not run in a guest.
    pub fn guest(&mut self) -> &mut Guest {
        match &mut self.parts {
            Parts::Guest(guest) => guest,
            Parts::Host { .. } => panic!("this pod runs in no guest"),
        }
    }
}

fn start_programs(dir: &Path) -> (Process, [u16; SERVICES.len()]) {
    let mut programs = Process::start("podserver", &parts::static_program("podserver"), dir, |command| {
        command.args(["--base", "0"]);
    });
    let output = programs
        .wait_until("its ports are open", |output| output.ends_with("ready\n").then(|| output.to_owned()));
    let ports = SERVICES.map(|service| {
        let name = format!("{service:?} ");
        let port = output.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok());
        port.unwrap_or_else(|| panic!("podserver names no port of {service:?}:\n{output}"))
    });
    (programs, ports)
}

fn start_relay(dir: &Path, options: &[&str]) -> (String, Process) {
    let socket = dir.join("relay.sock");
    let endpoint = format!("unix://{}", socket.display());
    let mut relay =
        Process::start("gangplank-relay", &parts::static_program("gangplank-relay"), dir, |command| {
            command.arg("--listen").arg(&endpoint).args(options);
        });
    relay.wait_until("its socket exists", |_| socket.exists().then_some(()));
    (endpoint, relay)
}
