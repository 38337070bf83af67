//! The pod of a test: the same programs behind each kind of endpoint.

use std::path::Path;

use crate::guest::Guest;
use crate::parts::{self, Scratch};
use crate::process::Process;
use crate::services::{SERVICES, Service};

/// Where a pod runs, so how its ports are reached.
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
    ports: [u16; SERVICES.len()],
    parts: Parts,
    _scratch: Scratch,
}

enum Parts {
    Host { _programs: Process, _relay: Option<Process> },
    Guest(Guest),
}

impl Pod {
    /// Starts one.
    ///
    /// # Panics
    /// Where a part is missing or does not come up.
    pub fn run(place: Place) -> Self {
        let scratch = Scratch::new();
        let dir = scratch.path();
        if place == Place::Guest {
            let guest = Guest::boot(dir);
            let ports = SERVICES.map(|service| GUEST_BASE + service as u16);
            return Self { endpoint: guest.endpoint(), ports, parts: Parts::Guest(guest), _scratch: scratch };
        }
        let (programs, ports) = start_programs(dir);
        let (endpoint, relay) = match place {
            Place::Relay => start_relay(dir),
            _ => ("netns:///proc/self/ns/net".to_owned(), None),
        };
        Self { endpoint, ports, parts: Parts::Host { _programs: programs, _relay: relay }, _scratch: scratch }
    }

    /// The endpoint for the daemon's configuration.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The service's port inside the pod.
    pub fn port(&self, service: Service) -> u16 {
        self.ports[service as usize]
    }

    /// Ends the guest as a power cut does.
    ///
    /// # Panics
    /// Where the pod runs in none.
    pub fn kill_guest(&mut self) {
        self.guest().kill();
    }

    /// The guest.
    ///
    /// # Panics
    /// Where the pod runs in none.
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

fn start_relay(dir: &Path) -> (String, Option<Process>) {
    let socket = dir.join("relay.sock");
    let endpoint = format!("unix://{}", socket.display());
    let mut relay =
        Process::start("gangplank-relay", &parts::static_program("gangplank-relay"), dir, |command| {
            command.arg("--listen").arg(&endpoint);
        });
    relay.wait_until("its socket exists", |_| socket.exists().then_some(()));
    (endpoint, Some(relay))
}
