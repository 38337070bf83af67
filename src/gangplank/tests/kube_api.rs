//! The Kubernetes front, asked as kubectl asks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};

use common::{Daemon, connect, echo, here, not_running};
use serde_json::Value;

/// Sends one request; the status and the body.
fn ask(daemon: &Daemon, method: &str, path: &str, headers: &str) -> (u16, String) {
    let mut stream = connect(daemon.kube_api);
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.into())
}

fn get(daemon: &Daemon, path: &str, headers: &str) -> (u16, Value) {
    let (status, body) = ask(daemon, "GET", path, headers);
    (status, serde_json::from_str(&body).expect(&body))
}

fn daemon() -> Daemon {
    Daemon::start(&[here("abc", "demo"), not_running("def", "other")], "")
}

#[test]
fn discovery_leads_to_pods() {
    let daemon = daemon();
    let aggregated =
        "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json\r\n";
    let (status, api) = get(&daemon, "/api", aggregated);
    assert_eq!((status, &api["kind"]), (200, &"APIVersions".into()));
    let (status, apis) = get(&daemon, "/apis", aggregated);
    assert_eq!((status, &apis["kind"]), (200, &"APIGroupList".into()));
    let (status, resources) = get(&daemon, "/api/v1", "");
    assert_eq!(status, 200);
    let names: Vec<_> = resources["resources"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["namespaces", "pods", "pods/portforward"]);
    let (status, version) = get(&daemon, "/version", "");
    assert_eq!((status, &version["major"]), (200, &"1".into()));
}

#[test]
fn pods_come_as_json_and_as_a_table() {
    let daemon = daemon();
    let (status, list) = get(&daemon, "/api/v1/namespaces/default/pods?limit=500", "");
    assert_eq!((status, &list["kind"]), (200, &"PodList".into()));
    let phases: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|pod| &pod["status"]["phase"]).collect();
    assert_eq!(phases, ["Running", "Pending"]);
    let table = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json\r\n";
    let (status, table) = get(&daemon, "/api/v1/pods", table);
    assert_eq!((status, &table["kind"]), (200, &"Table".into()));
    assert_eq!(table["rows"][0]["cells"][0], "demo");
}

#[test]
fn refusals_are_status_objects() {
    let daemon = daemon();
    for (method, path, headers, code, reason) in [
        ("GET", "/api/v1/namespaces/default/pods/nobody", "", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/pods/nobody/portforward", "", 404, "NotFound"),
        ("GET", "/apis/apps/v1/deployments", "", 404, "NotFound"),
        ("GET", "/api/v1/pods?watch=true", "", 405, "MethodNotAllowed"),
        ("DELETE", "/api/v1/namespaces/default/pods/demo", "", 405, "MethodNotAllowed"),
        ("GET", "/api/v1/pods", "Accept: application/yaml\r\n", 406, "NotAcceptable"),
        ("GET", "/api/v1/pods?labelSelector=a+in+(b)", "", 400, "BadRequest"),
        ("GET", "/api/v1/pods", "Origin: http://evil.example\r\n", 403, "Forbidden"),
        ("GET", "/api/v1/namespaces/default/pods/demo/portforward?ports=http", "", 400, "BadRequest"),
    ] {
        let (status, body) = ask(&daemon, method, path, headers);
        let body: Value = serde_json::from_str(&body).expect(&body);
        assert_eq!(status, code, "{method} {path}");
        assert_eq!((&body["kind"], &body["reason"]), (&"Status".into(), &reason.into()), "{method} {path}");
        assert!(!body["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_session_needs_an_upgrade() {
    let daemon = daemon();
    let (status, body) = ask(&daemon, "POST", "/api/v1/namespaces/default/pods/demo/portforward", "");
    assert_eq!(status, 400, "{body}");
}

#[test]
fn spdy_is_upgraded_by_get_and_post() {
    let daemon = daemon();
    for method in ["GET", "POST"] {
        let mut stream = connect(daemon.kube_api);
        let request = format!(
            "{method} /api/v1/namespaces/default/pods/demo/portforward HTTP/1.1\r\nHost: x\r\n\
             Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        let opened: Value = serde_json::from_str(&daemon.process.line_with("opened")).unwrap();
        assert_eq!(opened["sandbox"], "abc");
        assert_eq!(opened["client"], stream.local_addr().unwrap().to_string());
    }
}

/// Asks for a channel WebSocket as Python's client does; the connection and the answer's head.
fn open_channels(daemon: &Daemon, ports: &str, origin: &str) -> (std::net::TcpStream, String) {
    let mut stream = connect(daemon.kube_api);
    let request = format!(
        "GET /api/v1/namespaces/default/pods/demo/portforward?ports={ports} HTTP/1.1\r\nHost: {}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: {origin}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         sec-websocket-protocol: v4.channel.k8s.io\r\n\r\n",
        daemon.kube_api
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (stream, String::from_utf8(head).unwrap())
}

#[test]
fn a_channel_websocket_has_the_ports_of_its_query() {
    let (one, two) = (echo(), echo());
    let daemon = daemon();
    let own = format!("http://{}", daemon.kube_api);
    let (mut stream, head) = open_channels(&daemon, &format!("{one},{two}"), &own);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("sec-websocket-protocol: v4.channel.k8s.io\r\n"), "{head}");
    let mut announced = [0; 20];
    stream.read_exact(&mut announced).unwrap();
    let ([a, b], [c, d]) = (one.to_le_bytes(), two.to_le_bytes());
    assert_eq!(announced, [130, 3, 0, a, b, 130, 3, 1, a, b, 130, 3, 2, c, d, 130, 3, 3, c, d]);
    // To the second port, masked with zeros; and back.
    stream.write_all(b"\x82\x86\0\0\0\0\x02hello").unwrap();
    let mut echoed = [0; 8];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"\x82\x06\x02hello");
    let (_, head) = open_channels(&daemon, "80", "http://evil.example");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}
