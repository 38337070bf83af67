//! The bodies of unary gRPC calls: one message with a prefix of five bytes.

use std::convert::Infallible;
use std::future::ready;

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

/// Bytes before each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// gRPC's outcome, in trailers, or in the head of an answer that has no body. 0 is success.
pub(super) const STATUS: &str = "grpc-status";

/// The message of a body, if the body is complete and not compressed.
pub(super) fn decode<M: Message + Default>(body: &[u8]) -> Option<M> {
    let ([0, length @ ..], message) = body.split_first_chunk::<PREFIX>()? else { return None };
    let is_complete =
        usize::try_from(u32::from_be_bytes(*length)).is_ok_and(|length| length == message.len());
    if is_complete { M::decode(message).ok() } else { None }
}

/// A successful answer of this one message.
pub(super) fn answer(message: &impl Message) -> Response<Body> {
    let mut body = vec![0; PREFIX];
    body.extend_from_slice(&message.encode_to_vec());
    let length = u32::try_from(body.len() - PREFIX).unwrap_or(u32::MAX);
    body[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    let frames = [Frame::data(Bytes::from(body)), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let mut answer = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    let content_type = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    answer
}

/// Decodes the message of a call, and encodes what `reply` makes of it.
pub(super) async fn unary<Q, A, B>(
    request: http::Request<B>,
    reply: impl Fn(Q) -> Result<A, Status>,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
{
    let service = tower::service_fn(|request: tonic::Request<Q>| {
        ready(reply(request.into_inner()).map(tonic::Response::new))
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use k8s_api::cri::PortForwardResponse;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_a_message_and_a_status() {
        let message = PortForwardResponse { url: "http://127.0.0.1:1/portforward/x".into() };
        let collected = answer(&message).into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[STATUS], "0");
        assert_eq!(decode(&collected.to_bytes()), Some(message));
    }
}
