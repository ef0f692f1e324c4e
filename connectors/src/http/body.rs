//! Reads a request's body within its limits: bytes on the wire, bytes unpacked, time, and memory over all requests.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{RETRY_AFTER_BUSY_S, Refusal};

/// What an encoding that is not known is answered with.
const ENCODINGS: HeaderValue = HeaderValue::from_static("gzip, zstd, identity");
/// Bodies are unpacked in steps of this many bytes, so that the limits are looked at in between.
const UNPACK_STEP: usize = 64 * 1024;
/// A zstd frame may ask for a window of 8 MiB, as RFC 8878 recommends, and not for the 128 MiB that the library allows.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// The unit in which memory is counted.
const MEMORY_UNIT: u64 = 1024;

/// The memory that all requests of one source may hold together.
#[derive(Clone)]
pub(crate) struct Memory {
    units: Arc<Semaphore>,
    units_max: u64,
}

/// What one request holds of [`Memory`]; given back when dropped.
pub(crate) struct Held {
    memory: Memory,
    bytes: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let units_max = (bytes_max / MEMORY_UNIT).min(Semaphore::MAX_PERMITS as u64).min(u64::from(u32::MAX));
        Self { units: Arc::new(Semaphore::new(units_max as usize)), units_max }
    }

    pub(crate) fn hold(&self) -> Held {
        Held { memory: self.clone(), bytes: 0, permit: None }
    }
}

impl Held {
    /// Takes `bytes` more, or says that there is no room now (503) or never will be (413). Never waits: two requests
    /// that wait for each other's memory would wait for ever.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let after = self.bytes.saturating_add(bytes as u64);
        let units_after = after.div_ceil(MEMORY_UNIT);
        if units_after > self.memory.units_max {
            return Err(Refusal::too_large("the body needs more memory than buffer_max allows; send smaller bodies"));
        }
        let missing = units_after - self.bytes.div_ceil(MEMORY_UNIT);
        if missing > 0 {
            // units_max fits in a u32, and so does what is missing.
            let more = Arc::clone(&self.memory.units).try_acquire_many_owned(missing as u32).map_err(|_| {
                Refusal::unavailable("too many bytes are on their way; send again later", RETRY_AFTER_BUSY_S)
            })?;
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                None => self.permit = Some(more),
            }
        }
        self.bytes = after;
        Ok(())
    }
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// What `Content-Encoding` says; 415 for what is not known.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut found = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for name in value.to_str().unwrap_or("?").split(',').map(|name| name.trim().to_ascii_lowercase()) {
                let encoding = match name.as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "zstd" => Self::Zstd,
                    _ => return Err(unsupported(format!("the content encoding `{name}` is not known here"))),
                };
                if found != Self::Identity {
                    return Err(unsupported("a body may be packed once, not several times".into()));
                }
                found = encoding;
            }
        }
        Ok(found)
    }
}

fn unsupported(reason: String) -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("{reason}; send it with gzip, zstd or none"))
        .with(header::ACCEPT_ENCODING, ENCODINGS)
}

/// Reads the body as it was sent.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: u64,
    timeout: Duration,
    held: &mut Held,
) -> Result<Bytes, Refusal> {
    let length = headers.get(header::CONTENT_LENGTH);
    let announced = match length {
        Some(value) => {
            let length = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            Some(length.ok_or_else(|| Refusal::bad_request("the header Content-Length is no number"))?)
        }
        None if !headers.contains_key(header::TRANSFER_ENCODING) && body.is_end_stream() => {
            let reason = "the request has neither a body nor a Content-Length";
            return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, reason));
        }
        None => None,
    };
    let too_large = || Refusal::too_large(format!("the body is larger than {bytes_max} bytes (body_max)"));
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(too_large());
    }
    let collect = collect(body, bytes_max, held, too_large);
    tokio::time::timeout(timeout, collect).await.unwrap_or_else(|_| {
        let reason = format!("the body did not arrive within {timeout:?} (body_timeout)");
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason)
            .with(header::CONNECTION, HeaderValue::from_static("close")))
    })
}

async fn collect(
    body: Body,
    bytes_max: u64,
    held: &mut Held,
    too_large: impl Fn() -> Refusal,
) -> Result<Bytes, Refusal> {
    let mut chunks = body.into_data_stream();
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    let mut length = 0_u64;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Refusal::bad_request(format!("the body broke off: {error}")))?;
        length += chunk.len() as u64;
        if length > bytes_max {
            return Err(too_large());
        }
        held.grow(chunk.len())?;
        match first.take() {
            // A body in one piece is not copied.
            None if all.is_empty() => first = Some(chunk),
            None => all.extend_from_slice(&chunk),
            Some(before) => {
                all.extend_from_slice(&before);
                all.extend_from_slice(&chunk);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// Unpacks `body`, at most `bytes_max` bytes of it. Gives `held` back.
pub(crate) async fn unpack(
    encoding: Encoding,
    body: Bytes,
    bytes_max: u64,
    mut held: Held,
) -> Result<(Bytes, Held), Refusal> {
    if encoding == Encoding::Identity {
        return Ok((body, held));
    }
    // Unpacking megabytes takes tens of milliseconds: not on a thread that serves connections.
    let unpacked = tokio::task::spawn_blocking(move || {
        let bytes = match encoding {
            Encoding::Gzip => unpack_from(flate2::read::MultiGzDecoder::new(&body[..]), bytes_max, &mut held),
            Encoding::Zstd => zstd_decoder(&body)
                .map_err(|error| Refusal::bad_request(format!("the body cannot be unpacked: {error}")))
                .and_then(|decoder| unpack_from(decoder, bytes_max, &mut held)),
            Encoding::Identity => Ok(body),
        };
        bytes.map(|bytes| (bytes, held))
    });
    unpacked.await.unwrap_or_else(|error| {
        tracing::error!(%error, "unpacking a body failed");
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "unpacking the body failed"))
    })
}

fn zstd_decoder(body: &[u8]) -> std::io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::new(body)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn unpack_from(mut packed: impl Read, bytes_max: u64, held: &mut Held) -> Result<Bytes, Refusal> {
    let mut unpacked = Vec::new();
    let mut step = vec![0; UNPACK_STEP];
    loop {
        let read = match packed.read(&mut step) {
            Ok(0) => return Ok(Bytes::from(unpacked)),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Refusal::bad_request(format!("the body cannot be unpacked: {error}"))),
        };
        if unpacked.len() as u64 + read as u64 > bytes_max {
            let reason = format!("the body is larger than {bytes_max} bytes when unpacked (unpacked_max)");
            return Err(Refusal::too_large(reason));
        }
        held.grow(read)?;
        unpacked.extend_from_slice(step.get(..read).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_is_given_back_and_never_waited_for() {
        let memory = Memory::new(10 * MEMORY_UNIT);
        let mut one = memory.hold();
        one.grow(6 * 1024).unwrap();
        let mut two = memory.hold();
        assert_eq!(two.grow(6 * 1024).unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(two.grow(11 * 1024).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
        drop(one);
        two.grow(6 * 1024).unwrap();
    }

    #[test]
    fn encodings_that_are_not_known_are_refused() {
        let of = |value: &'static str| {
            Encoding::of(&HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert_eq!(of("GZIP"), Ok(Encoding::Gzip));
        assert_eq!(of("identity"), Ok(Encoding::Identity));
        assert_eq!(of("br").unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(of("gzip, gzip").unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    proptest! {
        #[test]
        fn hostile_packed_bodies_are_refused_and_never_panic(body: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for encoding in [Encoding::Gzip, Encoding::Zstd] {
                let held = Memory::new(1 << 20).hold();
                let unpacked = runtime.block_on(unpack(encoding, Bytes::from(body.clone()), 1000, held));
                prop_assert!(unpacked.is_err() || body.is_empty());
            }
        }
    }
}
