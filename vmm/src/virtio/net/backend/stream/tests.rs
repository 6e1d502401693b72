use std::io::{Read, Write};

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::net::framed;

fn pair() -> (UnixStream, Stream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, Stream::new(theirs).unwrap())
}

fn send(stream: &mut Stream, frame: &[u8]) -> SendOutcome {
    let mut memory = frame.to_vec();
    let segments = Segments::from(VolatileSlice::from(&mut memory[..]));
    stream.send(Header::default(), segments)
}

#[test]
fn an_invalid_length_closes_the_link() {
    for len in [0, MAX_FRAME as u32 + 1, u32::MAX] {
        let (mut peer, mut stream) = pair();
        peer.write_all(&framed(b"before")).unwrap();
        peer.write_all(&len.to_be_bytes()).unwrap();
        assert_eq!(stream.front().unwrap().data, b"before");
        stream.pop();
        assert!(stream.link_up());
        assert_eq!(stream.front(), None);
        assert!(!stream.link_up());
        assert_eq!(send(&mut stream, b"late"), SendOutcome::Dropped);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    }
}

#[test]
fn a_frame_of_maximum_length_is_received() {
    let (mut peer, mut stream) = pair();
    let frame: Vec<u8> = (0..MAX_FRAME).map(|i| (i * 7) as u8).collect();
    let bytes = framed(&frame);
    let (front, back) = bytes.split_at(100);
    peer.write_all(front).unwrap();
    assert_eq!(stream.front(), None);
    peer.write_all(back).unwrap();
    assert!(stream.front().unwrap().data == frame);
    assert!(stream.front().unwrap().data == frame);
    stream.pop();
    assert_eq!(stream.front(), None);
    assert!(stream.link_up());
}

#[test]
fn the_link_goes_down_when_the_peer_disconnects() {
    let (peer, mut stream) = pair();
    drop(peer);
    assert_eq!(stream.front(), None);
    assert!(!stream.link_up());
    let (peer, mut stream) = pair();
    drop(peer);
    assert_eq!(send(&mut stream, b"frame"), SendOutcome::Dropped);
    assert!(!stream.link_up());
}

/// A SYN from port 40000 to port 80, over IPv4.
fn syn(sequence: u32) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 20];
    frame[12] = 8;
    frame[14] = 0x45;
    frame[17] = 40;
    frame[23] = 6;
    frame[26..34].copy_from_slice(&[10, 0, 2, 15, 198, 51, 100, 1]);
    frame[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, 0x02]);
    frame
}

#[test]
fn passt_gets_each_syn_once() {
    let (mut peer, theirs) = UnixStream::pair().unwrap();
    let mut stream = Stream::for_passt(theirs).unwrap();
    assert_eq!(send(&mut stream, &syn(7)), SendOutcome::Accepted);
    assert_eq!(send(&mut stream, &syn(7)), SendOutcome::Dropped);
    // Another connection between the same ports, and a segment that is no SYN, twice.
    assert_eq!(send(&mut stream, &syn(8)), SendOutcome::Accepted);
    let mut ack = syn(7);
    ack[47] = 0x10;
    assert_eq!(send(&mut stream, &ack), SendOutcome::Accepted);
    assert_eq!(send(&mut stream, &ack), SendOutcome::Accepted);
    drop(stream);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert!(
        got == [&syn(7), &syn(8), &ack, &ack]
            .map(|frame| framed(frame))
            .concat()
    );
}

/// A segment of the connection of [`syn`] with `len` bytes of data.
fn data(sequence: u32, len: u8) -> Vec<u8> {
    let mut frame = syn(sequence);
    frame[17] = 40 + len;
    frame[47] = 0x18;
    frame.extend(vec![b'x'; len.into()]);
    frame
}

#[test]
fn passt_is_asked_what_it_has_when_data_are_sent_again() {
    // Each frame with the number of the byte after the gap, if one follows.
    let cases = [
        vec![
            (syn(7), None),
            (data(8, 10), None),
            (data(18, 5), None),
            (data(8, 10), Some(25)),
        ],
        vec![
            (syn(7), None),
            (data(8, 10), None),
            (data(8, 10), Some(20)),
            (data(18, 5), None),
        ],
        // In part only.
        vec![
            (syn(7), None),
            (data(8, 10), None),
            (data(13, 10), None),
            (data(13, 9), Some(25)),
        ],
        // Across the end of the numbers.
        vec![
            (syn(u32::MAX - 5), None),
            (data(u32::MAX - 4, 10), None),
            (data(u32::MAX - 4, 9), Some(7)),
        ],
        // A connection whose beginning is not known, or that has begun anew.
        vec![(data(8, 10), None), (data(8, 10), None)],
        vec![
            (syn(7), None),
            (data(8, 10), None),
            (syn(3), None),
            (data(4, 4), None),
        ],
        // Without data.
        vec![
            (syn(7), None),
            (data(8, 10), None),
            (data(18, 0), None),
            (data(8, 0), None),
        ],
    ];
    for case in cases {
        let (mut peer, theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::for_passt(theirs).unwrap();
        let mut expected = Vec::new();
        for (frame, after_gap) in &case {
            assert_eq!(send(&mut stream, frame), SendOutcome::Accepted);
            expected.extend(framed(frame));
            if let Some(sequence) = after_gap {
                let mut following = data(*sequence, 1);
                following[47] = 0x10;
                following[54] = 0;
                expected.extend(framed(&following));
            }
        }
        drop(stream);
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert!(got == expected, "{case:?}");
    }
}

#[test]
fn passt_is_not_asked_while_it_has_no_room_for_the_answer() {
    let (mut peer, theirs) = UnixStream::pair().unwrap();
    let mut stream = Stream::for_passt(theirs).unwrap();
    peer.write_all(&framed(b"a frame to the guest")).unwrap();
    for frame in [syn(7), data(8, 10), data(8, 10)] {
        assert_eq!(send(&mut stream, &frame), SendOutcome::Accepted);
    }
    // Received, and not delivered yet.
    assert!(stream.front().is_some());
    assert_eq!(send(&mut stream, &data(8, 10)), SendOutcome::Accepted);
    stream.pop();
    assert_eq!(send(&mut stream, &data(8, 10)), SendOutcome::Accepted);
    drop(stream);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    let sent = [syn(7), data(8, 10), data(8, 10), data(8, 10), data(8, 10)];
    let sent: usize = sent.iter().map(|frame| framed(frame).len()).sum();
    assert_eq!(got.len(), sent + framed(&data(20, 1)).len());
}

#[test]
fn a_syn_that_found_no_room_is_sent_when_it_is_repeated() {
    let (mut peer, theirs) = UnixStream::pair().unwrap();
    let mut stream = Stream::for_passt(theirs).unwrap();
    while send(&mut stream, &[0; 1000]) == SendOutcome::Accepted {}
    assert_eq!(send(&mut stream, &syn(7)), SendOutcome::Full);
    peer.read_exact(&mut [0; 10 * (PREFIX + 1000)]).unwrap();
    assert_eq!(send(&mut stream, &syn(7)), SendOutcome::Accepted);
    assert_eq!(send(&mut stream, &syn(7)), SendOutcome::Dropped);
}

/// What passt answers to a SYN if the host cannot connect: a reset without an acknowledgment.
fn reset() -> Vec<u8> {
    let mut frame = syn(0);
    frame[26..38].copy_from_slice(&[198, 51, 100, 1, 10, 0, 2, 15, 0, 80, 0x9c, 0x40]);
    frame[47] = 0x04;
    frame
}

#[test]
fn a_reset_of_passt_acknowledges_the_syn() {
    let (mut peer, theirs) = UnixStream::pair().unwrap();
    let mut stream = Stream::for_passt(theirs).unwrap();
    let mut receive = |stream: &mut Stream| {
        peer.write_all(&framed(&reset())).unwrap();
        let data = stream.front().unwrap().data.to_vec();
        stream.pop();
        data
    };
    // Of a connection that the guest did not open.
    assert_eq!(receive(&mut stream), reset());
    send(&mut stream, &syn(7));
    let mut expected = reset();
    expected[45] = 8;
    expected[47] |= 0x10;
    assert_eq!(receive(&mut stream), expected);
}

#[test]
fn the_handshakes_of_another_peer_are_its_own() {
    let (mut peer, mut stream) = pair();
    assert_eq!(send(&mut stream, &syn(7)), SendOutcome::Accepted);
    assert_eq!(send(&mut stream, &syn(7)), SendOutcome::Accepted);
    peer.write_all(&framed(&reset())).unwrap();
    assert_eq!(stream.front().unwrap().data, reset());
}

#[test]
fn a_peer_that_starts_to_read_late_receives_every_byte() {
    let (mut peer, mut stream) = pair();
    let frame = |n: usize| vec![n as u8; 50_000];
    let mut count = 0;
    while send(&mut stream, &frame(count)) == SendOutcome::Accepted {
        count += 1;
    }
    assert!(count > 0);
    let reader = std::thread::spawn(move || {
        for n in 0..count {
            let mut got = vec![0; PREFIX + 50_000];
            peer.read_exact(&mut got).unwrap();
            assert!(got == framed(&frame(n)), "frame {n}");
        }
        // Nothing of the frame that was not accepted.
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    });
    stream.set_interest(false, true).unwrap();
    while !stream.outbox.is_empty() {
        let fd = stream.poll_fd();
        let mut fds = [rustix::event::PollFd::new(
            &fd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        stream.flush();
    }
    drop(stream);
    reader.join().unwrap();
}

#[test]
fn passt_neither_gets_checksums_nor_are_its_own_checked_again() {
    let (mut peer, theirs) = UnixStream::pair().unwrap();
    let mut stream = Stream::for_passt(theirs).unwrap();
    // A checksum over everything, in the first two bytes.
    let (mut frame, mut got) = (*b"\0\0frame", [0; PREFIX + 7]);
    let segments = Segments::from(VolatileSlice::from(&mut frame[..]));
    let header = Header {
        flags: 1,
        ..Header::default()
    };
    assert_eq!(stream.send(header, segments), SendOutcome::Accepted);
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got[..], framed(b"\0\0frame")[..]);
    peer.write_all(&framed(b"answer")).unwrap();
    let answer = stream.front().unwrap();
    assert_eq!((answer.header.flags, answer.data), (2, &b"answer"[..]));
}

proptest! {
    #[test]
    fn frames_are_reassembled_from_any_pieces(
        lens in prop::collection::vec(1usize..3000, 1..20),
        cuts in prop::collection::vec(1usize..5000, 1..20),
    ) {
        let (mut peer, mut stream) = pair();
        let frames: Vec<Vec<u8>> = lens.iter().map(|&len| vec![len as u8; len]).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
        let (mut rest, mut got) = (&bytes[..], Vec::new());
        for &cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            peer.write_all(now).unwrap();
            while let Some(frame) = stream.front() {
                got.push(frame.data.to_vec());
                stream.pop();
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(got == frames);
    }
}
