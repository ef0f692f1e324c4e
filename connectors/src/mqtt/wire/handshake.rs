//! Connects, and is let in or not.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::broker::{Broker, Session};
use super::super::config::Version;
use super::super::trouble::Trouble;
use super::codec::{Codec, ConnAck, Packet};
use super::stream::{self, Stream, StreamError};

/// Room for what a broker sends with its first answer.
const FIRST_READ_BYTES: usize = 4 << 10;

/// A connection on which CONNECT was answered.
pub(in super::super) struct Connected {
    pub(in super::super) stream: Box<dyn Stream>,
    pub(in super::super) codec: Codec,
    /// What was read behind the answer.
    pub(in super::super) input: BytesMut,
    pub(in super::super) answer: ConnAck,
}

/// Connects within the broker's `connect_timeout`.
pub(in super::super) async fn connect(broker: &Broker, session: Session) -> Result<Connected, Trouble> {
    let limit = broker.connect_timeout;
    match tokio::time::timeout(limit, shake_hands(broker, session)).await {
        Ok(connected) => connected,
        Err(_) => Err(Trouble::Lost(format!("no answer within {limit:?}"))),
    }
}

async fn shake_hands(broker: &Broker, session: Session) -> Result<Connected, Trouble> {
    let mut stream = stream::open(broker).await.map_err(|error| no_stream(broker, error))?;
    let mut codec = Codec::new(broker);
    let mut out = BytesMut::new();
    codec.write_connect(broker, session, &mut out)?;
    stream.write_all(&out).await.map_err(|error| broker.broken(error))?;
    let mut input = BytesMut::with_capacity(FIRST_READ_BYTES);
    loop {
        match codec.read(&mut input, broker)? {
            Some(Packet::ConnAck(answer)) => return Ok(Connected { stream, codec, input, answer }),
            Some(_) => return Err(broker.wrong_packet()),
            None => {
                let read = stream.read_buf(&mut input).await.map_err(|error| broker.broken(error))?;
                if read == 0 {
                    return Err(broker.closed());
                }
            }
        }
    }
}

fn no_stream(broker: &Broker, error: StreamError) -> Trouble {
    match (error, broker.version) {
        (StreamError::Io(error), _) => broker.broken(error),
        (StreamError::Tls(error), Version::V5) => broker.trouble_v5(error.into()),
        (StreamError::Tls(error), Version::V311) => broker.trouble_v4(error.into()),
    }
}
