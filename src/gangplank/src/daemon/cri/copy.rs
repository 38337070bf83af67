//! Copies of the small messages of watched calls, taken as they pass.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use prost::Message;

/// The most that is copied of a message, in bytes. That of a sandbox has some kilobytes; one that is longer
/// passes too, and is made up for by asking the runtime.
const MAX: usize = 1 << 20;

/// Bytes before each message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What has passed so far. Clones are of one copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Copy(Arc<Mutex<Vec<u8>>>);

impl Copy {
    /// The message, if it is whole and plain.
    pub(super) fn message<M: Message + Default>(&self) -> Option<M> {
        message(&self.bytes())
    }

    fn add(&self, data: &[u8]) {
        let mut bytes = self.bytes();
        // One byte too many is kept, so that what was cut does not look whole.
        let room = (MAX + PREFIX + 1).saturating_sub(bytes.len());
        bytes.extend_from_slice(data.get(..room).unwrap_or(data));
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one message of a unary call's body, if it is whole and not compressed.
pub(super) fn message<M: Message + Default>(body: &[u8]) -> Option<M> {
    let ([0, length @ ..], message) = body.split_first_chunk::<PREFIX>()? else { return None };
    let whole = usize::try_from(u32::from_be_bytes(*length)).is_ok_and(|length| length == message.len());
    if whole { M::decode(message).ok() } else { None }
}

/// A body that passes unchanged, of which a copy stays. When it has ended, `ended` is told its trailers.
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
