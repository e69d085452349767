//! Where messages end in the bytes of a WebSocket peer, seen before anything is unmasked or put together.
//!
//! It judges nothing: bytes that are not WebSocket are refused by the protocol's own reader.

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Close, Ping and Pong: at most 125 bytes, which may stand between the fragments of a message.
const CONTROL: u8 = 0x08;
const HEADER_BYTES_MAX: usize = 14;

/// The place in a stream of frames.
#[derive(Debug, Default)]
pub struct Boundary {
    header: [u8; HEADER_BYTES_MAX],
    /// Bytes of the header that have come.
    header_bytes: usize,
    /// Bytes of the frame's payload that have not.
    payload_left: u64,
    /// The frame ends a message, if it is one of data.
    is_last: bool,
    is_control: bool,
    /// Bytes of the message that is unfinished, frame headers included, control frames not.
    open: usize,
    /// Its fragments go on in the next frame.
    goes_on: bool,
}

// === impl Boundary ===

impl Boundary {
    /// Goes over `bytes`; says how many belong to messages.
    pub fn follow(&mut self, mut bytes: &[u8]) -> usize {
        let mut of_messages = 0;
        while !bytes.is_empty() {
            if self.payload_left == 0 {
                let (byte, rest) = (bytes[0], &bytes[1..]);
                bytes = rest;
                self.header[self.header_bytes] = byte;
                self.header_bytes += 1;
                if self.header_bytes == self.header_size() {
                    of_messages += self.begin_frame();
                }
            } else {
                let part = usize::try_from(self.payload_left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                bytes = &bytes[part..];
                self.payload_left -= part as u64;
                of_messages += self.count(part);
                if self.payload_left == 0 {
                    self.end_frame();
                }
            }
        }
        of_messages
    }

    /// Bytes of the message that is unfinished.
    pub fn open_bytes(&self) -> usize {
        self.open
    }

    /// Nothing is unfinished, neither a message nor a frame.
    pub fn is_whole(&self) -> bool {
        self.header_bytes == 0 && self.payload_left == 0 && !self.goes_on
    }

    /// As far as it can be told from what has come.
    fn header_size(&self) -> usize {
        if self.header_bytes < 2 {
            return 2;
        }
        let mask = if self.header[1] & MASKED == 0 { 0 } else { 4 };
        mask + match self.header[1] & !MASKED {
            126 => 4,
            127 => 10,
            _ => 2,
        }
    }

    fn begin_frame(&mut self) -> usize {
        let size = self.header_bytes;
        self.header_bytes = 0;
        self.is_last = self.header[0] & FIN != 0;
        self.is_control = self.header[0] & CONTROL != 0;
        self.payload_left = match self.header[1] & !MASKED {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => self.header[2..10]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
            length => u64::from(length),
        };
        let counted = self.count(size);
        if self.payload_left == 0 {
            self.end_frame();
        }
        counted
    }

    fn count(&mut self, bytes: usize) -> usize {
        if self.is_control {
            return 0;
        }
        self.open += bytes;
        bytes
    }

    fn end_frame(&mut self) {
        if !self.is_control {
            self.goes_on = !self.is_last;
            if self.is_last {
                self.open = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One masked frame, with the shortest header.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload {
            0..=125 => bytes.push(MASKED | payload as u8),
            126..=0xffff => {
                bytes.push(MASKED | 126);
                bytes.extend((payload as u16).to_be_bytes());
            }
            _ => {
                bytes.push(MASKED | 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend([0xaa; 4]);
        bytes.resize(bytes.len() + payload, 0xff);
        bytes
    }

    #[test]
    fn a_message_ends_with_its_last_fragment_whatever_stands_between() {
        let mut boundary = Boundary::default();
        let first = frame(0x02, 70_000);
        assert_eq!(boundary.follow(&first), first.len());
        assert!(!boundary.is_whole());
        assert_eq!(boundary.follow(&frame(0x89, 5)), 0);
        assert_eq!(boundary.open_bytes(), first.len());
        let last = frame(0x80, 0);
        assert_eq!(boundary.follow(&last), last.len());
        assert!(boundary.is_whole() && boundary.open_bytes() == 0);
    }

    #[test]
    fn half_a_control_frame_is_unfinished_and_costs_nothing() {
        let mut boundary = Boundary::default();
        assert_eq!(boundary.follow(&frame(0x89, 5)[..8]), 0);
        assert!(!boundary.is_whole());
        assert_eq!(boundary.open_bytes(), 0);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            sizes in prop::collection::vec((any::<bool>(), 0usize..400), 1..8),
            cut in 1usize..50,
        ) {
            let frames = sizes.iter().map(|(last, size)| frame(if *last { 0x82 } else { 0x02 }, *size));
            let bytes = frames.flatten().collect::<Vec<u8>>();
            let (mut whole, mut parts) = (Boundary::default(), Boundary::default());
            prop_assert_eq!(whole.follow(&bytes), bytes.len());
            let counted: usize = bytes.chunks(cut).map(|part| parts.follow(part)).sum();
            prop_assert_eq!(counted, bytes.len());
            prop_assert_eq!(whole.open_bytes(), parts.open_bytes());
            prop_assert_eq!(whole.is_whole(), parts.is_whole());
            prop_assert_eq!(whole.is_whole(), sizes.last().is_some_and(|(last, _)| *last));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut boundary = Boundary::default();
            let counted = boundary.follow(&bytes);
            prop_assert!(counted <= bytes.len() && boundary.open_bytes() <= counted);
        }
    }
}
