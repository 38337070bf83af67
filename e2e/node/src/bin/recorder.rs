//! `recorder SOCKET UPSTREAM LOG`: passes CRI calls on from SOCKET to UPSTREAM and writes a line to LOG for each
//! that has ended: all that was asked and all that was answered, as it came.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tonic::Status;
use tonic::body::Body;

/// Longer than any message of a kubelet's or a runtime's.
const MAX_HEADERS: u32 = 16 << 20;

type Log = Arc<Mutex<File>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [socket, upstream, log] = &args[..] else { return Err("use: recorder SOCKET UPSTREAM LOG".into()) };
    let log = Arc::new(Mutex::new(File::create(log)?));
    let listener = UnixListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream, upstream.clone(), Arc::clone(&log)));
    }
}

/// Each connection has one of its own to the other side.
async fn connection(stream: UnixStream, upstream: PathBuf, log: Log) {
    let ended = async {
        let requests = connect(&upstream).await?;
        let answer = service_fn(move |request| {
            let (requests, log) = (requests.clone(), Arc::clone(&log));
            async move {
                let answer = pass(request, requests, &log).await;
                Ok::<_, Infallible>(
                    answer.unwrap_or_else(|error| Status::unavailable(error.to_string()).into_http()),
                )
            }
        });
        let mut http2 = server::conn::http2::Builder::new(TokioExecutor::new());
        // Nothing may be added to what passes.
        http2.max_header_list_size(MAX_HEADERS).max_concurrent_streams(None).auto_date_header(false);
        http2.serve_connection(TokioIo::new(stream), answer).await.map_err(Box::<dyn Error>::from)
    };
    if let Err(error) = ended.await {
        eprintln!("recorder: a connection ended badly: {error}");
    }
}

async fn connect(upstream: &Path) -> Result<SendRequest<Body>, Box<dyn Error>> {
    let stream = UnixStream::connect(upstream).await?;
    let mut http2 = client::conn::http2::Builder::new(TokioExecutor::new());
    http2.max_header_list_size(MAX_HEADERS);
    let (requests, driver) = http2.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    Ok(requests)
}

async fn pass(
    request: Request<Incoming>,
    mut requests: SendRequest<Body>,
    log: &Log,
) -> Result<Response<Body>, Box<dyn Error + Send + Sync>> {
    let (asked, body) = request.into_parts();
    let mut line = format!("{} {} ", asked.method, asked.uri);
    let body = take(body, &asked.headers, &mut line).await?;
    let answer = requests.send_request(Request::from_parts(asked, body)).await?;
    let (answered, body) = answer.into_parts();
    write!(line, "=> {} ", answered.status)?;
    let body = take(body, &answered.headers, &mut line).await?;
    line.push('\n');
    log.lock().map_err(|error| error.to_string())?.write_all(line.as_bytes())?;
    Ok(Response::from_parts(answered, body))
}

/// Reads a body to its end, notes it with its headers and trailers, and gives one that is the same.
async fn take(
    body: Incoming,
    headers: &HeaderMap,
    line: &mut String,
) -> Result<Body, Box<dyn Error + Send + Sync>> {
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    let bytes = body.to_bytes();
    write!(line, "{} {} ", text(headers), HEXLOWER.encode(&bytes))?;
    let data = (!bytes.is_empty()).then(|| Frame::data(bytes));
    let end = trailers.map(|trailers| {
        line.push_str(&text(&trailers));
        Frame::trailers(trailers)
    });
    if data.is_none() && end.is_none() {
        return Ok(Body::empty());
    }
    let frames = data.into_iter().chain(end).map(Ok::<Frame<Bytes>, Infallible>);
    Ok(Body::new(StreamBody::new(stream::iter(frames.collect::<Vec<_>>()))))
}

/// All headers, by name; values of the same name as they came.
fn text(headers: &HeaderMap) -> String {
    let mut names: Vec<_> = headers.keys().collect();
    names.sort_by_key(|name| name.as_str());
    let value = |name| headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    names.iter().map(|name| format!("[{name}:{}]", value(*name).collect::<Vec<_>>().join("|"))).collect()
}
