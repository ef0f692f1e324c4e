//! The embedded MQTT broker: rumqttd, for MQTT 5, on this machine's loopback only.
//!
//! It is for trying things out: it keeps messages in memory, for a while ([`SEGMENT_BYTES`] × [`SEGMENTS`] per topic
//! filter), and forgets them with the process. It has no orderly stop; its threads end with the process.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};

/// The messages of a topic filter that a slow or absent client can still get: so many bytes …
const SEGMENT_BYTES: usize = 4 << 20;
/// … times so many.
const SEGMENTS: usize = 4;
/// The largest message.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The most clients at a time.
const CONNECTIONS_MAX: usize = 1000;
/// The most messages sent to a client and not yet acknowledged.
const INFLIGHT_MAX: usize = 100;
/// It must answer within so long.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running broker.
pub(super) struct Broker {
    pub(super) port: u16,
    /// True where the port that was asked for was taken.
    pub(super) moved: bool,
}

impl Broker {
    /// Starts it on `wanted`, or on a free port where that is taken, and waits until it takes connections.
    pub(super) async fn start(wanted: u16) -> Result<Self, String> {
        let (port, moved) = choose_port(wanted).map_err(|error| format!("127.0.0.1 has no free port: {error}"))?;
        let mut broker = rumqttd::Broker::new(config(port));
        let thread = std::thread::Builder::new().name("mqtt-broker".into());
        let thread = thread.spawn(move || broker.start().map_err(|error| error.to_string()));
        let thread = thread.map_err(|error| format!("cannot start the embedded MQTT broker: {error}"))?;
        let deadline = tokio::time::Instant::now() + START_TIMEOUT;
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            if thread.is_finished() || tokio::time::Instant::now() >= deadline {
                return Err(format!(
                    "the embedded MQTT broker did not start on port {port}; choose another with --mqtt-port"
                ));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { port, moved })
    }

    /// Its address, for pipelines.
    pub(super) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

/// `wanted` where it is free, another port where it is taken; true with the latter.
fn choose_port(wanted: u16) -> std::io::Result<(u16, bool)> {
    let bound = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr();
    match bound(wanted) {
        Ok(address) => Ok((address.port(), false)),
        Err(_) => Ok((bound(0)?.port(), true)),
    }
}

fn config(port: u16) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: PAYLOAD_BYTES_MAX,
        max_inflight_count: INFLIGHT_MAX,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "demo".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = RouterConfig {
        max_connections: CONNECTIONS_MAX,
        max_outgoing_packet_count: 200,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    Config { router, v5: Some(HashMap::from([("demo".to_owned(), server)])), ..Config::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_left_to_its_owner() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let broker = Broker::start(port).await.unwrap();
        assert!(broker.moved && broker.port != port);
        assert_eq!(broker.url(), format!("mqtt://127.0.0.1:{}", broker.port));
    }
}
