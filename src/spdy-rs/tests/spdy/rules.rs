//! One test per rule of the protocol as Kubernetes' peers speak it.

use spdy_rs::{Config, Error, MAX_FRAME_LEN, Role, Status, StreamClosed};

use crate::common::{Heard, hear};
use crate::peer::{FIN, Frame, Talk, UNIDIRECTIONAL, control, plain_block, words};

fn opened(id: u32) -> Heard {
    Heard::Opened { id, headers: vec![], fin: false }
}

fn data(id: u32, payload: &[u8]) -> Heard {
    Heard::Data { id, payload: payload.to_vec(), fin: false }
}

fn finished(id: u32) -> Heard {
    Heard::Data { id, payload: vec![], fin: true }
}

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

// Stream ids.

#[test]
fn ids_may_jump_and_be_even() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.opens(1).opens(2).opens(101).heard(), [opened(1), opened(2), opened(101)]);
    assert_eq!(talk.us.last_peer_stream(), 101);
    assert_eq!(talk.answered(), []);
}

#[test]
fn a_lower_id_is_refused_and_the_session_goes_on() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.opens(5).opens(3).pings(1).heard(), [opened(5), Heard::Pinged]);
    assert_eq!(talk.answered(), [Frame::Rst { id: 3, status: PROTOCOL_ERROR }, Frame::Ping(1)]);
    assert_eq!((talk.us.streams(), talk.us.last_peer_stream()), (1, 5));
}

#[test]
fn reusing_the_id_of_an_open_stream_ends_it() {
    // The refusal is an RST_STREAM with that id, so the peer considers its open stream reset.
    let mut talk = Talk::with_server();
    let reset = Heard::Reset { id: 5, status: PROTOCOL_ERROR };
    assert_eq!(talk.opens(5).opens(5).sends(5, b"late").heard(), [opened(5), reset]);
    assert_eq!(talk.answered(), [Frame::Rst { id: 5, status: PROTOCOL_ERROR }]);
    assert_eq!(talk.us.streams(), 0);
}

#[test]
fn reusing_the_id_of_an_ended_stream_is_refused() {
    let mut talk = Talk::with_server();
    talk.opens(5).resets(5, CANCEL).heard();
    assert_eq!(talk.opens(5).heard(), []);
    assert_eq!(talk.answered(), [Frame::Rst { id: 5, status: PROTOCOL_ERROR }]);
}

#[test]
fn header_blocks_of_refused_streams_are_unpacked_too() {
    let mut talk = Talk::with(Role::Server, Config { max_streams: 1, ..Config::default() });
    let headers = [("streamtype", "data"), ("port", "8080"), ("requestid", "0")];
    talk.opens(5).opens_with(3, 0, &headers).opens_with(7, 0, &headers).resets(5, CANCEL).heard();
    // The deflate window of this block reaches back into those of the two refused streams.
    let [Heard::Opened { headers: seen, .. }] = &talk.opens_with(9, 0, &headers).heard()[..] else {
        panic!()
    };
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[1], ("port".to_owned(), "8080".to_owned()));
}

#[test]
fn streams_over_the_limit_are_refused_until_one_ends() {
    let mut talk = Talk::with(Role::Server, Config { max_streams: 2, ..Config::default() });
    assert_eq!(talk.opens(1).opens(3).opens(5).heard(), [opened(1), opened(3)]);
    assert_eq!(talk.answered(), [Frame::Rst { id: 5, status: REFUSED_STREAM }]);
    assert_eq!(talk.us.streams(), 2);
    talk.us.reset(1, Status::Cancel);
    assert_eq!(talk.opens(7).opens(9).heard(), [opened(7)]);
}

#[test]
fn a_client_accepts_no_streams() {
    let mut talk = Talk::with_client();
    assert_eq!(talk.opens(2).heard(), []);
    assert_eq!(talk.answered(), [Frame::Rst { id: 2, status: REFUSED_STREAM }]);
    assert_eq!(talk.us.streams(), 0);
}

#[test]
fn a_server_that_reuses_a_clients_id_ends_only_that_stream() {
    let mut talk = Talk::with_client();
    let (one, three) = (talk.us.open(&[], false).unwrap(), talk.us.open(&[], false).unwrap());
    talk.answered();
    assert_eq!(talk.opens(one).heard(), [Heard::Reset { id: one, status: REFUSED_STREAM }]);
    assert_eq!(talk.answered(), [Frame::Rst { id: one, status: REFUSED_STREAM }]);
    assert!(!talk.us.may_send(one) && talk.us.may_send(three));
}

#[test]
fn a_client_opens_odd_ids_and_a_server_none() {
    let mut talk = Talk::with_client();
    let ids: Vec<_> = (0..3).map(|_| talk.us.open(&[("Port", "80")], false)).collect();
    assert_eq!(ids, [Some(1), Some(3), Some(5)]);
    let headers = vec![("port".to_owned(), "80".to_owned())];
    assert_eq!(talk.answered()[2], Frame::SynStream { id: 5, flags: 0, headers });

    let mut talk = Talk::with_server();
    assert_eq!(talk.us.open(&[], false), None);
    assert_eq!((talk.answered(), talk.us.streams()), (vec![], 0));
}

#[test]
fn headers_too_large_for_any_peer_open_nothing() {
    let mut talk = Talk::with_client();
    let large = "x".repeat(MAX_FRAME_LEN);
    assert_eq!(talk.us.open(&[("name", &large)], false), None);
    assert_eq!((talk.answered(), talk.us.streams()), (vec![], 0));
    let mebibyte = &large[..(1 << 20) - 100];
    assert_eq!(talk.us.open(&[("name", mebibyte)], false), Some(1));
    let [Frame::SynStream { headers, .. }] = &talk.answered()[..] else { panic!() };
    assert_eq!(headers[0].1, mebibyte);
}

// How streams begin and end.

#[test]
fn a_stream_opened_with_fin_sends_nothing() {
    let mut talk = Talk::with_server();
    let heard = talk.opens_with(1, FIN, &[]).sends(1, b"more").finishes(1).heard();
    assert_eq!(heard, [Heard::Opened { id: 1, headers: vec![], fin: true }]);
    talk.us.reply(1).unwrap();
    talk.us.finish(1).unwrap();
    assert_eq!(talk.us.streams(), 0);
}

#[test]
fn only_a_reply_may_be_sent_on_a_unidirectional_stream() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.opens_with(1, UNIDIRECTIONAL, &[]).heard(), [opened(1)]);
    talk.us.reply(1).unwrap();
    assert!(!talk.us.may_send(1));
    assert_eq!(talk.us.send(1, b"no", false), Err(StreamClosed(1)));
    assert_eq!(talk.us.finish(1), Err(StreamClosed(1)));
    assert_eq!(talk.answered(), [Frame::SynReply { id: 1 }]);
    assert_eq!(talk.sends(1, b"ok").heard(), [data(1, b"ok")]);
    assert_eq!(talk.finishes(1).heard(), [finished(1)]);
    assert_eq!(talk.us.streams(), 0);
}

#[test]
fn a_stream_closed_both_ways_from_its_start_is_over_once_answered() {
    let mut talk = Talk::with_server();
    talk.opens_with(1, FIN | UNIDIRECTIONAL, &[]).heard();
    assert_eq!(talk.us.streams(), 1);
    talk.us.reply(1).unwrap();
    assert_eq!(talk.us.streams(), 0);
}

#[test]
fn a_stream_closed_both_ways_still_waits_for_its_answer() {
    let mut talk = Talk::with_server();
    talk.opens_with(1, UNIDIRECTIONAL, &[]).finishes(1).heard();
    talk.us.reply(1).unwrap();
    assert_eq!((talk.answered(), talk.us.streams()), (vec![Frame::SynReply { id: 1 }], 0));

    let mut talk = Talk::with_client();
    let id = talk.us.open(&[], true).unwrap();
    assert_eq!(talk.sends(id, b"x").finishes(id).heard().len(), 1);
    assert_eq!(talk.replies(id, 0).heard(), [Heard::Replied { id, fin: false }]);
    assert_eq!(talk.us.streams(), 0);
}

#[test]
fn nothing_is_sent_before_the_reply() {
    // Go's client drops data that arrives before it.
    let mut talk = Talk::with_server();
    talk.opens(1).heard();
    assert!(!talk.us.may_send(1));
    assert_eq!(talk.us.data_header(1, 4, false), Err(StreamClosed(1)));
    assert_eq!(talk.us.finish(1), Err(StreamClosed(1)));
    talk.us.reply(1).unwrap();
    assert!(talk.us.may_send(1));
    talk.us.send(1, b"now", true).unwrap();
    let now = Frame::Data { id: 1, payload: b"now".to_vec(), fin: true };
    assert_eq!(talk.answered(), [Frame::SynReply { id: 1 }, now]);
}

#[test]
fn a_stream_is_answered_once() {
    let mut talk = Talk::with_server();
    talk.opens(1).heard();
    talk.us.reply(1).unwrap();
    assert_eq!(talk.us.reply(1), Err(StreamClosed(1)));
    assert_eq!(talk.us.reply(3), Err(StreamClosed(3)));
    assert_eq!(talk.answered(), [Frame::SynReply { id: 1 }]);
}

#[test]
fn the_opener_may_send_before_the_reply() {
    let mut talk = Talk::with_client();
    let id = talk.us.open(&[], false).unwrap();
    talk.us.send(id, b"early", true).unwrap();
    assert_eq!(talk.us.reply(id), Err(StreamClosed(id)), "it is not ours to answer");
    assert_eq!(talk.us.streams(), 1, "the answer is still to come");
    assert_eq!(talk.replies(id, FIN).heard(), [Heard::Replied { id, fin: true }]);
    assert_eq!(talk.us.streams(), 0);
}

#[test]
fn a_second_reply_or_one_to_nothing_is_ignored() {
    let mut talk = Talk::with_client();
    let id = talk.us.open(&[], false).unwrap();
    assert_eq!(talk.replies(99, 0).heard(), []);
    let heard = talk.replies(id, 0).replies(id, FIN).sends(id, b"x").heard();
    assert_eq!(heard, [Heard::Replied { id, fin: false }, data(id, b"x")]);
}

#[test]
fn a_reply_means_nothing_to_a_server() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.opens(1).replies(1, FIN).heard(), [opened(1)]);
    assert_eq!(talk.sends(1, b"x").heard(), [data(1, b"x")]);
}

#[test]
fn fin_both_ways_ends_a_stream() {
    let mut talk = Talk::with_server();
    talk.opens(1).opens(3).heard();
    for id in [1, 3] {
        talk.us.reply(id).unwrap();
    }
    talk.us.finish(1).unwrap();
    assert_eq!(talk.us.send(1, b"more", false), Err(StreamClosed(1)));
    let rest = Heard::Data { id: 1, payload: b"x".to_vec(), fin: true };
    assert_eq!(talk.sends(1, b"x").finishes(1).heard(), [rest]);
    assert_eq!(talk.us.streams(), 1);
    talk.finishes(3).heard();
    assert_eq!(talk.us.streams(), 1);
    talk.us.send(3, b"answer after the end", true).unwrap();
    assert_eq!(talk.us.streams(), 0);
}

#[test]
fn data_for_unknown_and_ended_streams_is_ignored() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.sends(99, b"x").finishes(99).heard(), []);
    talk.opens(1).finishes(1).heard();
    assert_eq!(talk.sends(1, b"after FIN").finishes(1).pings(1).heard(), [Heard::Pinged]);
    talk.us.reset(1, Status::Cancel);
    assert_eq!(talk.sends(1, b"after RST").finishes(1).pings(3).heard(), [Heard::Pinged]);
}

#[test]
fn a_reset_is_reported_once() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.resets(99, CANCEL).heard(), []);
    talk.opens(1).heard();
    let heard = talk.resets(1, 77).resets(1, CANCEL).heard();
    assert_eq!(heard, [Heard::Reset { id: 1, status: 77 }]);
    talk.us.reset(1, Status::Cancel);
    assert_eq!(talk.answered(), [], "there is nothing left to reset");
}

#[test]
fn our_reset_is_sent_once_and_crossing_frames_are_ignored() {
    let mut talk = Talk::with_server();
    talk.opens(1).heard();
    talk.us.reset(1, Status::RefusedStream);
    talk.us.reset(1, Status::Cancel);
    talk.us.reset(99, Status::Cancel);
    assert_eq!(talk.answered(), [Frame::Rst { id: 1, status: REFUSED_STREAM }]);
    assert_eq!(talk.us.reply(1), Err(StreamClosed(1)));
    assert_eq!(talk.sends(1, b"x").finishes(1).resets(1, CANCEL).heard(), []);
}

#[test]
fn a_reset_in_the_middle_of_a_frame_drops_its_rest() {
    let mut talk = Talk::with_server();
    let heard = talk.opens(1).opens(3).announces_data(1, 8, FIN).says_bytes(b"half").heard();
    assert_eq!(heard[2..], [data(1, b"half")]);
    talk.us.reset(1, Status::Cancel);
    assert_eq!(talk.says_bytes(b"rest").sends(3, b"next").heard(), [data(3, b"next")]);
}

#[test]
fn fin_comes_with_the_last_piece() {
    let mut talk = Talk::with_server();
    talk.opens(1).heard();
    assert_eq!(talk.announces_data(1, 6, FIN).says_bytes(b"abc").heard(), [data(1, b"abc")]);
    let last = Heard::Data { id: 1, payload: b"def".to_vec(), fin: true };
    assert_eq!(talk.says_bytes(b"def").heard(), [last]);
}

#[test]
fn an_empty_frame_without_fin_is_ignored() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.opens(1).sends(1, b"").heard(), [opened(1)]);
}

// PING and GOAWAY.

#[test]
fn pings_with_the_peers_parity_are_echoed_and_others_are_answers() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.pings(1).pings(u32::MAX).heard(), [Heard::Pinged, Heard::Pinged]);
    assert_eq!(talk.answered(), [Frame::Ping(1), Frame::Ping(u32::MAX)]);
    assert_eq!(talk.pings(2).heard(), [Heard::Ponged { id: 2 }]);
    assert_eq!(talk.answered(), []);

    let mut talk = Talk::with_client();
    assert_eq!(talk.pings(2).pings(1).heard(), [Heard::Pinged, Heard::Ponged { id: 1 }]);
    assert_eq!(talk.answered(), [Frame::Ping(2)]);
}

#[test]
fn our_pings_have_our_parity() {
    for (mut talk, ids) in [(Talk::with_client(), [1, 3]), (Talk::with_server(), [2, 4])] {
        assert_eq!([talk.us.ping(), talk.us.ping()], ids);
        assert_eq!(talk.answered(), ids.map(Frame::Ping));
    }
}

#[test]
fn goaway_is_reported_and_ours_names_the_last_stream() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.goes_away(0, 2).heard(), [Heard::GoAway { last: 0, status: 2 }]);
    talk.us.go_away();
    talk.opens(7).opens(3).heard();
    talk.answered();
    talk.us.go_away();
    assert_eq!(talk.answered(), [Frame::GoAway { last: 7, status: 0 }]);
}

// What ends a session.

#[test]
fn stream_zero_ends_the_session_with_a_goaway() {
    for break_it in [
        |talk: &mut Talk| _ = talk.announces_data(0, 1, 0),
        |talk: &mut Talk| _ = talk.resets(0, CANCEL),
        |talk: &mut Talk| _ = talk.opens(0),
        |talk: &mut Talk| _ = talk.replies(0, 0),
        |talk: &mut Talk| _ = talk.sends_headers(0, FIN),
        |talk: &mut Talk| _ = talk.opens(1 << 31),
        |talk: &mut Talk| _ = talk.resets(1 << 31, CANCEL),
    ] {
        let mut talk = Talk::with_server();
        break_it(&mut talk);
        let error = talk.error();
        assert!(matches!(error, Error::StreamZero { .. }), "{error}");
        assert!(error.says_goaway());
    }
}

#[test]
fn frames_of_fixed_length_must_have_it() {
    for (kind, good) in [(3, 8), (6, 4), (7, 8)] {
        for len in [0, good - 1, good + 1, MAX_FRAME_LEN] {
            // The header is enough: the payload is neither awaited nor kept.
            let error = Talk::with_server().says_bytes(&control(kind, 0, len)).error();
            assert!(matches!(error, Error::BadLength { .. }), "{error}");
            assert!(!error.says_goaway());
        }
    }
}

#[test]
fn frames_with_a_block_must_have_room_for_what_precedes_it() {
    for (kind, fixed) in [(1, 10), (2, 4), (8, 4)] {
        let error = Talk::with_server().says_bytes(&control(kind, 0, fixed - 1)).error();
        assert!(matches!(error, Error::BadLength { .. }), "{error}");
    }
}

#[test]
fn an_error_is_final() {
    let mut talk = Talk::with_server();
    let error = talk.opens(1).resets(0, CANCEL).error();
    assert_eq!(talk.pings(1).error(), error);
    assert_eq!(talk.answered(), []);
}

// Frames that we ignore.

#[test]
fn other_control_frames_are_skipped() {
    let (settings, window_update, noop, credential) = (4, 9, 5, 10);
    let mut talk = Talk::with_server();
    talk.opens(1)
        .says_control(settings, 0, &words(&[1, 7, 65_536]))
        .says_control(window_update, 0, &words(&[1, 4_096]))
        .says_control(window_update, 0, &words(&[0, 4_096]))
        .says_control(noop, 0, &[])
        .says_control(credential, 0, &[0; 4])
        .says_control(0xffff, 0xff, &[0xff; 100_000])
        .pings(1);
    assert_eq!(talk.heard(), [opened(1), Heard::Pinged]);
}

#[test]
fn the_version_of_a_frame_is_not_checked() {
    // The reference accepts version 2, and a newer client must not be cut off because of a number.
    let mut talk = Talk::with_server();
    assert_eq!(talk.says_bytes(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]).heard(), [Heard::Pinged]);
}

#[test]
fn late_headers_are_decompressed_and_only_their_fin_counts() {
    let mut talk = Talk::with_server();
    assert_eq!(talk.opens(1).sends_headers(1, 0).sends(1, b"x").heard(), [opened(1), data(1, b"x")]);
    assert_eq!(talk.sends_headers(1, FIN).sends(1, b"y").sends_headers(1, FIN).heard(), [finished(1)]);
    assert_eq!(talk.sends_headers(99, FIN).heard(), []);
    assert_eq!(talk.opens(3).heard(), [opened(3)]);
}

// Header blocks.

#[test]
fn a_packed_block_over_the_limit_is_refused_by_its_frame_header() {
    let limit = Config::default().max_packed_block;
    for (kind, fixed) in [(1, 10), (2, 4), (8, 4)] {
        let mut talk = Talk::with_server();
        assert_eq!(talk.says_bytes(&control(kind, 0, fixed + limit)).heard(), []);
        let error = Talk::with_server().says_bytes(&control(kind, 0, fixed + limit + 1)).error();
        assert_eq!(error, Error::HeaderBlockTooLarge { limit, unit: "compressed bytes" });
    }
}

#[test]
fn a_plain_block_over_the_limit_is_refused() {
    let config = Config { max_plain_block: 5_000, ..Config::default() };
    let around = plain_block(&[("a", "")]).len();
    for (value, good) in [(5_000 - around, true), (5_001 - around, false), (1 << 20, false)] {
        let mut talk = Talk::with(Role::Server, config.clone());
        talk.opens_with(1, 0, &[("a", &"x".repeat(value))]);
        if good {
            assert_eq!(talk.heard().len(), 1);
        } else {
            assert_eq!(talk.error(), Error::HeaderBlockTooLarge { limit: 5_000, unit: "decompressed bytes" });
        }
    }
}

#[test]
fn the_largest_limits_never_apply() {
    let max = usize::MAX;
    let config = Config { max_streams: max, max_packed_block: max, max_plain_block: max, max_headers: max };
    let mut talk = Talk::with(Role::Server, config);
    let value = "x".repeat(1 << 20);
    assert_eq!(talk.opens_with(1, 0, &[("a", &value)]).heard().len(), 1);
}

#[test]
fn more_headers_than_the_limit_are_refused() {
    let config = Config { max_headers: 3, ..Config::default() };
    let headers = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")];
    let mut talk = Talk::with(Role::Server, config);
    assert_eq!(talk.opens_with(1, 0, &headers[..3]).heard().len(), 1);
    let error = talk.opens_with(3, 0, &headers).error();
    assert_eq!(error, Error::HeaderBlockTooLarge { limit: 3, unit: "headers" });
}

#[test]
fn corrupt_blocks_end_the_session_without_a_goaway() {
    let mut deflate = Talk::with_server();
    let good = deflate.pack(&plain_block(&[("a", "1")]));
    let mut wrong_dictionary = good.clone();
    wrong_dictionary[5] ^= 1;
    let short = Talk::with_server().pack(&plain_block(&[("a", "1")])[..9]);
    let long = Talk::with_server().pack(&[plain_block(&[("a", "1")]), vec![0]].concat());
    let huge_name = Talk::with_server().pack(&words(&[1, u32::MAX]));
    let huge_count = Talk::with_server().pack(&words(&[5]));
    // An empty header list in a final deflate block, which ends the stream (with the Adler-32 of four zero bytes).
    let ended = [&good[..2], &good[2..6], &[1, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 4, 0, 1]].concat();
    for block in
        [&[][..], &[0xff; 40], &wrong_dictionary, &good[..10], &short, &long, &huge_name, &huge_count, &ended]
    {
        let mut payload = words(&[1, 0]);
        payload.extend_from_slice(&[0; 2]);
        payload.extend_from_slice(block);
        let error = Talk::with_server().says_control(1, 0, &payload).error();
        assert!(matches!(error, Error::HeaderBlock(_)), "{error} for {block:x?}");
        assert!(!error.says_goaway());
    }
}

#[test]
fn odd_names_are_passed_on() {
    // The reference ends the session on `host` and on capitals, which is not necessary.
    let mut talk = Talk::with_server();
    let heard = talk.opens_with(1, 0, &[("host", "x"), ("Port", "80"), ("", "")]).heard();
    let [Heard::Opened { headers, .. }] = &heard[..] else { panic!() };
    assert_eq!(headers.len(), 3);
}

// Output.

#[test]
fn output_keeps_the_order_of_events_and_commands() {
    let mut talk = Talk::with_server();
    talk.opens(1).pings(1).heard();
    talk.us.reply(1).unwrap();
    talk.us.send(1, b"a", false).unwrap();
    talk.pings(3).heard();
    let header = talk.us.data_header(1, 1, false).unwrap();
    talk.us.finish(1).unwrap();
    let frame = |payload: &[u8], fin| Frame::Data { id: 1, payload: payload.to_vec(), fin };
    let in_output =
        [Frame::Ping(1), Frame::SynReply { id: 1 }, frame(b"a", false), Frame::Ping(3), frame(b"", true)];
    assert_eq!(talk.answered(), in_output, "the data header is the caller's to place");
    assert_eq!(header, [0, 0, 0, 1, 0, 0, 0, 1]);
}

#[test]
fn a_frame_holds_no_more_than_its_length_field_allows() {
    let mut talk = Talk::with_client();
    let id = talk.us.open(&[], false).unwrap();
    assert_eq!(talk.us.data_header(id, MAX_FRAME_LEN + 1, true), Err(StreamClosed(id)));
    assert!(talk.us.may_send(id), "a refused frame does not end the stream");
    assert_eq!(talk.us.data_header(id, MAX_FRAME_LEN, true), Ok([0, 0, 0, 1, 1, 0xff, 0xff, 0xff]));
}

#[test]
fn answers_are_whole_however_the_input_is_cut() {
    let mut talk = Talk::with_server();
    for byte in [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0] {
        assert_eq!(talk.says_bytes(&[byte]).heard(), []);
        assert!(talk.us.output().is_empty());
    }
    assert_eq!(hear(&mut talk.us, &[9]).0, [Heard::Pinged]);
    assert_eq!(talk.answered(), [Frame::Ping(9)]);
}
