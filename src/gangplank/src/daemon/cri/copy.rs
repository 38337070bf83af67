//! Copies of the small messages of watched calls, taken as they pass.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use prost::Message;

use super::grpc::{self, PREFIX};

/// The most that is copied of a message, in bytes. A sandbox's message has a few kilobytes; a longer one passes as well,
/// and then the runtime is asked instead.
const MAX: usize = 1 << 20;

/// What has passed so far. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Copy(Arc<Mutex<Vec<u8>>>);

impl Copy {
    /// The message, if it is complete and not compressed.
    pub(super) fn message<M: Message + Default>(&self) -> Option<M> {
        grpc::decode(&self.bytes())
    }

    fn add(&self, data: &[u8]) {
        let mut bytes = self.bytes();
        // Keep one byte too many, so that a truncated message does not look complete.
        let room = (MAX + PREFIX + 1).saturating_sub(bytes.len());
        bytes.extend_from_slice(data.get(..room).unwrap_or(data));
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes a body unchanged and keeps a copy. `ended` gets the trailers when the body has ended.
pub(super) struct Copied<B, F> {
    body: B,
    copy: Copy,
    ended: F,
}

impl<B, F> Copied<B, F> {
    pub(super) fn new(body: B, copy: Copy, ended: F) -> Self {
        Self { body, copy, ended }
    }
}

impl<B, F> Body for Copied<B, F>
where
    B: Body<Data = Bytes> + Unpin,
    F: FnMut(&http::HeaderMap) + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                this.copy.add(data);
            } else if let Some(trailers) = frame.trailers_ref() {
                (this.ended)(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use k8s_api::cri::StopPodSandboxRequest;

    use super::*;

    fn framed(id: &str) -> Vec<u8> {
        let message = StopPodSandboxRequest { pod_sandbox_id: id.into() }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], &message].concat()
    }

    fn copied(pieces: &[&[u8]]) -> Option<String> {
        let copy = Copy::default();
        pieces.iter().for_each(|piece| copy.add(piece));
        copy.message().map(|message: StopPodSandboxRequest| message.pod_sandbox_id)
    }

    #[test]
    fn a_message_in_pieces_is_read() {
        let framed = framed("abc");
        let (head, tail) = framed.split_at(3);
        assert_eq!(copied(&[&framed]), Some("abc".into()));
        assert_eq!(copied(&[head, &[], tail]), Some("abc".into()));
    }

    #[test]
    fn what_is_cut_compressed_or_too_long_is_not() {
        let whole = framed("abc");
        assert_eq!(copied(&[&whole[..whole.len() - 1]]), None);
        assert_eq!(copied(&[&whole, &[0]]), None);
        assert_eq!(copied(&[&[1], &whole[1..]]), None);
        assert_eq!(copied(&[&whole[..4]]), None);
        assert!(copied(&[&framed(&"x".repeat(MAX - 10))]).is_some());
        assert_eq!(copied(&[&framed(&"x".repeat(MAX + 1))]), None);
    }
}
