//! The messages of a channel WebSocket. No I/O.
//!
//! A message is a channel's number and a payload. Port number `i` of the CRI request has two channels: `2i` for
//! its data, and `2i + 1` for the text of what went wrong, which only the server writes.
//!
//! ```text
//!   v4.channel.k8s.io          channel, one byte  | payload            binary
//!   v4.base64.channel.k8s.io   '0' + channel      | payload in base64  text
//! ```
//!
//! Each channel begins with a message of the server's that holds the port, two bytes, low byte first. Clients
//! look for exactly that. Sources: k8s.io/cri-streaming v0.37.2, pkg/streaming/portforward/websocket.go;
//! k8s.io/streaming v0.37.2, pkg/httpstream/wsstream/conn.go.

use bytes::{BufMut, Bytes, BytesMut};
use data_encoding::BASE64;
use tokio_tungstenite::tungstenite::Message;

/// Most payload of a client's message, in bytes. The official Java client puts up to 15 MiB of what it is
/// given into one. It waits whole in memory, in room that the session keeps: no more than a session's budget.
const MAX_PAYLOAD: usize = 16 << 20;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// `v4.channel.k8s.io`
    Binary,
    /// `v4.base64.channel.k8s.io`
    Base64,
}

impl Encoding {
    /// Ports that a session can have: a channel's character in base64 must be ASCII for the text to be UTF-8, and
    /// JavaScript clients read the byte of a binary one as signed.
    pub(crate) const fn max_ports(self) -> usize {
        match self {
            Self::Binary => 64,
            Self::Base64 => 40,
        }
    }

    /// Longest message that is taken from a client.
    pub(super) fn max_message(self) -> usize {
        match self {
            Self::Binary => 1 + MAX_PAYLOAD,
            Self::Base64 => 1 + BASE64.encode_len(MAX_PAYLOAD),
        }
    }

    /// Most payload of one message of ours, so that none is longer than 32 KiB and its channel.
    pub(super) fn max_payload(self) -> usize {
        match self {
            Self::Binary => 32 << 10,
            Self::Base64 => 24 << 10,
        }
    }

    /// The two messages that say which port the channels of port number `index` belong to.
    pub(super) fn announce(self, index: usize, port: u16) -> [Message; 2] {
        [2 * index, 2 * index + 1].map(|channel| self.message(channel, &port.to_le_bytes()))
    }

    /// Data from port number `index`, at most [`Encoding::max_payload`] bytes.
    pub(super) fn data(self, index: usize, payload: &[u8]) -> Message {
        self.message(2 * index, payload)
    }

    /// What went wrong with port number `index`. Clients take the first such message alone, so there must be
    /// only one.
    pub(super) fn error(self, index: usize, text: &str) -> Message {
        self.message(2 * index + 1, &text.as_bytes()[..text.len().min(self.max_payload())])
    }

    fn message(self, channel: usize, payload: &[u8]) -> Message {
        debug_assert!(channel < 2 * self.max_ports());
        let channel = channel as u8;
        match self {
            Self::Binary => {
                let mut bytes = BytesMut::with_capacity(1 + payload.len());
                bytes.put_u8(channel);
                bytes.extend_from_slice(payload);
                Message::Binary(bytes.freeze())
            }
            Self::Base64 => {
                let mut text = String::with_capacity(1 + BASE64.encode_len(payload.len()));
                text.push(char::from(b'0' + channel));
                BASE64.encode_append(payload, &mut text);
                Message::text(text)
            }
        }
    }

    /// The data of a client's message and the number of its port. `None` for what is to be ignored: nothing at
    /// all, bytes for an error channel, base64 that is none. The number may be that of no port.
    pub(super) fn parse(self, mut message: Bytes) -> Option<(usize, Bytes)> {
        if message.is_empty() {
            return None;
        }
        let first = message.split_to(1)[0];
        let (channel, payload) = match self {
            Self::Binary => (first, message),
            Self::Base64 => (first.checked_sub(b'0')?, BASE64.decode(&message).ok()?.into()),
        };
        (channel % 2 == 0 && !payload.is_empty()).then_some((usize::from(channel / 2), payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(message: Message) -> Vec<u8> {
        message.into_data().to_vec()
    }

    #[test]
    fn binary_messages_are_a_byte_and_the_payload() {
        let binary = Encoding::Binary;
        let port = 0x9769; // as recorded: low byte first
        assert_eq!(binary.announce(0, port).map(bytes), [b"\x00\x69\x97", b"\x01\x69\x97"]);
        assert_eq!(binary.announce(63, 80).map(bytes), [[126, 80, 0], [127, 80, 0]]);
        assert_eq!(binary.data(1, b"hello\n"), Message::binary(b"\x02hello\n".to_vec()));
        assert_eq!(binary.error(1, "no"), Message::binary(b"\x03no".to_vec()));
    }

    #[test]
    fn base64_messages_are_a_character_and_base64() {
        let base64 = Encoding::Base64;
        assert_eq!(base64.announce(0, 0x406e), [Message::text("0bkA="), Message::text("1bkA=")]);
        assert_eq!(base64.data(0, b"hello\n"), Message::text("0aGVsbG8K"));
        assert_eq!(base64.error(39, "no"), Message::text("\x7fbm8="));
    }

    #[test]
    fn what_is_written_can_be_read() {
        for encoding in [Encoding::Binary, Encoding::Base64] {
            for index in 0..encoding.max_ports() {
                for payload in [&b"x"[..], b"xy", b"xyz", &[0xff; 1000]] {
                    let message = encoding.data(index, payload).into_data();
                    assert_eq!(encoding.parse(message), Some((index, payload.to_vec().into())));
                }
            }
        }
    }

    #[test]
    fn no_message_is_longer_than_32_kib_and_its_channel() {
        for encoding in [Encoding::Binary, Encoding::Base64] {
            let longest = encoding.data(0, &vec![7; encoding.max_payload()]);
            assert_eq!(longest.len(), (32 << 10) + 1);
            assert_eq!(encoding.error(0, &"é".repeat(40 << 10)).len(), (32 << 10) + 1);
        }
    }

    #[test]
    fn what_is_nobodys_is_ignored() {
        let ignored = |encoding: Encoding, message: &'static [u8]| encoding.parse(message.into()).is_none();
        for message in [&b""[..], b"\x00", b"\x02", b"\x01text", b"\xfftext"] {
            assert!(ignored(Encoding::Binary, message), "{message:?}");
        }
        for message in [&b""[..], b"0", b"1aGVsbG8K", b"0***bad", b"0aGVsbG8", b"/aGVsbG8K", b"\x00aGVsbG8K"]
        {
            assert!(ignored(Encoding::Base64, message), "{message:?}");
        }
        assert_eq!(Encoding::Binary.parse(b"\x07x"[..].into()), None);
        assert_eq!(Encoding::Binary.parse(b"\x08x"[..].into()), Some((4, b"x"[..].into())));
    }
}
