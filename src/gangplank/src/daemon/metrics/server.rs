//! Serves the metrics page over HTTP.

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

/// Concurrent connections. There are as many as scrapers: one or two.
const MAX_CONNECTIONS: usize = 16;

/// The page is OpenMetrics, and each of its lines is also valid in Prometheus' older text format.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `/metrics`.
#[derive(Clone)]
pub(crate) struct MetricsPage {
    /// What dials and connections count.
    pub(crate) metrics: Arc<Metrics>,
    /// What sessions count.
    pub(crate) streaming: Server<Dialer>,
    /// The pods, of which only the number is shown.
    pub(crate) pods: Arc<Registry>,
}

impl MetricsPage {
    /// Serves until `stop`.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let serving = async {
            while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
                let stream = accept(&listener).await;
                let page = self.clone();
                tokio::spawn(async move {
                    page.connection(stream).await;
                    drop(permit);
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
            tracing::debug!(%error, "a connection to the metrics page failed");
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = if request.uri().path() != "/metrics" {
            (StatusCode::NOT_FOUND, "gangplank serves its metrics at /metrics\n".to_owned())
        } else if request.method() != Method::GET {
            (StatusCode::METHOD_NOT_ALLOWED, "use GET for /metrics\n".to_owned())
        } else {
            (StatusCode::OK, self.metrics.page(&self.streaming.stats(), self.pods.all().len()))
        };
        let mut answer = Response::new(Full::new(Bytes::from(text)));
        *answer.status_mut() = status;
        let content_type = if status == StatusCode::OK { CONTENT_TYPE } else { "text/plain; charset=utf-8" };
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        answer
    }
}
