//! The commands and JSON-RPC, with a real guest, a real terminal, and a caller in Go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing helper is a failing test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gangplank_e2e::client::Client;
use gangplank_e2e::daemon::{Daemon, name, sandbox_id};
use gangplank_e2e::parts::{self, Scratch, cached};
use gangplank_e2e::pattern::{Pattern, summary};
use gangplank_e2e::pod::{Place, Pod};
use gangplank_e2e::ports::fixed_port;
use gangplank_e2e::process::{LIMIT, Process};
use gangplank_e2e::services::{PAGE, Service};
use gangplank_e2e::talk;
use gangplank_e2e::terminal::Terminal;

const MIB: u64 = 1 << 20;

/// A CRI layer in Go that hands each connection of its PortForward to pod.portDial, and crictl in front of it.
struct GoLayer {
    crictl: Process,
    _layer: Process,
    port: u16,
}

impl GoLayer {
    fn forwards(daemon: &Daemon, port: u16) -> Self {
        // A killed layer leaves its socket file behind, so each has its own.
        let socket = daemon.dir().join(format!("go-{port}.sock"));
        let mut layer = Process::start("portdial", &cached("bin/portdial"), daemon.dir(), |command| {
            command.arg(&socket).arg(daemon.rpc());
        });
        layer.wait_until("its CRI socket takes connections", |_| UnixStream::connect(&socket).ok());
        let mut crictl = Process::start("crictl", &cached("bin/crictl"), daemon.dir(), |command| {
            command.arg("--runtime-endpoint").arg(format!("unix://{}", socket.display()));
            command.args(["--timeout", "10s", "port-forward", "-r", "spdy"]);
            command.arg(sandbox_id(0)).arg(format!(":{port}"));
            command.env_clear().env("HOME", daemon.dir()).env("PATH", "/usr/bin:/bin");
        });
        let end = format!(" -> {port}");
        let port = crictl.wait_until("it forwards the port", |output| {
            let mut lines = output.lines();
            lines.find_map(|line| {
                line.strip_prefix("Forwarding from 127.0.0.1:")?.strip_suffix(&end)?.parse().ok()
            })
        });
        Self { crictl, _layer: layer, port }
    }

    fn connect(&self) -> TcpStream {
        connect(self.port)
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

#[test]
fn a_cri_layer_in_go_forwards_by_port_dial_into_a_guest() {
    let pod = Pod::run(Place::Guest);
    let daemon = Daemon::serve(&[&pod]);
    let mut pages = GoLayer::forwards(&daemon, pod.port(Service::Http));
    for _ in 0..3 {
        assert_eq!(String::from_utf8_lossy(&talk::fetch(pages.connect(), "/").unwrap()), PAGE);
    }
    let sum = summary(Pattern::new(8 * MIB)).unwrap();
    assert_eq!(talk::download(pages.connect(), 8 * MIB).unwrap(), sum);
    assert!(pages.crictl.is_alive());
    drop(pages);
    let sinks = GoLayer::forwards(&daemon, pod.port(Service::Sink));
    assert_eq!(talk::upload(sinks.connect(), 8 * MIB).unwrap(), sum, "its end reaches the pod");
    // A Go program closes once it has the pod's end, which is not a failure.
    let log = daemon.log();
    assert!(log.contains("\"result\":\"ok\"") && !log.contains("\"result\":\"aborted\""), "{log}");
}

fn gangplank(daemon: &Daemon, command: &str) -> String {
    format!("{} {command} --rpc unix://{}", parts::daemon().display(), daemon.rpc().display())
}

/// `gangplank dial` into a guest, used like `nc`.
#[test]
fn dial_speaks_with_a_guest_over_standard_input_and_output() {
    let pod = Pod::run(Place::Guest);
    let daemon = Daemon::serve(&[&pod]);
    let mut command = Command::new(parts::daemon());
    command.arg("dial").arg("--rpc").arg(format!("unix://{}", daemon.rpc().display()));
    command.arg(name(0)).arg(format!(":{}", pod.port(Service::Sink)));
    let mut dial = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = dial.stdin.take().unwrap();
    std::io::copy(&mut Pattern::new(4 * MIB), &mut input).unwrap();
    drop(input);
    let mut answer = String::new();
    dial.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, summary(Pattern::new(4 * MIB)).unwrap());
    assert!(dial.wait().unwrap().success());
}

#[test]
fn forward_draws_a_live_line_and_comes_back_with_its_daemon() {
    let pod = Pod::run(Place::Relay);
    let mut daemon = Daemon::serve(&[&pod]);
    let (dir, port) = (daemon.dir().to_owned(), pod.port(Service::Echo));
    let terminal =
        Terminal::run(&dir, &format!("{} {} 127.0.0.1::{port}", gangplank(&daemon, "forward"), name(0)));
    let row = format!("{}:{port}", name(0));
    let screen = terminal.shows("a line for the forward", |screen| screen.contains(&row));
    let line = screen.lines().find(|line| line.contains(&row)).unwrap();
    let local: u16 = line.split_whitespace().next().unwrap().rsplit(':').next().unwrap().parse().unwrap();

    let mut stream = connect(local);
    talk::echo(&mut stream, &[7; 2048]).unwrap();
    terminal.shows("the bytes of its connection", |screen| {
        screen.lines().any(|line| line.contains(&row) && line.matches("2.0KiB").count() == 2)
    });
    drop(stream);

    daemon.restart();
    let restarted = Instant::now();
    terminal.shows("that it lost the daemon", |screen| screen.contains("lost demo-0"));
    terminal.shows("that it is back", |screen| screen.contains("demo-0 is back"));
    assert!(restarted.elapsed() < Duration::from_secs(2), "{:?}", restarted.elapsed());
    talk::echo(&mut connect(local), b"again").unwrap();

    terminal.press("C-c");
    terminal.shows("its end", |screen| screen.contains("status 0"));
}

#[test]
fn top_is_a_live_table_until_q() {
    let pod = Pod::run(Place::Relay);
    let daemon = Daemon::serve(&[&pod]);
    let (dir, port) = (daemon.dir().to_owned(), pod.port(Service::Echo));
    let terminal = Terminal::run(&dir, &gangplank(&daemon, "top"));
    terminal.shows("that nothing is open", |screen| screen.contains("0 sessions, 0 connections"));

    let mut stream = UnixStream::connect(daemon.rpc()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let call = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"pod.portDial\",\"params\":{{\"handle\":\"{}\",\"port\":{port}}}}}\n",
        name(0)
    );
    stream.write_all(call.as_bytes()).unwrap();
    stream.write_all(&[7; 4096]).unwrap();
    terminal.shows("the connection and its bytes", |screen| {
        screen.contains("1 connections")
            && screen
                .lines()
                .any(|line| line.contains("default/demo-0") && line.matches("4.0KiB").count() == 2)
    });
    drop(stream);
    terminal.shows("that it has ended", |screen| screen.contains("0 connections"));
    terminal.press("q");
    terminal.shows("its end", |screen| screen.contains("status 0"));
}

/// `gangplank forward` over JSON-RPC for one port, and where it listens.
fn forwards(daemon: &Daemon, port: &str) -> (Process, u16) {
    let mut forward = Process::start("forward", &parts::daemon(), daemon.dir(), |command| {
        command.arg("forward").arg("--rpc").arg(format!("unix://{}", daemon.rpc().display()));
        command.arg(name(0)).arg(format!(":{port}"));
    });
    let local = forward.wait_until("it listens", |output| {
        let mut lines = output.lines();
        lines
            .find_map(|line| line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok())
    });
    (forward, local)
}

/// If a connection is open, the loss of its guest is noticed without another one; a new guest in its place is
/// noticed by its relay's announcement.
#[test]
fn forward_comes_back_with_its_guest() {
    let mut pod = Pod::run(Place::Guest);
    let daemon = Daemon::serve(&[&pod]);
    let (mut forward, local) = forwards(&daemon, &pod.port(Service::Echo).to_string());
    let mut stream = connect(local);
    talk::echo(&mut stream, b"before").unwrap();
    pod.kill_guest();
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "its connection has ended");
    forward.wait_until("it tells of the loss", |output| output.contains("lost demo-0").then_some(()));
    pod.reboot_guest();
    let ready = Instant::now();
    forward.wait_until("it is back", |output| output.contains("demo-0 is back").then_some(()));
    assert!(ready.elapsed() < Duration::from_secs(2), "{:?}", ready.elapsed());
    talk::echo(&mut connect(local), b"after").unwrap();
}

/// Runs a gangplank command to its end, and returns its output.
fn says(daemon: &Daemon, command: &[&str]) -> String {
    let mut program = Command::new(parts::daemon());
    program.args(command).arg("--rpc").arg(format!("unix://{}", daemon.rpc().display()));
    let output = program.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until this returns something.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// On this machine: a DNS server that knows one name, git's server, and its libraries.
const DNSMASQ: &str = "/usr/sbin/dnsmasq";
const GIT: &str = "/usr/lib/git-core/git";
const GIT_DAEMON: &str = "/usr/lib/git-core/git-daemon";

/// Uses dig, as a person would, to ask for the one name that the server knows.
fn resolves(local: u16) {
    let mut dig = Command::new("dig");
    dig.args(["+short", "+tries=3", "+time=10", "@127.0.0.1", "-p", &local.to_string(), "demo.test", "TXT"]);
    let output = dig.output().unwrap_or_else(|error| panic!("dig: {error}; `make packages` installs it"));
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(answer.trim(), "\"from inside the pod\"", "{}", String::from_utf8_lossy(&output.stderr));
}

const DNS_OPTIONS: &str = "--no-resolv --no-hosts --conf-file=/dev/null --listen-address=127.0.0.1 --bind-interfaces \
     --user=root --group=root --pid-file --txt-record=demo.test,from\\ inside\\ the\\ pod";

#[test]
fn dig_asks_dnsmasq_through_a_forwarded_udp_port() {
    let pod = Pod::run(Place::Relay);
    let daemon = Daemon::serve(&[&pod]);
    let free = fixed_port();
    let mut dnsmasq = Process::start("dnsmasq", "/bin/sh".as_ref(), daemon.dir(), |command| {
        command.arg("-c").arg(format!("exec {DNSMASQ} --keep-in-foreground --port={free} {DNS_OPTIONS}"));
    });
    dnsmasq.wait_until("it listens", |_| {
        says(&daemon, &["ports", &name(0)]).contains(&format!("{free}/udp")).then_some(())
    });
    let (_forward, local) = forwards(&daemon, &format!("{free}/udp"));
    (0..20).for_each(|_| resolves(local));
}

/// What a person does with a guest that runs real servers: `ports`, dig, git clone, `check`.
#[test]
fn a_guest_with_real_servers_is_used_by_every_command() {
    let files = Scratch::new();
    let repository = files.path().join("srv/repository");
    std::fs::create_dir_all(&repository).unwrap();
    let content: Vec<u8> =
        (0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(repository.join("file"), &content).unwrap();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"])
            .args(arguments);
        let output = git.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", files.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let there = repository.to_str().unwrap();
    git(&["-C", there, "init", "-q"]);
    git(&["-C", there, "add", "file"]);
    git(&["-C", there, "commit", "-qm", "all of it"]);
    // The user who runs the tests owns the files in the guest.
    std::fs::write(files.path().join(".gitconfig"), "[safe]\ndirectory = *\n").unwrap();
    std::fs::create_dir(files.path().join("etc")).unwrap();
    std::fs::write(files.path().join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    std::fs::write(files.path().join("etc/group"), "root:x:0:\n").unwrap();
    let extra = format!(
        "#!/bin/sh\nexport HOME=/ PATH=/usr/lib/git-core:/bin\n{DNSMASQ} --port=53 {DNS_OPTIONS}\n\
         ln -s git /usr/lib/git-core/git-upload-pack\n\
         {GIT_DAEMON} --listen=127.0.0.1 --export-all --base-path=/srv /srv &\n"
    );
    std::fs::write(files.path().join("extra"), extra).unwrap();
    std::fs::set_permissions(files.path().join("extra"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let pod = Pod::guest_with(files.path(), &[DNSMASQ, GIT, GIT_DAEMON]);
    let daemon = Daemon::serve(&[&pod]);

    eventually("git listens in the guest", || says(&daemon, &["ports", &name(0)]).contains("9418/tcp"));
    let ports = says(&daemon, &["ports", &name(0)]);
    for port in ["80/tcp", "53/tcp", "53/udp"] {
        assert!(ports.lines().any(|line| line.starts_with(&format!("{port} "))), "{port}: {ports}");
    }
    let pods = says(&daemon, &["pods"]);
    assert!(
        pods.contains("default/demo-0") && pods.contains("hvsock://") && pods.contains("answers"),
        "{pods}"
    );

    let (_forward, local) = forwards(&daemon, "53/udp");
    (0..20).for_each(|_| resolves(local));

    let proxy = files.path().join("proxy");
    let rpc = daemon.rpc().display();
    let script = format!(
        "#!/bin/sh\nexec {} dial --rpc unix://{rpc} {} \"localhost:$2\"\n",
        parts::daemon().display(),
        name(0)
    );
    std::fs::write(&proxy, script).unwrap();
    std::fs::set_permissions(&proxy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let here = files.path().join("here");
    let proxy = format!("core.gitProxy={}", proxy.display());
    git(&["-c", &proxy, "clone", "-q", "git://demo/repository", here.to_str().unwrap()]);
    assert!(std::fs::read(here.join("file")).unwrap() == content);

    let mut check = Command::new(parts::daemon());
    let report = check.arg("check").arg("--config").arg(daemon.config()).output().unwrap();
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(
        report.lines().any(|line| line.starts_with("ok ") && line.contains("the relay at hvsock://")),
        "{report}"
    );
}

/// A relay's own process with rules, a token and containers, and a daemon with rules.
#[test]
fn rules_tokens_and_containers_of_a_relay_are_served() {
    let files = Scratch::new();
    let path = |name: &str| files.path().join(name).display().to_string();
    std::fs::write(path("token"), "correct horse battery staple").unwrap();
    let listener = UnixListener::bind(path("app.sock")).unwrap();
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|mut app| app.write_all(b"hello").unwrap())
    });
    let allow = format!("unix:{}/*", files.path().display());
    let (token, namespaces) = (path("token"), "/proc/{id}/ns/net");
    let mut pod = Pod::behind_relay(&["--token-file", &token, "--allow", &allow, "--namespace", namespaces]);
    pod.set_token_file(&token);
    let refused = pod.port(Service::Sink);
    let rules = format!("\n[dial]\nrules = [\"deny tcp:*:{refused}\", \"allow {allow}\"]\n");
    let daemon = Daemon::serve_with(&[&pod], &rules);

    let dial = |address: &str| {
        let mut dial = Command::new(parts::daemon());
        dial.arg("dial")
            .arg("--rpc")
            .arg(format!("unix://{}", daemon.rpc().display()))
            .arg(name(0))
            .arg(address);
        let output = dial.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert_eq!(dial(&format!("unix://{}", path("app.sock"))), "hello");
    let told = dial(&format!(":{refused}"));
    assert!(told.contains(&format!("the daemon's rule `deny tcp:*:{refused}`")), "{told}");
    let told = dial("unix:///run/other.sock");
    assert!(told.contains("the daemon's rule `loopback only`"), "{told}");

    // The relay keeps only the privileges that it needs, so in /proc it can reach only its own namespace.
    let port = pod.port(Service::Http);
    let ports = says(&daemon, &["ports", &name(0), "--container", "self"]);
    let row = format!("{port}/tcp ");
    assert!(ports.lines().any(|line| line.starts_with(&row) && line.contains(" self ")), "{ports}");
}

/// The page as it is now.
fn page(daemon: &Daemon) -> String {
    let stream = TcpStream::connect(daemon.metrics()).unwrap();
    String::from_utf8(talk::fetch(stream, "/metrics").unwrap()).unwrap()
}

/// Prometheus' own parser reads the page, and every metric on it has changed.
#[test]
fn every_metric_on_the_page_is_moved() {
    let pod = Pod::run(Place::Relay);
    let limits = "\n[limits]\nstream_stall_timeout = \"1s\"\nsession_budget = \"1MiB\"\n";
    let daemon = Daemon::serve_with(&[&pod], limits);
    let mut pages = vec![page(&daemon)];
    let is_held = |page: &str| {
        page.lines().any(|line| line.starts_with("gangplank_session_held_bytes ") && !line.ends_with(" 0"))
    };

    let services = [Service::Http, Service::Refused, Service::Blackhole];
    let forward = Client::Own.forward(&daemon, &services.map(|service| pod.port(service)));
    let fetched = talk::fetch(forward.connect(pod.port(Service::Http)), "/").unwrap();
    assert_eq!(String::from_utf8_lossy(&fetched), PAGE);
    assert!(!matches!(forward.connect(pod.port(Service::Refused)).read(&mut [0]), Ok(1..)));
    let mut stuck = forward.connect(pod.port(Service::Blackhole));
    let pushes = std::thread::spawn(move || while stuck.write_all(&[0; 65_536]).is_ok() {});
    let deadline = Instant::now() + LIMIT;
    while !is_held(pages.last().unwrap()) {
        assert!(Instant::now() < deadline, "nothing is held:\n{}", pages.last().unwrap());
        pages.push(page(&daemon));
    }
    pushes.join().unwrap();
    let mut caller = UnixStream::connect(daemon.rpc()).unwrap();
    let register = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"pod.register\",\"params\":{\"handle\":\"x\",\"endpoint\":\"unix:///x\"}}\n";
    caller.write_all(register.as_bytes()).unwrap();
    assert!(caller.read(&mut [0; 256]).unwrap() > 0);
    pages.push(page(&daemon));

    let mut parser = Command::new(cached("python/bin/python3"));
    parser.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/metrics.py"));
    for (number, page) in pages.iter().enumerate() {
        let file = daemon.dir().join(format!("page{number}"));
        std::fs::write(&file, page).unwrap();
        parser.arg(file);
    }
    let output = parser.output().unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{told}\n{}", pages.last().unwrap());
}
