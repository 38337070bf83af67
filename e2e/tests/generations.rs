//! Every generation of kubectl that is available, against the daemon's small Kubernetes API.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

use std::io::Read;
use std::time::Instant;

use gangplank_e2e::client::Client;
use gangplank_e2e::daemon::Daemon;
use gangplank_e2e::pattern::{Pattern, summary};
use gangplank_e2e::pod::{Place, Pod};
use gangplank_e2e::services::{LATE, PAGE, Service};
use gangplank_e2e::talk;

const MIB: u64 = 1 << 20;

/// All in one session: a refused port first, then a page, 64 MiB up and down, and an answer long after the
/// client's half-close.
fn forwards(client: Client) {
    let pod = Pod::run(Place::Direct);
    let daemon = Daemon::serve(&[&pod]);
    let [refused, http, sink, late_sink] =
        [Service::Refused, Service::Http, Service::Sink, Service::LateSink].map(|service| pod.port(service));
    let mut forward = client.forward(&daemon, &[refused, http, sink, late_sink]);

    assert!(matches!(forward.connect(refused).read(&mut [0]), Ok(0) | Err(_)));

    let page = talk::fetch(forward.connect(http), "/").unwrap();
    assert_eq!(String::from_utf8_lossy(&page), PAGE);

    let sent = summary(Pattern::new(64 * MIB)).unwrap();
    assert_eq!(talk::upload(forward.connect(sink), 64 * MIB).unwrap(), sent);
    assert_eq!(talk::download(forward.connect(http), 64 * MIB).unwrap(), sent);

    let begin = Instant::now();
    let answer = talk::upload(forward.connect(late_sink), 100_000).unwrap();
    assert_eq!(answer, summary(Pattern::new(100_000)).unwrap());
    assert!(begin.elapsed() >= LATE);
    forward.must_be_alive();
    let protocol = match client {
        Client::Kubectl { websocket: true, .. } => "protocol=Tunnel",
        _ => "protocol=Spdy",
    };
    assert!(daemon.log().contains(protocol), "no session of {protocol}:\n{}", daemon.log());
}

macro_rules! generations {
    ($($name:ident: $client:expr;)*) => {
        $(#[test]
        fn $name() {
            forwards($client);
        })*
    };
}

generations! {
    kubectl_1_20_spdy: Client::Kubectl120;
    kubectl_1_28_spdy: Client::Kubectl { minor: 28, websocket: false };
    kubectl_1_29_spdy: Client::Kubectl { minor: 29, websocket: false };
    kubectl_1_30_spdy: Client::Kubectl { minor: 30, websocket: false };
    kubectl_1_30_websocket: Client::Kubectl { minor: 30, websocket: true };
    kubectl_1_31_spdy: Client::Kubectl { minor: 31, websocket: false };
    kubectl_1_31_websocket: Client::Kubectl { minor: 31, websocket: true };
    kubectl_1_32_spdy: Client::Kubectl { minor: 32, websocket: false };
    kubectl_1_32_websocket: Client::Kubectl { minor: 32, websocket: true };
    kubectl_1_33_spdy: Client::Kubectl { minor: 33, websocket: false };
    kubectl_1_33_websocket: Client::Kubectl { minor: 33, websocket: true };
    kubectl_1_34_spdy: Client::Kubectl { minor: 34, websocket: false };
    kubectl_1_34_websocket: Client::Kubectl { minor: 34, websocket: true };
    kubectl_1_35_spdy: Client::Kubectl { minor: 35, websocket: false };
    kubectl_1_35_websocket: Client::Kubectl { minor: 35, websocket: true };
    kubectl_1_36_spdy: Client::Kubectl { minor: 36, websocket: false };
    kubectl_1_36_websocket: Client::Kubectl { minor: 36, websocket: true };
    kubectl_1_37_spdy: Client::Kubectl { minor: 37, websocket: false };
    kubectl_1_37_websocket: Client::Kubectl { minor: 37, websocket: true };
}
