//! The page, by HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gangplank_streaming::Server;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::daemon::dial::Dialer;
use crate::daemon::metrics::Metrics;
use crate::daemon::pods::Registry;
use crate::listen::accept;

/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once. There are as many as there are scrapers: one or two.
const CONNECTIONS: usize = 16;

/// What Prometheus reads as OpenMetrics, of which every line is also one of its older text format.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Shows `/metrics`.
#[derive(Clone)]
pub(crate) struct Page {
    /// What is counted where ports are dialled.
    pub(crate) metrics: Arc<Metrics>,
    /// What counts sessions.
    pub(crate) streaming: Server<Dialer>,
    /// The pods.
    pub(crate) pods: Arc<Registry>,
}

impl Page {
    /// Serves until `stop`.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let serving = async {
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let stream = accept(&listener).await;
                let page = self.clone();
                tokio::spawn(async move {
                    page.connection(stream).await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = serving => {}
            () = stop.cancelled() => {}
        }
    }

    async fn connection(self, stream: TcpStream) {
        let answer = service_fn(move |request| {
            let answer = self.answer(&request);
            async { Ok::<_, Infallible>(answer) }
        });
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        if let Err(error) = http1.serve_connection(TokioIo::new(stream), answer).await {
            tracing::debug!(%error, "a connection to the metrics ended badly");
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = if request.uri().path() != "/metrics" {
            (StatusCode::NOT_FOUND, "gangplank shows its metrics at /metrics\n".to_owned())
        } else if request.method() != Method::GET {
            (StatusCode::METHOD_NOT_ALLOWED, "ask for metrics by GET\n".to_owned())
        } else {
            (StatusCode::OK, self.metrics.page(&self.streaming.stats(), self.pods.all().len()))
        };
        let mut answer = Response::new(Full::new(Bytes::from(text)));
        *answer.status_mut() = status;
        let form = if status == StatusCode::OK { TEXT } else { "text/plain; charset=utf-8" };
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(form));
        answer
    }
}
