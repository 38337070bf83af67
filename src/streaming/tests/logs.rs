//! What the log says of a session: one line when it opens, one when it closes, one for each port that fails.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io;
use std::sync::{Arc, Mutex};

use common::*;
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn all(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn has(&self, message: &str) -> bool {
        self.all().iter().any(|line| line["fields"]["message"] == message)
    }
}

#[tokio::test]
async fn a_session_is_told_in_two_lines_and_a_failed_port_in_one() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt().json().with_writer(move || writer.clone()).init();
    let host = Host::start().await;
    let (good, bad) = (echo_pod().await, closed_port().await);
    let mut peer = host.connect().await;
    let streams = peer.forward(good).await;
    peer.send(streams.data, b"hello").await;
    assert_eq!(peer.read(streams.data, 5).await, b"hello");
    peer.forward(good).await;
    let refused = peer.open(bad).await;
    while peer.next().await != Seen::Fin(refused.error) {}
    let client = peer.socket.local_addr().unwrap().to_string();
    drop(peer);
    eventually("the session's last line", || lines.has("a session closed")).await;

    let all = lines.all();
    let [opened, failed, closed] = &all[..] else { panic!("{all:#?}") };
    assert!(all.iter().all(|line| line["level"] == "INFO"));
    assert_eq!(
        opened["fields"],
        json!({
            "message": "a session opened", "client": client, "sandbox": "sandbox0123", "protocol": "Spdy",
        })
    );
    let cause = format!("connect to port {bad}: Connection refused (os error 111)");
    assert_eq!(
        failed["fields"],
        json!({
            "message": "a dial failed", "sandbox": "sandbox0123", "port": bad, "kind": "refused",
            "cause": cause,
        })
    );
    let mut fields = closed["fields"].clone();
    assert!(fields["seconds"].take().as_f64().unwrap() > 0.0);
    assert_eq!(
        fields,
        json!({
            "message": "a session closed", "client": client, "sandbox": "sandbox0123",
            "ports": format!("[{good}, {bad}]"), "connections": 2, "bytes_sent": 5, "bytes_received": 5,
            "seconds": null, "reason": "the client closed the connection",
        })
    );
}
