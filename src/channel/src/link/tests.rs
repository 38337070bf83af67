use proptest::prelude::*;

use super::*;

/// Reads as both ends do: scattered into room, lead, room.
fn read(link: &mut Link, wire: &[u8], room: usize) -> Result<(usize, Vec<u8>), Violation> {
    let mut buffer = vec![0; room];
    let mut lead = [0; MAX_LEAD];
    let scatter = link.scatter(room);
    let len = wire.len().min(room + scatter.lead);
    let (front, rest) = wire[..len].split_at(len.min(scatter.payload));
    let (middle, back) = rest.split_at(rest.len().min(scatter.lead));
    buffer[..front.len()].copy_from_slice(front);
    lead[..middle.len()].copy_from_slice(middle);
    buffer[front.len()..front.len() + back.len()].copy_from_slice(back);
    let payload = link.receive(&mut buffer, &lead, scatter, len)?;
    buffer.truncate(payload);
    Ok((len, buffer))
}

fn read_all(link: &mut Link, wire: &[u8]) -> Result<Vec<u8>, Violation> {
    let (mut at, mut got) = (0, Vec::new());
    while at < wire.len() {
        let (used, payload) = read(link, &wire[at..], 4096)?;
        at += used;
        got.extend(payload);
    }
    Ok(got)
}

fn data(payload: &[u8]) -> Vec<u8> {
    [&frame::header(Kind::Data, payload.len())[..], payload].concat()
}

fn credit(more: u32) -> Vec<u8> {
    [frame::header(Kind::Credit, 4), more.to_be_bytes()].concat()
}

fn bare(kind: Kind) -> Vec<u8> {
    frame::header(kind, 0).to_vec()
}

fn send(link: &mut Link, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= link.sendable());
    link.begin(payload.len());
    link.sent(payload.len());
    data(payload)
}

fn violates(wire: &[u8]) -> Violation {
    read_all(&mut Link::new(), wire).unwrap_err()
}

#[test]
fn payload_comes_out_without_its_frames() {
    let wire = [data(b"one"), credit(0), data(b"two"), bare(Kind::Fin)].concat();
    let mut link = Link::new();
    assert_eq!(read_all(&mut link, &wire).unwrap(), b"onetwo");
    assert!(link.has_peer_ended());
}

#[test]
fn any_split_gives_the_same() {
    let wire = [data(b"one"), credit(0), data(&[7; 300]), data(b"x"), bare(Kind::Fin)].concat();
    for first in 0..wire.len() {
        let mut link = Link::new();
        let mut got = read_all(&mut link, &wire[..first]).unwrap();
        got.extend(read_all(&mut link, &wire[first..]).unwrap());
        assert_eq!(got, [&b"one"[..], &[7; 300], b"x"].concat(), "split at {first}");
        assert!(link.has_peer_ended());
    }
}

#[test]
fn a_read_of_whole_frames_moves_nothing() {
    let mut link = Link::new();
    read_all(&mut link, &frame::header(Kind::Data, 100)).unwrap();
    assert_eq!(link.scatter(4096), Scatter { payload: 100, lead: 4 });
    assert_eq!(link.scatter(99), Scatter { payload: 99, lead: 0 });
    read_all(&mut link, &[1; 100]).unwrap();
    assert_eq!(link.scatter(4096), Scatter { payload: 0, lead: 4 });
}

#[test]
fn credit_counts_headers_and_small_frames_as_larger() {
    let mut link = Link::new();
    let mut frames = 0;
    while link.sendable() > 0 {
        send(&mut link, b"x");
        frames += 1;
    }
    assert_eq!(frames, (WINDOW - LEAST_CREDIT) / 512 + 1);
    // At packet 455 Linux may reset the connection; up to nine control frames can be outstanding, too.
    assert!(frames < 455 - 9);
    read_all(&mut link, &credit(512)).unwrap();
    assert_eq!(link.sendable(), WINDOW as usize - (frames as usize - 1) * 512 - 4);

    for (len, taken) in [(507, 512), (508, 512), (509, 513)] {
        let mut link = Link::new();
        send(&mut link, &vec![0; len]);
        assert_eq!(link.credit, WINDOW - taken, "{len} bytes");
    }
}

#[test]
fn what_small_frames_take_comes_back() {
    let (mut link, mut frames) = (Link::new(), 0);
    while !link.is_control_due() {
        read_all(&mut link, &data(b"x")).unwrap();
        link.handed_on(1);
        frames += 1;
    }
    assert_eq!(frames, RETURN_AT / 512 + 1);
    let returned = u32::from_be_bytes(link.control(false)[4..].try_into().unwrap());
    assert_eq!(returned, frames * 512);
}

#[test]
fn the_largest_frame_is_bounded_by_frame_and_credit() {
    let mut link = Link::new();
    send(&mut link, &[0; 1_000]);
    for _ in 0..2 {
        assert_eq!(link.sendable(), MAX_DATA);
        send(&mut link, &vec![0; MAX_DATA]);
    }
    assert_eq!(link.sendable(), MAX_DATA - 1_004);
    send(&mut link, &vec![0; MAX_DATA - 1_004]);
    assert_eq!(link.sendable(), 0);
}

#[test]
fn credit_is_returned_by_halves_and_earlier_with_data() {
    let mut link = Link::new();
    read_all(&mut link, &data(&vec![0; MAX_DATA])).unwrap();
    assert!(link.control(false).is_empty());
    link.handed_on(MAX_DATA);
    assert!(!link.is_control_due());
    assert!(link.control(false).is_empty());
    assert_eq!(*link.control(true), *credit(MAX_DATA as u32 + 4));
    assert!(link.control(true).is_empty());

    for _ in 0..2 {
        read_all(&mut link, &data(&vec![0; MAX_DATA])).unwrap();
        link.handed_on(MAX_DATA);
    }
    assert!(link.is_control_due());
    assert_eq!(*link.control(false), *credit(2 * (MAX_DATA as u32 + 4)));
}

#[test]
fn nothing_comes_into_the_middle_of_a_frame() {
    let mut link = Link::new();
    link.begin(10);
    link.sent(4);
    link.finish();
    assert_eq!((link.sendable(), link.frame_left()), (0, 6));
    assert!(!link.is_control_due());
    assert!(link.control(true).is_empty());
    link.sent(6);
    assert_eq!(*link.control(true), *bare(Kind::Fin));
    assert_eq!(link.reset(1, "").map(|frame| frame.len()), Some(8));
}

#[test]
fn a_frame_cut_short_cannot_be_reset() {
    let mut link = Link::new();
    link.begin(10);
    assert_eq!(link.reset(1, ""), None);
    assert!(link.is_over());
}

#[test]
fn an_end_is_acknowledged_once_handed_on() {
    let (mut host, mut guest) = (Link::new(), Link::new());
    host.finish();
    let fin = host.control(false);
    assert_eq!(*fin, *bare(Kind::Fin));
    assert_eq!(host.sendable(), 0);

    read_all(&mut guest, &fin).unwrap();
    assert!(guest.control(false).is_empty());
    guest.handed_on_end();
    guest.finish();
    let both = guest.control(false);
    assert_eq!(*both, *[bare(Kind::FinAck), bare(Kind::Fin)].concat());

    read_all(&mut host, &both).unwrap();
    assert!(host.is_end_acknowledged() && !host.is_finished());
    host.handed_on_end();
    let ack = host.control(false);
    assert!(host.is_finished());
    read_all(&mut guest, &ack).unwrap();
    assert!(guest.is_finished());
    assert_eq!(guest.reset(1, "too late"), None);
}

#[test]
fn a_reset_carries_its_cause_and_ends_all() {
    let (mut host, mut guest) = (Link::new(), Link::new());
    let frame = guest.reset(104, "the pod reset it").unwrap();
    assert_eq!((guest.sendable(), guest.is_over()), (0, true));
    assert_eq!(guest.reset(104, "again"), None);
    for byte in &frame {
        assert_eq!(host.peer_reset(), None);
        read_all(&mut host, &[*byte]).unwrap();
    }
    assert_eq!(host.peer_reset(), Some(&Reset { errno: 104, text: "the pod reset it".into() }));
    assert!(host.is_over());
    assert_eq!(read_all(&mut host, b"whatever").unwrap(), b"");
}

#[test]
fn every_violation_is_found() {
    let late_fin = [bare(Kind::Fin), bare(Kind::Fin)].concat();
    let late_data = [bare(Kind::Fin), data(b"x")].concat();
    let kind = |kind, len| Violation::Length { kind, len };
    assert_eq!(violates(&[0, 0, 0, 0]), Violation::UnknownFrame(0));
    assert_eq!(violates(&[10, 0, 0, 0]), Violation::UnknownFrame(10));
    assert_eq!(violates(&[3, 0, 0, 0]), kind(Kind::Data, 0));
    assert_eq!(violates(&[3, 1, 0, 1]), kind(Kind::Data, MAX_DATA + 1));
    assert_eq!(violates(&[4, 0, 0, 5]), kind(Kind::Credit, 5));
    assert_eq!(violates(&[5, 0, 0, 1]), kind(Kind::Fin, 1));
    assert_eq!(violates(&[7, 0, 0, 3]), kind(Kind::Reset, 3));
    assert_eq!(violates(&[7, 0, 4, 5]), kind(Kind::Reset, 1029));
    assert_eq!(violates(&[1, 0, 0, 0]), Violation::OutOfPlace(Kind::Open));
    assert_eq!(violates(&[2, 0, 0, 0]), Violation::OutOfPlace(Kind::Opened));
    assert_eq!(violates(&bare(Kind::FinAck)), Violation::OutOfPlace(Kind::FinAck));
    assert_eq!(violates(&late_fin), Violation::OutOfPlace(Kind::Fin));
    assert_eq!(violates(&late_data), Violation::OutOfPlace(Kind::Data));
    assert_eq!(violates(&credit(1)), Violation::CreditBeyondWindow(1));
    assert_eq!(violates(&credit(u32::MAX)), Violation::CreditBeyondWindow(u32::MAX));
    assert_eq!(
        violates(&[data(&[0; MAX_DATA]).repeat(3), data(b"x")].concat()),
        Violation::BeyondCredit(512)
    );
}

/// One direction's wire between two links, with what was put in and what came out.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    /// The most bytes that were outstanding.
    most: usize,
    written: Vec<u8>,
    /// Payload that has come and was not handed on.
    held: usize,
    got: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Control,
    Read { len: usize, room: usize },
    HandOn(usize),
    Finish,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![1..40usize, 1..70_000usize].prop_map(Step::Write),
        2 => Just(Step::Control),
        6 => (prop_oneof![1..12usize, 1..200_000usize], 1..140_000usize)
            .prop_map(|(len, room)| Step::Read { len, room }),
        4 => prop_oneof![1..40usize, 1..200_000usize].prop_map(Step::HandOn),
        1 => Just(Step::Finish),
    ]
}

/// Does one step of `link`, which sends on `out` and receives from `inn`.
fn act(link: &mut Link, out: &mut Wire, inn: &mut Wire, step: &Step) {
    match *step {
        Step::Write(len) => {
            let len = len.min(link.sendable());
            if len > 0 {
                let next = out.written.len() as u8;
                let payload: Vec<u8> = (0..len).map(|i| next.wrapping_add(i as u8)).collect();
                out.bytes.extend_from_slice(&link.control(true));
                let frame = send(link, &payload);
                out.bytes.extend(frame);
                out.written.extend(payload);
            }
        }
        Step::Control => out.bytes.extend_from_slice(&link.control(false)),
        Step::Read { len, room } => {
            let len = len.min(inn.bytes.len());
            let (used, payload) = read(link, &inn.bytes[..len], room).unwrap();
            inn.bytes.drain(..used);
            inn.held += payload.len();
            inn.got.extend(payload);
        }
        Step::HandOn(len) => {
            let len = len.min(inn.held);
            inn.held -= len;
            link.handed_on(len);
        }
        Step::Finish => link.finish(),
    }
    if link.has_peer_ended() && inn.held == 0 {
        link.handed_on_end();
    }
    out.most = out.most.max(out.bytes.len());
    assert!(inn.held <= WINDOW as usize);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order of things, bytes arrive whole and in order, little is outstanding, and both ends end.
    #[test]
    fn two_links_always_finish(steps in prop::collection::vec((any::<bool>(), step()), 1..200)) {
        let (mut host, mut guest) = (Link::new(), Link::new());
        let (mut down, mut up) = (Wire::default(), Wire::default());
        for (is_host, step) in &steps {
            match is_host {
                true => act(&mut host, &mut down, &mut up, step),
                false => act(&mut guest, &mut up, &mut down, step),
            }
        }
        let ending = [Step::Finish, Step::Control, Step::Read { len: 1 << 20, room: 1 << 20 },
            Step::HandOn(1 << 20), Step::Control];
        for step in ending.iter().cycle().take(50) {
            act(&mut host, &mut down, &mut up, step);
            act(&mut guest, &mut up, &mut down, step);
        }
        prop_assert!(host.is_finished() && guest.is_finished());
        prop_assert!(down.got == down.written && up.got == up.written);
        prop_assert!(down.most <= 256 << 10 && up.most <= 256 << 10);
    }

    /// Random bytes cost nothing but themselves.
    #[test]
    fn garbage_never_panics(wire in prop::collection::vec(any::<u8>(), 0..2_000), room in 1..3_000usize) {
        let mut link = Link::new();
        let mut at = 0;
        while at < wire.len() {
            match read(&mut link, &wire[at..], room) {
                Ok((used, _)) => at += used,
                Err(_) => break,
            }
        }
    }

    /// Frames of the right form in a wrong order cost nothing but themselves either.
    #[test]
    fn wild_frames_never_panic(frames in prop::collection::vec((0..9u8, 0..1_200usize), 0..60)) {
        let mut link = Link::new();
        link.finish();
        link.control(false);
        for (kind, len) in frames {
            let len = match kind { 4 => 4, 5 | 6 => 0, _ => len };
            let [_, a, b, c] = (len as u32).to_be_bytes();
            let mut wire = vec![kind, a, b, c];
            wire.resize(4 + len, 0);
            if read_all(&mut link, &wire).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_ping_is_answered_once_however_often_it_comes() {
    let mut link = Link::new();
    let pings = [8, 0, 0, 0].repeat(1_000);
    assert!(read_all(&mut link, &pings).unwrap().is_empty());
    assert_eq!(*link.control(false), [9, 0, 0, 0]);
    assert!(link.control(false).is_empty());
}

#[test]
fn a_peer_is_asked_once_until_it_answers() {
    let mut link = Link::new();
    link.ping();
    assert_eq!(*link.control(false), [8, 0, 0, 0]);
    link.ping();
    assert!(!link.is_control_due());
    read_all(&mut link, &[9, 0, 0, 0]).unwrap();
    link.ping();
    assert_eq!(*link.control(false), [8, 0, 0, 0]);
    read_all(&mut link, &[9, 0, 0, 0]).unwrap();
    assert_eq!(read_all(&mut link, &[9, 0, 0, 0]).unwrap_err(), Violation::OutOfPlace(Kind::Pong));
}
