//! The bytes' way to the broker: TCP, with TLS or without.

use std::io;

use rumqttc::{TlsError, tokio_native_tls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::super::broker::Broker;

/// A connection's bytes in both directions.
pub(in super::super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is no stream.
pub(super) enum StreamError {
    Io(io::Error),
    Tls(TlsError),
}

pub(super) async fn open(broker: &Broker) -> Result<Box<dyn Stream>, StreamError> {
    let address = (broker.host.trim_start_matches('[').trim_end_matches(']'), broker.port);
    let tcp = TcpStream::connect(address).await.map_err(StreamError::Io)?;
    tcp.set_nodelay(true).map_err(StreamError::Io)?;
    let Some(connector) = &broker.tls else { return Ok(Box::new(tcp)) };
    let connector = tokio_native_tls::TlsConnector::from(connector.clone());
    let tls = connector.connect(&broker.host, tcp).await;
    Ok(Box::new(tls.map_err(|error| StreamError::Tls(TlsError::NativeTls(error)))?))
}
