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
    let text = |text: &str| MetadataValue::Text(text.to_owned());
    let remote = head.extensions.get::<ConnectInfo<SocketAddr>>();
    let mut fields = vec![
        ("path", text(head.uri.path())),
        ("query", head.uri.query().map_or(MetadataValue::Null, text)),
        ("method", text(head.method.as_str())),
        ("remote_addr", remote.map_or(MetadataValue::Null, |ConnectInfo(address)| text(&address.to_string()))),
        // Beyond the year 2262 there is no such number.
        ("received_at", received_at.timestamp_nanos_opt().map_or(MetadataValue::Null, MetadataValue::Timestamp)),
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
        fields.push(("headers", MetadataValue::Pairs(pairs.collect())));
    }
    fields
}

/// About how much memory one message takes beside its payload.
pub(crate) fn memory_of(metadata: &[(&'static str, MetadataValue)]) -> usize {
    let values = metadata.iter().map(|(_, value)| {
        let own = match value {
            MetadataValue::Text(text) => text.len(),
            MetadataValue::Pairs(pairs) => {
                pairs.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<String>()).sum()
            }
            _ => 0,
        };
        size_of::<(&str, MetadataValue)>() + own
    });
    size_of::<IngestMessage>() + values.sum::<usize>()
}
