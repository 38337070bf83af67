//! Serves the web page of the demo's pod, and fetches it.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::listen::accept;

/// How long the page may take, dialling included.
const LIMIT: Duration = Duration::from_secs(20);

/// Serves the page forever. `address` is shown on it.
pub(super) async fn serve(listener: TcpListener, address: SocketAddr) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let stream = accept(&listener).await;
        let page = service_fn(move |_| async move { Ok::<_, Infallible>(page(address)) });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), page));
    }
}

fn page(address: SocketAddr) -> Response<Full<Bytes>> {
    Response::new(Full::from(format!(
        "<!doctype html>\n<title>gangplank</title>\n<h1>You are aboard.</h1>\n\
         <p>This page listens on {address} inside the pod \"demo\".</p>\n"
    )))
}

/// Why the page could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch the page at http://{address}/ through the forwarded port: {cause}")]
pub(crate) struct FetchError {
    address: SocketAddr,
    cause: String,
}

/// Fetches the page from a forwarded port.
///
/// # Errors
/// If it does not arrive within 20 s, or the answer is not the page.
pub(super) async fn fetch(address: SocketAddr) -> Result<String, FetchError> {
    let failed = |cause: String| FetchError { address, cause };
    let answer = tokio::time::timeout(LIMIT, get(address))
        .await
        .map_err(|_| failed(format!("no answer within {} s", LIMIT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.starts_with("HTTP/1.1 200 ") => Ok(page.into()),
        _ if answer.is_empty() => Err(failed("the connection was closed without an answer".into())),
        _ => Err(failed(format!("the answer was {:?}", answer.lines().next().unwrap_or_default()))),
    }
}

async fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn the_page_is_fetched() {
        let (listener, address) = listener();
        tokio::spawn(serve(listener, address));
        let page = fetch(address).await.unwrap();
        assert!(page.contains(&address.to_string()), "{page}");
    }

    #[tokio::test]
    async fn a_connection_that_only_closes_is_an_error() {
        let (listener, address) = listener();
        let closes = std::thread::spawn(move || drop(listener.accept()));
        fetch(address).await.unwrap_err();
        closes.join().unwrap();
    }
}
