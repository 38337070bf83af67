//! The metrics page, read by a Prometheus text parser; every metric is moved here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::SocketAddr;

use common::{Daemon, RelayPod, connect, echo, echoes, eventually, gangplank, here};
use prometheus_parse::{Sample, Scrape, Value};

/// The page, through a parser that is not ours.
fn scrape(address: SocketAddr) -> Vec<Sample> {
    let mut stream = connect(address);
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).unwrap().samples
}

/// The sum over all labels that have these.
fn value(samples: &[Sample], metric: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |sample: &&Sample| {
        sample.metric == metric && labels.iter().all(|(name, value)| sample.labels.get(name) == Some(value))
    };
    samples.iter().filter(fits).map(number).sum()
}

fn number(sample: &Sample) -> f64 {
    match &sample.value {
        Value::Counter(n) | Value::Gauge(n) | Value::Untyped(n) => *n,
        Value::Histogram(buckets) => buckets.last().map_or(0.0, |bucket| bucket.count),
        Value::Summary(_) => panic!("there are no summaries"),
    }
}

#[test]
fn every_metric_is_moved_by_what_it_counts() {
    let relay = RelayPod::start();
    let daemon = Daemon::start(&[here("abc", "direct"), relay.section("def", "relayed")], "");
    let page = || scrape(daemon.metrics);
    let before = page();
    assert_eq!(value(&before, "gangplank_pods", &[]), 2.0);

    let port = echo();
    let (client, address) = daemon.forward_by_cri("direct", port);
    let mut direct = connect(address);
    echoes(&mut direct, "12345");
    let (_relayed_client, address) = daemon.forward("relayed", port);
    let mut relayed = connect(address);
    echoes(&mut relayed, "123");

    // While they live.
    let during = page();
    let of = |metric: &str, labels: &[(&str, &str)]| value(&during, metric, labels);
    assert_eq!(of("gangplank_sessions_open", &[]), 1.0);
    assert_eq!(of("gangplank_sessions_total", &[]), 1.0);
    assert_eq!(of("gangplank_streams_open", &[]), 1.0);
    assert_eq!(of("gangplank_connections_open", &[("endpoint", "netns")]), 1.0);
    assert_eq!(of("gangplank_connections_open", &[("endpoint", "unix")]), 1.0);
    assert_eq!(of("gangplank_bytes_total", &[("endpoint", "netns"), ("direction", "to_pod")]), 5.0);
    assert_eq!(of("gangplank_bytes_total", &[("endpoint", "unix"), ("direction", "from_pod")]), 3.0);
    assert_eq!(of("gangplank_dials_total", &[("endpoint", "netns"), ("result", "ok")]), 1.0);
    assert_eq!(of("gangplank_dial_seconds", &[("endpoint", "netns")]), 1.0);
    assert_eq!(of("gangplank_first_byte_seconds", &[("endpoint", "unix")]), 1.0);
    assert!(of("gangplank_jsonrpc_calls_total", &[("method", "pod.portDial"), ("result", "ok")]) >= 1.0);

    // And when they have ended.
    drop((direct, relayed, client));
    eventually("the session and its connection have ended", || {
        let now = page();
        value(&now, "gangplank_sessions_open", &[]) == 0.0
            && value(&now, "gangplank_connections_total", &[("endpoint", "netns")]) == 1.0
            && value(&now, "gangplank_connections_open", &[]) == 0.0
    });
    assert_eq!(
        value(&page(), "gangplank_bytes_total", &[("endpoint", "netns"), ("direction", "to_pod")]),
        5.0
    );
}

#[test]
fn failures_are_counted_by_kind() {
    let daemon = Daemon::start(&[here("abc", "direct")], "");
    let bound = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    bound.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let closed = bound.local_addr().unwrap().as_socket().unwrap().port();
    let (_client, address) = daemon.forward_by_cri("direct", closed);
    assert!(!connect(address).read(&mut [0]).is_ok_and(|read| read > 0));
    eventually("the refusal is counted", || {
        let now = scrape(daemon.metrics);
        value(&now, "gangplank_dials_total", &[("result", "refused")]) == 1.0
            && value(&now, "gangplank_resets_total", &[("cause", "refused")]) == 1.0
    });
    let output = gangplank(&["dial", "--rpc", &daemon.rpc_url(), "nobody", ":80"]);
    assert!(!output.status.success());
    let calls = [("method", "pod.portDial"), ("result", "unknown_pod")];
    assert_eq!(value(&scrape(daemon.metrics), "gangplank_jsonrpc_calls_total", &calls), 1.0);
}

/// A pod that does not read makes its session hold what comes for it.
#[test]
fn what_is_held_for_a_stuck_pod_is_shown() {
    let stuck = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stuck.local_addr().unwrap().port();
    let daemon = Daemon::start(
        &[here("abc", "direct")],
        "[limits]\nstream_stall_timeout = \"1s\"\nsession_budget = \"1MiB\"\n",
    );
    let (_client, address) = daemon.forward_by_cri("direct", port);
    let mut stream = connect(address);
    let pushes = std::thread::spawn(move || while stream.write_all(&[0; 65_536]).is_ok() {});
    eventually("bytes are held", || {
        value(&scrape(daemon.metrics), "gangplank_session_held_bytes", &[]) > 0.0
    });
    eventually("the stuck connection is reset", || {
        value(&scrape(daemon.metrics), "gangplank_resets_total", &[("cause", "stuck")]) == 1.0
    });
    pushes.join().unwrap();
}

/// Names of metrics that the tests above move: a new one must be moved by some test, and then be named here.
#[test]
fn there_are_no_other_metrics() {
    let relay = RelayPod::start();
    let daemon = Daemon::start(&[relay.section("def", "relayed")], "");
    let port = echo();
    let (_client, address) = daemon.forward_by_cri("relayed", port);
    echoes(&mut connect(address), "x");
    assert!(gangplank(&["pods", "--rpc", &daemon.rpc_url()]).status.success());
    let expected: BTreeSet<&str> = [
        "dials_total",
        "dial_seconds",
        "first_byte_seconds",
        "bytes_total",
        "connections_open",
        "connections_total",
        "jsonrpc_calls_total",
        "sessions_open",
        "sessions_total",
        "streams_open",
        "session_held_bytes",
        "resets_total",
        "pods",
    ]
    .into();
    let mut labels: HashMap<String, BTreeSet<String>> = HashMap::new();
    eventually("every metric is there", || {
        let samples = scrape(daemon.metrics);
        for sample in &samples {
            for (name, value) in sample.labels.iter() {
                labels.entry(name.clone()).or_default().insert(value.clone());
            }
        }
        let base = |name: &str| {
            let name = name.strip_prefix("gangplank_").unwrap().to_owned();
            let histogram = name.strip_suffix("_sum").or_else(|| name.strip_suffix("_count"));
            histogram.map(str::to_owned).unwrap_or(name)
        };
        let found: BTreeSet<String> = samples.iter().map(|sample| base(&sample.metric)).collect();
        found.iter().map(String::as_str).collect::<BTreeSet<_>>() == expected
    });
    let names: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
    assert_eq!(names, ["cause", "direction", "endpoint", "method", "result"].into());
    assert!(
        labels.values().flatten().all(|value| !value.contains("relayed") && !value.contains("def")),
        "{labels:?}"
    );
}

#[test]
fn other_paths_say_where_it_is() {
    let daemon = Daemon::start(&[], "");
    let mut stream = connect(daemon.metrics);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("/metrics"), "{answer}");
}
