use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::*;
use crate::descriptor::watch_reading;
use crate::driver::QUIET;
use crate::frame::{self, Kind};

/// An association and the guest's end of its transport, whose buffers hold little where `tight` says so.
fn pair(tight: bool) -> (Datagrams, UnixStream) {
    let (host, guest) = StdStream::pair().unwrap();
    if tight {
        socket2::SockRef::from(&host).set_send_buffer_size(1).unwrap();
    }
    host.set_nonblocking(true).unwrap();
    guest.set_nonblocking(true).unwrap();
    let datagrams = Datagrams::new(watch_reading(host.into()).unwrap(), None);
    (datagrams, UnixStream::from_std(guest).unwrap())
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&frame::header(kind, payload.len())[..], payload].concat()
}

async fn hear(guest: &mut UnixStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    timeout(Duration::from_secs(60), guest.read_exact(&mut got)).await.expect("this hangs").unwrap();
    assert!(got == expected, "got {:?}", &got[..got.len().min(64)]);
}

#[tokio::test]
async fn each_datagram_is_a_frame() {
    let (mut datagrams, mut guest) = pair(false);
    for datagram in [&b"one"[..], b"", b"three"] {
        datagrams.send(datagram).await.unwrap();
        hear(&mut guest, &frame(Kind::Data, datagram)).await;
    }
    guest.write_all(&[frame(Kind::Data, b"four"), frame(Kind::Data, b"")].concat()).await.unwrap();
    assert_eq!(datagrams.receive().await.unwrap().unwrap(), b"four");
    assert_eq!(datagrams.receive().await.unwrap().unwrap(), b"");
}

#[tokio::test]
async fn a_datagram_whose_sender_left_is_sent_whole_or_not_at_all() {
    let (mut datagrams, mut guest) = pair(true);
    let datagram = vec![7; MAX_DATAGRAM];
    let left = timeout(Duration::from_millis(50), datagrams.send(&datagram)).await;
    assert!(left.is_err(), "the transport has room for all of it");
    let expected = [frame(Kind::Data, &datagram), frame(Kind::Data, b"next")].concat();
    tokio::join!(hear(&mut guest, &expected), async { datagrams.send(b"next").await.unwrap() });
}

#[tokio::test]
async fn what_came_before_a_reset_comes_first() {
    let (mut datagrams, mut guest) = pair(false);
    let last = [frame(Kind::Data, b"last"), frame::reset(111, "nothing listens")].concat();
    guest.write_all(&last).await.unwrap();
    assert_eq!(datagrams.receive().await.unwrap().unwrap(), b"last");
    for _ in 0..2 {
        assert_eq!(datagrams.receive().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(datagrams.send(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// A guest that is paused says nothing for ever, and no device reports it. The clock runs ahead whenever nothing is to be
/// done.
#[tokio::test(start_paused = true)]
async fn a_guest_that_is_silent_is_asked_and_given_up() {
    let (mut datagrams, mut guest) = pair(false);
    datagrams.send(b"hello").await.unwrap();
    let began = Instant::now();
    let error = timeout(20 * QUIET, datagrams.receive()).await.expect("waits for ever").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!((2 * QUIET..=3 * QUIET).contains(&began.elapsed()), "{:?}", began.elapsed());
    hear(&mut guest, &[frame(Kind::Data, b"hello"), frame(Kind::Ping, b"")].concat()).await;
}

/// As a port forward does: it waits for datagrams of either side at once, and leaves one wait for the other.
#[tokio::test(start_paused = true)]
async fn a_wait_that_is_left_again_and_again_still_ends() {
    let (mut datagrams, _guest) = pair(false);
    let ending = async {
        loop {
            if let Ok(received) = timeout(QUIET / 3, datagrams.receive()).await {
                return received;
            }
            datagrams.send(b"hello").await?;
        }
    };
    let error = timeout(20 * QUIET, ending).await.expect("goes on for ever").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_answers_is_not_given_up() {
    let (mut datagrams, mut guest) = pair(false);
    datagrams.send(b"hello").await.unwrap();
    let receiving = tokio::spawn(async move { datagrams.receive().await });
    hear(&mut guest, &[frame(Kind::Data, b"hello"), frame(Kind::Ping, b"")].concat()).await;
    guest.write_all(&frame(Kind::Pong, b"")).await.unwrap();
    assert!(timeout(20 * QUIET, guest.read(&mut [0])).await.is_err());
    guest.write_all(&frame(Kind::Data, b"x")).await.unwrap();
    assert_eq!(receiving.await.unwrap().unwrap().unwrap(), b"x");
}
