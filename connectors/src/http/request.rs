//! What a request says beside its body, as metadata of its messages.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use chrono::{DateTime, Utc};
use http::header;
use http::request::Parts;

use crate::ingest::{IngestMessage, MetadataValue};

/// Headers that carry secrets; they are never stored.
const SECRET_HEADERS: [header::HeaderName; 3] = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE];

/// The metadata that all messages of a request share. `secret` is one more header that is not stored.
pub(crate) fn metadata(
    head: &Parts,
    received_at: DateTime<Utc>,
    with_headers: bool,
    secret: Option<&str>,
) -> Vec<(&'static str, MetadataValue)> {
    let text = |text: &str| MetadataValue::from(text);
    let remote = head.extensions.get::<ConnectInfo<SocketAddr>>();
    let mut fields = vec![
        ("path", text(head.uri.path())),
        ("query", head.uri.query().map_or(MetadataValue::Null, text)),
        ("method", text(head.method.as_str())),
        ("remote_addr", remote.map_or(MetadataValue::Null, |ConnectInfo(address)| text(&address.to_string()))),
        ("received_at", MetadataValue::Timestamp(received_at.timestamp_micros())),
    ];
    if with_headers {
        let shown = head.headers.iter().filter(|(name, value)| {
            !value.is_sensitive()
                && !SECRET_HEADERS.contains(name)
                && !secret.is_some_and(|secret| name.as_str().eq_ignore_ascii_case(secret))
        });
        // Headers may hold Latin-1 or worse; a message is not refused for that.
        let pairs = shown
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        fields.push(("headers", MetadataValue::from(pairs.collect::<Vec<_>>())));
    }
    fields
}

/// About how much memory the metadata of `count` messages takes; they share its texts.
pub(crate) fn memory_of(metadata: &[(&'static str, MetadataValue)], count: usize) -> usize {
    let shared = metadata.iter().map(|(_, value)| match value {
        MetadataValue::Text(text) => text.len(),
        MetadataValue::Pairs(pairs) => {
            pairs.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<String>()).sum()
        }
        _ => 0,
    });
    let each = size_of::<IngestMessage>() + size_of_val(metadata);
    count.saturating_mul(each).saturating_add(shared.sum())
}
