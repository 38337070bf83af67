use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::*;
use crate::descriptor::watch_reading;
use crate::driver::{MAX_SLICES, QUIET};
use crate::errno;
use crate::frame::{self, Kind, MAX_DATA};
use crate::link::WINDOW;

fn channel(host: StdStream) -> Channel {
    Channel::new(watch_reading(host.into()).unwrap(), None)
}

/// A channel and the guest's end of its transport, whose buffers hold little where `tight` says so.
fn pair(tight: bool) -> (Channel, UnixStream) {
    let (host, guest) = StdStream::pair().unwrap();
    if tight {
        socket2::SockRef::from(&host).set_send_buffer_size(1).unwrap();
    }
    host.set_nonblocking(true).unwrap();
    guest.set_nonblocking(true).unwrap();
    (channel(host), UnixStream::from_std(guest).unwrap())
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&frame::header(kind, payload.len())[..], payload].concat()
}

async fn hear(guest: &mut UnixStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    soon(guest.read_exact(&mut got)).await.unwrap();
    assert!(got == expected, "got {:?}", &got[..got.len().min(64)]);
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.expect("this hangs")
}

async fn is_stuck<T>(future: impl Future<Output = T>) -> bool {
    timeout(Duration::from_millis(100), future).await.is_err()
}

#[tokio::test]
async fn slices_go_out_as_one_frame() {
    let (mut channel, mut guest) = pair(false);
    let slices = [&b"one"[..], b"", b"two"].map(IoSlice::new);
    assert_eq!(channel.write_vectored(&slices).await.unwrap(), 6);
    hear(&mut guest, &frame(Kind::Data, b"onetwo")).await;
}

#[tokio::test]
async fn more_slices_than_one_call_takes_are_a_partial_write() {
    let (mut channel, mut guest) = pair(false);
    let slices = [IoSlice::new(b"x"); MAX_SLICES + 5];
    assert_eq!(channel.write_vectored(&slices).await.unwrap(), MAX_SLICES);
    hear(&mut guest, &frame(Kind::Data, &[b'x'; MAX_SLICES])).await;
    assert_eq!(channel.write(b"").await.unwrap(), 0);
}

#[tokio::test]
async fn a_frame_cut_by_a_full_socket_is_continued_by_the_next_write() {
    let (mut channel, mut guest) = pair(true);
    let payload: Vec<u8> = (0..MAX_DATA).map(|i| (i % 251) as u8).collect();
    let first = channel.write(&payload).await.unwrap();
    assert!(0 < first && first < MAX_DATA, "{first}");
    assert!(is_stuck(channel.write(&payload[first..])).await);
    let expected = frame(Kind::Data, &payload);
    tokio::join!(hear(&mut guest, &expected), async { channel.write_all(&payload[first..]).await.unwrap() });
    channel.write_all(b"next").await.unwrap();
    hear(&mut guest, &frame(Kind::Data, b"next")).await;
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_frame_is_an_error_and_says_nothing_more() {
    let (mut channel, mut guest) = pair(true);
    let sent = channel.write(&[0; MAX_DATA]).await.unwrap();
    let error = channel.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    drop(channel);
    let mut got = Vec::new();
    guest.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 4 + sent);
}

#[tokio::test]
async fn a_write_that_stays_pending_has_taken_nothing() {
    let (mut channel, mut guest) = pair(true);
    let (mut frames, mut payload) = (0, 0);
    while let Ok(len) = timeout(Duration::from_millis(50), channel.write(&[7])).await {
        frames += 1;
        payload += len.unwrap();
    }
    let mut got = vec![0; 5 * frames];
    soon(guest.read_exact(&mut got)).await.unwrap();
    assert_eq!((got, payload), (frame(Kind::Data, &[7]).repeat(frames), frames));
    let (shut, ()) = tokio::join!(channel.shutdown(), async {
        hear(&mut guest, &frame(Kind::Fin, b"")).await;
        guest.write_all(&frame(Kind::FinAck, b"")).await.unwrap();
    });
    shut.unwrap();
}

#[tokio::test]
async fn credit_waits_for_room_and_is_sent_by_whoever_comes_first() {
    let (mut channel, mut guest) = pair(true);
    while !is_stuck(channel.write(&[7])).await {}
    let window = frame(Kind::Data, &[1; MAX_DATA]).repeat(2);
    let reading = tokio::spawn(async move {
        let mut got = vec![0; 2 * MAX_DATA];
        channel.read_exact(&mut got).await.unwrap();
        let _ = channel.read(&mut [0]).await;
    });
    let (mut from, mut to) = guest.split();
    to.write_all(&window).await.unwrap();
    let filling = frame(Kind::Data, &[7]);
    let mut got = [0; 5];
    soon(async {
        while {
            from.read_exact(&mut got).await.unwrap();
            got[..] == filling
        } {}
    })
    .await;
    assert_eq!(got[..4], frame::header(Kind::Credit, 4));
    reading.abort();
}

#[tokio::test]
async fn a_reader_is_woken_though_a_writer_that_waited_too_is_gone() {
    let (channel, mut guest) = pair(false);
    let (mut from, mut to) = tokio::io::split(channel);
    let reading = tokio::spawn(async move { from.read_u8().await.unwrap() });
    let writing = tokio::spawn(async move { to.write_all(&vec![0; 2 * WINDOW as usize]).await });
    sleep(Duration::from_millis(100)).await;
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    guest.write_all(&frame(Kind::Data, b"!")).await.unwrap();
    assert_eq!(soon(reading).await.unwrap(), b'!');
}

#[tokio::test]
async fn a_writer_is_woken_by_credit_that_a_reader_finds() {
    let (channel, mut guest) = pair(false);
    let (mut from, mut to) = tokio::io::split(channel);
    let reading = tokio::spawn(async move { from.read_u8().await });
    let writing = tokio::spawn(async move { to.write_all(&vec![0; 2 * WINDOW as usize]).await.unwrap() });
    let mut left = 2 * WINDOW as usize;
    soon(async {
        while left > 0 {
            let mut header = [0; 4];
            guest.read_exact(&mut header).await.unwrap();
            let (_, len) = frame::parse_header(header);
            guest.read_exact(&mut vec![0; len]).await.unwrap();
            left -= len;
            guest.write_all(&frame(Kind::Credit, &(len as u32 + 4).to_be_bytes())).await.unwrap();
        }
        writing.await.unwrap();
    })
    .await;
    reading.abort();
}

#[tokio::test]
async fn many_small_frames_take_one_read() {
    let (mut channel, mut guest) = pair(false);
    guest
        .write_all(&[frame(Kind::Data, b"ab"), frame(Kind::Data, b"c"), frame(Kind::Data, b"de")].concat())
        .await
        .unwrap();
    let mut got = [0; 64];
    assert_eq!(channel.read(&mut got).await.unwrap(), 5);
    assert_eq!(&got[..5], b"abcde");
}

#[tokio::test]
async fn the_end_is_acknowledged_when_it_is_read_and_not_before() {
    let (mut channel, mut guest) = pair(false);
    guest.write_all(&[frame(Kind::Data, b"ab"), frame(Kind::Fin, b"")].concat()).await.unwrap();
    assert_eq!(channel.read(&mut [0; 2]).await.unwrap(), 2);
    assert!(is_stuck(guest.read_u8()).await);
    assert_eq!(channel.read(&mut [0; 2]).await.unwrap(), 0);
    hear(&mut guest, &frame(Kind::FinAck, b"")).await;
    assert_eq!(channel.read(&mut [0; 2]).await.unwrap(), 0);
    assert!(is_stuck(guest.read_u8()).await);
}

#[tokio::test]
async fn a_drop_says_reset_before_both_ends_and_nothing_after() {
    let (channel, mut guest) = pair(false);
    drop(channel);
    let mut got = Vec::new();
    guest.read_to_end(&mut got).await.unwrap();
    assert_eq!(got[0], Kind::Reset as u8);

    let (mut channel, mut guest) = pair(false);
    guest.write_all(&frame(Kind::Fin, b"")).await.unwrap();
    assert_eq!(channel.read(&mut [0; 2]).await.unwrap(), 0);
    hear(&mut guest, &frame(Kind::FinAck, b"")).await;
    let (shut, ()) = tokio::join!(channel.shutdown(), async {
        hear(&mut guest, &frame(Kind::Fin, b"")).await;
        guest.write_all(&frame(Kind::FinAck, b"")).await.unwrap();
    });
    shut.unwrap();
    drop(channel);
    assert_eq!(guest.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_writer_whose_reader_has_ended_hears_of_a_reset_at_once() {
    let (mut channel, mut guest) = pair(false);
    guest.write_all(&frame(Kind::Fin, b"")).await.unwrap();
    assert_eq!(channel.read(&mut [0; 2]).await.unwrap(), 0);
    channel.write_all(b"goes").await.unwrap();
    guest.write_all(&frame::reset(errno::ECONNRESET, "gone")).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(channel.write(b"does not").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// The bytes of a guest that is dropped with everything it said are still read, then the failure.
#[tokio::test]
async fn a_closed_transport_gives_its_bytes_first() {
    let (host, mut guest) = StdStream::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let mut channel = channel(host);
    guest.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    guest.write_all(&frame(Kind::Data, b"last words")).unwrap();
    channel.write_all(b"x").await.unwrap();
    let mut got = [0; 5];
    guest.read_exact(&mut got).unwrap();
    drop(guest);
    let mut got = Vec::new();
    let error = channel.read_to_end(&mut got).await.unwrap_err();
    assert_eq!((&got[..], error.kind()), (&b"last words"[..], ErrorKind::UnexpectedEof));
}

#[tokio::test]
async fn bytes_that_a_writer_read_come_first() {
    let (mut channel, mut guest) = pair(false);
    guest.write_all(&frame(Kind::Data, b"first ")).await.unwrap();
    // More than the window, so that the writer reads on to get credit.
    assert!(is_stuck(channel.write_all(&vec![0; WINDOW as usize])).await);
    guest.write_all(&frame(Kind::Data, b"then")).await.unwrap();
    let (mut start, mut rest) = ([0; 4], [0; 6]);
    soon(channel.read_exact(&mut start)).await.unwrap();
    soon(channel.read_exact(&mut rest)).await.unwrap();
    assert_eq!((&start, &rest), (b"firs", b"t then"));
}

#[tokio::test]
async fn a_violation_is_reported_after_the_payload_before_it() {
    let (mut channel, mut guest) = pair(false);
    guest.write_all(&[frame(Kind::Data, b"good"), frame(Kind::Fin, b"bad")].concat()).await.unwrap();
    let mut got = [0; 4];
    channel.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"good");
    assert_eq!(channel.read(&mut got).await.unwrap_err().kind(), ErrorKind::InvalidData);
}

/// A guest that is silent is asked once, and given up; one that answers is asked again, and never given up. The clock
/// runs ahead whenever nothing is to be done.
#[tokio::test(start_paused = true)]
async fn a_guest_that_owes_a_word_is_asked_and_given_up_when_it_is_silent() {
    let (mut channel, mut guest) = pair(false);
    channel.write_all(b"hello").await.unwrap();
    hear(&mut guest, &frame(Kind::Data, b"hello")).await;
    let began = tokio::time::Instant::now();
    let error = channel.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("paused"), "{error}");
    assert!((2 * QUIET..=3 * QUIET).contains(&began.elapsed()), "{:?}", began.elapsed());
    hear(&mut guest, &frame(Kind::Ping, b"")).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_answers_is_left_in_peace_by_a_reader() {
    let (mut channel, mut guest) = pair(false);
    channel.write_all(b"hello").await.unwrap();
    let reading = tokio::spawn(async move { channel.read(&mut [0]).await });
    hear(&mut guest, &frame(Kind::Data, b"hello")).await;
    hear(&mut guest, &frame(Kind::Ping, b"")).await;
    guest.write_all(&frame(Kind::Pong, b"")).await.unwrap();
    // Nothing is owed any more, so that nothing is asked, however long it takes.
    let mut more = [0; 4];
    assert!(timeout(20 * QUIET, guest.read(&mut more)).await.is_err());
    guest.write_all(&frame(Kind::Data, b"x")).await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_waits_for_a_slow_pod_asks_again_and_again() {
    let (mut channel, mut guest) = pair(false);
    let ending = tokio::spawn(async move { channel.shutdown().await.map(|()| channel) });
    hear(&mut guest, &frame(Kind::Fin, b"")).await;
    for _ in 0..5 {
        hear(&mut guest, &frame(Kind::Ping, b"")).await;
        guest.write_all(&frame(Kind::Pong, b"")).await.unwrap();
    }
    guest.write_all(&frame(Kind::FinAck, b"")).await.unwrap();
    ending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_channel_is_never_asked() {
    let (mut channel, mut guest) = pair(false);
    let reading = tokio::spawn(async move { channel.read(&mut [0]).await });
    assert!(timeout(20 * QUIET, guest.read(&mut [0])).await.is_err());
    reading.abort();
}
