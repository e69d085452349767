//! HTTP/1.1 by hand: one connection, one request at a time, buffers used again.

use std::io::{Error, ErrorKind};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Error as BenchError, Plan};

/// Answers above this are taken for a mistake.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A kept connection.
pub struct Connection {
    stream: TcpStream,
    /// Request line and headers, up to the value of Content-Length.
    head: Vec<u8>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// What came back.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

// === impl Connection ===

impl Connection {
    pub async fn open(plan: &Plan) -> Result<Self, BenchError> {
        if plan.endpoint.tls {
            return Err(BenchError::Tls);
        }
        let authority = plan.endpoint.authority();
        let stream = TcpStream::connect((plan.endpoint.host.as_str(), plan.endpoint.port))
            .await
            .map_err(|source| BenchError::Connect {
                authority: authority.clone(),
                source,
            })?;
        stream.set_nodelay(true)?;
        let token = plan
            .token
            .as_ref()
            .map(|token| format!("authorization: Bearer {token}\r\n"));
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/x-protobuf\r\n{}content-length: ",
            plan.endpoint.path,
            token.unwrap_or_default(),
        );
        Ok(Connection {
            stream,
            head: head.into_bytes(),
            request: Vec::new(),
            answer: Vec::with_capacity(4096),
        })
    }

    /// Posts `body` and reads the whole answer. After an error the connection is of no more use.
    pub async fn post(&mut self, body: &[u8]) -> Result<Answer<'_>, Error> {
        self.request.clear();
        self.request.extend_from_slice(&self.head);
        self.request
            .extend_from_slice(body.len().to_string().as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        let (status, from, length) = loop {
            if let Some(end) = end_of_head(&self.answer) {
                let (status, length) = head(&self.answer[..end])?;
                break (status, end, length);
            }
            self.read().await?;
        };
        while self.answer.len() < from + length {
            self.read().await?;
        }
        Ok(Answer {
            status,
            body: &self.answer[from..from + length],
        })
    }

    async fn read(&mut self) -> Result<(), Error> {
        if self.answer.len() > ANSWER_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidData, "the answer is too long"));
        }
        match self.stream.read_buf(&mut self.answer).await? {
            0 => Err(Error::new(
                ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )),
            _ => Ok(()),
        }
    }
}

fn end_of_head(answer: &[u8]) -> Option<usize> {
    answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// Status and Content-Length; an answer of unknown length is refused.
fn head(head: &[u8]) -> Result<(u16, usize), Error> {
    let bad = |what| Error::new(ErrorKind::InvalidData, what);
    let text = std::str::from_utf8(head).map_err(|_| bad("the head is no text"))?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    Ok((
        status.ok_or_else(|| bad("no status"))?,
        length.ok_or_else(|| bad("no Content-Length"))?,
    ))
}

/// A minimal poll: uid, number, capabilities.
pub fn poll(into: &mut Vec<u8>, uid: &[u8; 16], number: u64, capabilities: u64) {
    into.clear();
    into.extend_from_slice(&[0x0a, 16]);
    into.extend_from_slice(uid);
    if number > 0 {
        into.push(0x10);
        varint(into, number);
    }
    into.push(0x20);
    varint(into, capabilities);
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// Field 6, `flags`, of a ServerToAgent, without decoding the rest; 0 if it is absent or the bytes are no message.
pub fn flags(mut message: &[u8]) -> u64 {
    while let Some(key) = take_varint(&mut message) {
        let skip = match key & 7 {
            0 => match take_varint(&mut message) {
                Some(value) if key >> 3 == 6 => return value,
                Some(_) => 0,
                None => return 0,
            },
            1 => 8,
            2 => take_varint(&mut message).unwrap_or(u64::MAX),
            5 => 4,
            _ => return 0,
        };
        match usize::try_from(skip)
            .ok()
            .and_then(|skip| message.get(skip..))
        {
            Some(rest) => message = rest,
            None => return 0,
        }
    }
    0
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::opamp::{AgentRemoteConfig, AgentToServer, ServerToAgent};

    #[test]
    fn a_poll_by_hand_has_the_bytes_of_the_library() {
        let mut bytes = Vec::new();
        for number in [0, 1, 127, 128, 1 << 40] {
            poll(&mut bytes, &[9; 16], number, 0x7c07);
            let message = AgentToServer {
                instance_uid: vec![9; 16].into(),
                sequence_num: number,
                capabilities: 0x7c07,
                ..Default::default()
            };
            assert_eq!(bytes, message.encode_to_vec());
        }
    }

    #[test]
    fn flags_are_found_among_other_fields_and_nonsense_has_none() {
        let remote_config = Some(AgentRemoteConfig {
            config: None,
            config_hash: vec![6; 40],
        });
        let reply = ServerToAgent {
            instance_uid: vec![6; 16],
            remote_config,
            flags: 3,
            capabilities: 7,
            ..Default::default()
        };
        assert_eq!(flags(&reply.encode_to_vec()), 3);
        assert_eq!(
            flags(&ServerToAgent { flags: 0, ..reply }.encode_to_vec()),
            0
        );
        assert_eq!(flags(&[0xff; 30]), 0);
        assert_eq!(flags(&[0x12, 0xff, 0x01]), 0);
    }

    #[test]
    fn the_head_is_read_whatever_its_case_and_needs_a_length() {
        assert_eq!(
            head(b"HTTP/1.1 503 Busy\r\nContent-LENGTH:  12\r\n\r\n").unwrap(),
            (503, 12)
        );
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
