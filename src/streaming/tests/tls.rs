//! All that the server speaks, over TLS; whom it lets in; and files that change.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::frames::{Heard, take_frames};
use common::raw::{Answer, Raw, tunnel_head, upgrade_head};
use common::ws::{BINARY, Message, Ws, frame, offering, take_message};
use common::*;
use gangplank_streaming::{Config, Limits, Tls, TlsError, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, in PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer);
        (certificate.unwrap().pem(), key.serialize_pem())
    }

    /// A client that trusts this authority alone.
    fn client(&self, identity: Option<(String, String)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let Some((cert, key)) = identity else { return builder.with_no_client_auth() };
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        builder.with_client_auth_cert(vec![cert], key).unwrap()
    }
}

/// The files of a server.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new(identity: &(String, String)) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.write(identity);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, (cert, key): &(String, String)) {
        fs::write(self.path("cert.pem"), cert).unwrap();
        fs::write(self.path("key.pem"), key).unwrap();
    }

    fn all(&self) -> TlsFiles {
        TlsFiles { cert: self.path("cert.pem"), key: self.path("key.pem"), client_ca: None }
    }

    fn with_client_ca(&self, authority: &Authority) -> TlsFiles {
        fs::write(self.path("ca.pem"), &authority.pem).unwrap();
        TlsFiles { client_ca: Some(self.path("ca.pem")), ..self.all() }
    }
}

async fn serve(files: TlsFiles) -> Host {
    Host::with(Config { tls: Some(Tls::load(files).unwrap()), ..Config::default() }).await
}

/// A server with a fresh certificate, and who signed it.
async fn start() -> (Host, Authority, Files) {
    let authority = Authority::new();
    let files = Files::new(&authority.sign("localhost"));
    (serve(files.all()).await, authority, files)
}

async fn connect(host: &Host, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(host.address).await?;
    socket.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), socket).await
}

/// Connects and says something; with TLS 1.3 only the answer tells a client whether its certificate was taken.
async fn talk(host: &Host, config: ClientConfig) -> io::Result<Answer> {
    let mut stream = connect(host, config).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    tokio::time::timeout(LONG, stream.read_to_string(&mut answer)).await.expect("no answer came")?;
    Ok(Answer::parse_head(answer.split_once("\r\n\r\n").unwrap().0))
}

async fn spdy_peer(host: &Host, config: ClientConfig) -> Peer<TlsStream<TcpStream>> {
    let mut stream = connect(host, config).await.unwrap();
    stream.write_all(upgrade_head(&host.token()).as_bytes()).await.unwrap();
    assert_eq!(Answer::parse_head(&read_head(&mut stream).await).status, 101);
    Peer::over(stream, spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default()))
}

#[tokio::test]
async fn spdy_over_tls() {
    let (host, authority, _files) = start().await;
    let port = echo_pod().await;
    let mut peer = spdy_peer(&host, authority.client(None)).await;
    let streams = peer.forward(port).await;
    let sent = pattern(200_000);
    peer.send(streams.data, &sent).await;
    peer.finish(streams.data).await;
    assert!(peer.read_to_fin(streams.data).await == sent);
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
    host.server.end_sandbox("sandbox0123", "it stopped");
    assert_eq!(peer.next().await, Seen::GoAway);
    // An end without TLS's own would be an error: it could be anybody's doing.
    assert_eq!(peer.socket.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn eight_mebibytes_both_ways_over_tls() {
    let (host, authority, _files) = start().await;
    let mut peer = spdy_peer(&host, authority.client(None)).await;
    let streams = peer.forward(echo_pod().await).await;
    let sent = pattern(8 << 20);
    let mut frames = Vec::new();
    for piece in sent.chunks(32 << 10) {
        frames.extend_from_slice(&peer.spdy.data_header(streams.data, piece.len(), false).unwrap());
        frames.extend_from_slice(piece);
    }
    let (mut from, mut to) = tokio::io::split(peer.socket);
    let writing = tokio::spawn(async move {
        to.write_all(&frames).await.unwrap();
        to.flush().await.unwrap();
        to
    });
    let (mut bytes, mut heard) = (Vec::new(), Heard::new());
    let len = |heard: &Heard| match heard.get(&streams.data).and_then(|frames| frames.last()) {
        Some(common::frames::Frame::Data(all)) => all.len(),
        _ => 0,
    };
    while len(&heard) < sent.len() {
        let read = tokio::time::timeout(LONG, from.read_buf(&mut bytes)).await.expect("nothing came");
        assert!(read.unwrap() > 0);
        take_frames(&mut bytes, &mut heard);
    }
    assert!(heard[&streams.data] == [common::frames::Frame::Data(sent)]);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn the_tunnel_over_tls() {
    let (host, authority, _files) = start().await;
    let port = echo_pod().await.to_string();
    let mut stream = connect(&host, authority.client(None)).await.unwrap();
    stream.write_all(tunnel_head(&host.token()).as_bytes()).await.unwrap();
    assert_eq!(Answer::parse_head(&read_head(&mut stream).await).status, 101);
    let mut spdy = spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default());
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "0")];
    spdy.open(&headers("error"), true).unwrap();
    let data = spdy.open(&headers("data"), false).unwrap();
    spdy.send(data, b"hello", true).unwrap();
    stream.write_all(&frame(true, 2, spdy.output())).await.unwrap();
    let (mut bytes, mut payload, mut heard) = (Vec::new(), Vec::new(), Heard::new());
    use common::frames::Frame::{Data, Fin, Reply};
    while heard.get(&data).is_none_or(|frames| frames.last() != Some(&Fin)) {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
        while let Some(Message::Binary(message)) = take_message(&mut bytes) {
            payload.extend(message);
        }
        take_frames(&mut payload, &mut heard);
    }
    assert_eq!(heard[&data], [Reply, Data(b"hello".to_vec()), Fin]);
}

#[tokio::test]
async fn channels_over_tls() {
    let (host, authority, _files) = start().await;
    let ports = [echo_pod().await, closed_port().await];
    let socket = connect(&host, authority.client(None)).await.unwrap();
    let mut ws = Ws { socket, bytes: Vec::new() };
    assert_eq!(ws.upgrade(&host.token_for(&ports), &offering(BINARY)).await.status, 101);
    ws.expect_ports(&ports).await;
    ws.error(3).await;
    ws.send(0, &pattern(100_000)).await;
    assert!(ws.read(0, 100_000).await == pattern(100_000));
    host.server.end_sandbox("sandbox0123", "it stopped");
    ws.error(1).await;
    assert_eq!(ws.next().await, Message::Close(1001));
    ws.close(1001).await;
    assert_eq!(ws.socket.read(&mut [0]).await.unwrap(), 0);
    host.expect_no_session().await;
}

#[tokio::test]
async fn floods_of_pings_that_nobody_reads_cost_only_the_session() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign("localhost"));
    let tls = Some(Tls::load(files.all()).unwrap());
    let limits = Limits { write_stall_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(Config { tls, limits, ..Config::default() }).await;
    let mut peer = spdy_peer(&host, authority.client(None)).await;
    let pings = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1].repeat(1_000);
    let flood = async { while peer.socket.write_all(&pings).await.is_ok() {} };
    tokio::time::timeout(LONG, flood).await.expect("the session goes on");
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_client_that_leaves_by_tcp_alone_ends_its_session() {
    let (host, authority, _files) = start().await;
    let peer = spdy_peer(&host, authority.client(None)).await;
    host.expect_sessions(1).await;
    drop(peer);
    host.expect_no_session().await;
}

#[tokio::test]
async fn http_1_is_all_that_is_offered() {
    let (host, authority, _files) = start().await;
    let offering = |protocols: &[&str]| {
        let mut config = authority.client(None);
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        config
    };
    let stream = connect(&host, offering(&["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(connect(&host, offering(&["h2"])).await.is_err());
    assert_eq!(talk(&host, offering(&[])).await.unwrap().status, 404);
}

#[tokio::test]
async fn a_certificate_that_the_client_does_not_know_is_not_taken() {
    let (host, _authority, _files) = start().await;
    assert!(connect(&host, Authority::new().client(None)).await.is_err());
}

#[tokio::test]
async fn with_a_client_ca_only_its_clients_are_let_in() {
    let (servers, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let files = Files::new(&servers.sign("localhost"));
    let host = serve(files.with_client_ca(&clients)).await;
    talk(&host, servers.client(None)).await.unwrap_err();
    talk(&host, servers.client(Some(others.sign("someone")))).await.unwrap_err();
    talk(&host, servers.client(Some(servers.sign("someone")))).await.unwrap_err();
    assert_eq!(talk(&host, servers.client(Some(clients.sign("someone")))).await.unwrap().status, 404);
}

/// Connects until it works, or, if it should not, until it does not.
async fn becomes(host: &Host, config: impl Fn() -> ClientConfig, works: bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while talk(host, config()).await.is_ok() != works {
        assert!(tokio::time::Instant::now() < deadline, "never");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn files_that_change_are_read_again_and_sessions_go_on() {
    let (host, old, files) = start().await;
    let mut peer = spdy_peer(&host, old.client(None)).await;
    let new = Authority::new();
    files.write(&new.sign("localhost"));
    becomes(&host, || new.client(None), true).await;
    assert!(talk(&host, old.client(None)).await.is_err());
    peer.ping().await;
}

#[tokio::test]
async fn links_that_are_turned_are_followed() {
    let (old, new) = (Authority::new(), Authority::new());
    let (first, second) = (Files::new(&old.sign("localhost")), Files::new(&new.sign("localhost")));
    let secret = tempfile::tempdir().unwrap();
    let (data, next) = (secret.path().join("..data"), secret.path().join("..next"));
    std::os::unix::fs::symlink(first.dir.path(), &data).unwrap();
    let (cert, key) = (data.join("cert.pem"), data.join("key.pem"));
    let host = serve(TlsFiles { cert, key, client_ca: None }).await;
    talk(&host, old.client(None)).await.unwrap();
    std::os::unix::fs::symlink(second.dir.path(), &next).unwrap();
    fs::rename(next, &data).unwrap();
    becomes(&host, || new.client(None), true).await;
}

#[tokio::test]
async fn bad_new_files_leave_the_old_ones_in_use() {
    let (host, old, files) = start().await;
    let new = Authority::new();
    let (cert, key) = new.sign("localhost");
    for (bad_cert, bad_key) in
        [("nonsense", &*key), (&*cert, "nonsense"), (&*cert, &*old.sign("localhost").1)]
    {
        files.write(&(bad_cert.to_owned(), bad_key.to_owned()));
        tokio::time::sleep(Duration::from_millis(1_100)).await; // they are looked at once a second
        talk(&host, old.client(None)).await.unwrap();
    }
    fs::remove_file(files.path("cert.pem")).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    talk(&host, old.client(None)).await.unwrap();
    files.write(&(cert, key));
    becomes(&host, || new.client(None), true).await;
}

#[tokio::test]
async fn a_client_ca_that_changes_counts_for_new_clients() {
    let (servers, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let files = Files::new(&servers.sign("localhost"));
    let host = serve(files.with_client_ca(&old)).await;
    talk(&host, servers.client(Some(old.sign("someone")))).await.unwrap();
    fs::write(files.path("ca.pem"), &new.pem).unwrap();
    becomes(&host, || servers.client(Some(new.sign("someone"))), true).await;
    talk(&host, servers.client(Some(old.sign("someone")))).await.unwrap_err();
}

#[tokio::test]
async fn who_does_not_speak_tls_is_closed() {
    let limits = Limits { request_head_timeout: Duration::from_millis(300), ..Limits::default() };
    let files = Files::new(&Authority::new().sign("localhost"));
    let tls = Some(Tls::load(files.all()).unwrap());
    let host = Host::with(Config { tls, limits, ..Config::default() }).await;
    let mut silent = Raw::connect(host.address).await;
    let mut plain = Raw::connect(host.address).await;
    plain.say(&upgrade_head(&host.token())).await;
    assert!(!plain.rest().await.contains("101"));
    assert_eq!(silent.rest().await, "");
    assert_eq!(host.server.stats().sessions_total, 0);
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let authority = Authority::new();
    let (cert, key) = authority.sign("localhost");
    let files = Files::new(&(cert.clone(), key.clone()));
    let expect = |wrong: TlsFiles, file: &str, what: &str| {
        let error = Tls::load(wrong).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(what), "{error}");
    };
    expect(TlsFiles { cert: files.path("none.pem"), ..files.all() }, "none.pem", "reading");
    expect(TlsFiles { key: files.path("none.pem"), ..files.all() }, "none.pem", "reading");
    expect(TlsFiles { cert: files.path("key.pem"), ..files.all() }, "key.pem", "holds no certificate");
    expect(TlsFiles { key: files.path("cert.pem"), ..files.all() }, "cert.pem", "holds no private key");
    expect(
        TlsFiles { client_ca: Some(files.path("key.pem")), ..files.all() },
        "key.pem",
        "holds no certificate",
    );
    files.write(&(cert, authority.sign("localhost").1));
    assert!(matches!(Tls::load(files.all()), Err(TlsError::Unusable { .. })));
}
