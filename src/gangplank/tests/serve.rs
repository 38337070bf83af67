//! `gangplank serve`: its configuration, its socket, its signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use common::{Daemon, complaint, connect, cri, echo, echoes, eventually, gangplank, here, serve, socket_in};
use k8s_api::cri::{VersionRequest, VersionResponse, method};
use rustix::process::Signal;
use serde_json::Value;
use tonic::Code;

#[test]
fn a_wrong_key_is_one_sentence_with_file_line_and_alternatives() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "[limits]\ntoken_tll = \"60s\"\n").unwrap();
    let output = gangplank(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains("wrong.toml:2: limits.token_tll: unknown field"), "{complaint}");
    assert!(complaint.contains("`token_ttl`"), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
}

#[test]
fn a_wrong_value_is_one_sentence_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "[streaming]\nlisten = \"0.0.0.0:7\"\n").unwrap();
    let output = gangplank(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains("streaming.allow_non_loopback = true"), "{complaint}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = gangplank(&["serve", "--config", "/nowhere/x.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("/nowhere/x.toml"));
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(socket_in(folder.path())).unwrap());
    let first = serve(folder.path(), &[], "");
    first.line_with("\"serving\"");
    let mode = std::fs::metadata(socket_in(folder.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let second = serve(folder.path(), &[], "");
    let line = second.line_with("gangplank:");
    assert!(line.contains("is in use: another process answers on it"), "{line}");
    assert_eq!(second.ends().code(), Some(1));

    first.signal(Signal::TERM);
    assert_eq!(first.ends().code(), Some(0));
    assert!(!socket_in(folder.path()).exists());
}

/// A kubelet takes a runtime that does not answer for 30 s for dead, so CRI must not go before the last session.
#[tokio::test]
async fn sigterm_lets_a_session_finish_and_refuses_new_ones_while_cri_answers() {
    let port = echo();
    let mut daemon = Daemon::start(&[here("abc", "demo")], "");
    let (client, address) = daemon.forward_by_cri("demo", port);
    let mut connection = connect(address);
    echoes(&mut connection, "before");
    let mut kubelet = cri::CriClient::of(&daemon.socket()).await;

    daemon.process.signal(Signal::TERM);
    daemon.process.line_with("shutting down");
    eventually("the streaming server is closed", || std::net::TcpStream::connect(daemon.streaming).is_err());
    let (code, why) = kubelet.refuses("abc", &[]).await;
    assert_eq!(code, Code::Unavailable, "{why}");
    assert!(why.contains("shutting down"), "{why}");
    let mut late = cri::CriClient::of(&daemon.socket()).await;
    let version: VersionResponse = late.call(method::VERSION, VersionRequest::default()).await.unwrap();
    assert_eq!(version.runtime_name, "gangplank");
    echoes(&mut connection, "after");
    assert!(daemon.process.lives());

    client.signal(Signal::INT);
    assert_eq!(client.ends().code(), Some(0));
    let drained: Value = serde_json::from_str(&daemon.process.line_with("drained")).unwrap();
    assert_eq!((&drained["finished"], &drained["ended"]), (&1.into(), &0.into()));
    let socket = daemon.socket();
    assert_eq!(daemon.process.ends().code(), Some(0));
    assert!(!socket.exists(), "CRI is closed with the last session");
}

#[test]
fn a_session_that_outlives_the_grace_is_ended() {
    let port = echo();
    let daemon = Daemon::start(&[here("abc", "demo")], "[shutdown]\ngrace = \"100ms\"");
    let (client, address) = daemon.forward_by_cri("demo", port);
    let mut connection = connect(address);
    echoes(&mut connection, "before");

    daemon.process.signal(Signal::INT);
    let drained: Value = serde_json::from_str(&daemon.process.line_with("drained")).unwrap();
    assert_eq!((&drained["finished"], &drained["ended"]), (&0.into(), &1.into()));
    assert_eq!(daemon.process.ends().code(), Some(0));
    // Whatever the end looks like, nothing was sent.
    assert!(!connection.read(&mut [0]).is_ok_and(|read| read > 0));
    client.line_with("lost demo");
}

#[test]
fn a_second_signal_ends_at_once() {
    let port = echo();
    let daemon = Daemon::start(&[here("abc", "demo")], "[shutdown]\ngrace = \"1h\"");
    let (_client, address) = daemon.forward_by_cri("demo", port);
    echoes(&mut connect(address), "before");
    daemon.process.signal(Signal::TERM);
    daemon.process.line_with("shutting down");
    daemon.process.signal(Signal::TERM);
    daemon.process.line_with("ended at once");
    assert_eq!(daemon.process.ends().code(), Some(0));
}

#[test]
fn a_session_is_two_lines_of_the_log() {
    let port = echo();
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    let (client, address) = daemon.forward_by_cri("demo", port);
    echoes(&mut connect(address), "hello");
    let opened: Value = serde_json::from_str(&daemon.process.line_with("opened")).unwrap();
    assert_eq!(opened["sandbox"], "abc");
    client.signal(Signal::TERM);
    let closed: Value = serde_json::from_str(&daemon.process.line_with("closed")).unwrap();
    for key in ["client", "sandbox", "ports", "reason"] {
        assert!(closed.get(key).is_some(), "{closed} lacks {key}");
    }
}
