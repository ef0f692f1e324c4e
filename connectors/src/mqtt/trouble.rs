//! Why a connection could not be made or broke, in words for the user, and whether another try can help.

use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5 as p5;

use super::broker::{Broker, reason};
use crate::error::ConnectorError;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Trouble {
    /// To be mended by another try.
    Lost(String),
    /// Another try would end the same way.
    End(ConnectorError),
}

impl From<ConnectorError> for Trouble {
    fn from(error: ConnectorError) -> Self {
        Self::End(error)
    }
}

impl Broker {
    pub(super) fn trouble_v4(&self, error: rumqttc::ConnectionError) -> Trouble {
        use rumqttc::mqttbytes::Error;
        use rumqttc::{ConnectReturnCode, ConnectionError, StateError};
        match error {
            ConnectionError::ConnectionRefused(code) => match code {
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => self.not_let_in(&code),
                ConnectReturnCode::RefusedProtocolVersion => self.wrong_version(),
                ConnectReturnCode::BadClientId => self.wrong_client_id(),
                code => Trouble::Lost(format!("the broker refuses the connection: {code:?}")),
            },
            ConnectionError::MqttState(StateError::Deserialization(Error::PayloadSizeLimitExceeded(bytes))) => {
                self.too_large(bytes)
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                Trouble::Lost("the broker closed the connection".into())
            }
            ConnectionError::MqttState(StateError::AwaitPingResp) => self.silent(),
            ConnectionError::NetworkTimeout => Trouble::Lost("no answer".into()),
            error => Trouble::Lost(error.to_string()),
        }
    }

    pub(super) fn trouble_v5(&self, error: v5::ConnectionError) -> Trouble {
        use p5::{ConnectReturnCode, DisconnectReasonCode};
        use v5::mqttbytes::Error;
        use v5::{ConnectionError, StateError};
        match error {
            ConnectionError::ConnectionRefused(code) => match code {
                ConnectReturnCode::BadUserNamePassword
                | ConnectReturnCode::NotAuthorized
                | ConnectReturnCode::Banned => self.not_let_in(&code),
                ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion => {
                    self.wrong_version()
                }
                ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => self.wrong_client_id(),
                code => Trouble::Lost(format!("the broker refuses the connection: {code:?}")),
            },
            ConnectionError::MqttState(StateError::Deserialization(Error::PayloadSizeLimitExceeded {
                pkt_size,
                ..
            })) => self.too_large(pkt_size),
            ConnectionError::MqttState(StateError::IncomingPacketTooLarge { pkt_size, .. }) => self.too_large(pkt_size),
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                Trouble::Lost("the broker closed the connection".into())
            }
            ConnectionError::MqttState(StateError::AwaitPingResp) => self.silent(),
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
                let advice = match reason_code {
                    DisconnectReasonCode::SessionTakenOver => {
                        format!("; another client connected as `{}`: each needs a client_id of its own", self.client_id)
                    }
                    _ => String::new(),
                };
                let said = reason(format!("{reason_code:?}"), reason_string.as_deref());
                Trouble::Lost(format!("the broker ended the connection: {said}{advice}"))
            }
            ConnectionError::Timeout(_) => Trouble::Lost("no answer".into()),
            error => Trouble::Lost(error.to_string()),
        }
    }

    /// May be mended at the broker, so the pipeline keeps trying; but it fails visibly, as its user must see it.
    fn not_let_in(&self, code: &dyn std::fmt::Debug) -> Trouble {
        let user = self.login.as_ref().map_or("no user".into(), |(user, _)| format!("the user `{user}`"));
        let message = format!("{} does not let {user} in ({code:?}); check username and password", self.name());
        Trouble::End(ConnectorError::retry(message))
    }

    fn wrong_version(&self) -> Trouble {
        let message = format!("{} does not speak this version of MQTT; write the other one", self.name());
        Trouble::End(ConnectorError::configuration("version", message))
    }

    fn wrong_client_id(&self) -> Trouble {
        let message = format!("{} refuses the client id `{}`", self.name(), self.client_id);
        Trouble::End(ConnectorError::configuration("client_id", message))
    }

    fn too_large(&self, bytes: usize) -> Trouble {
        let message = format!(
            "{} sent a packet of {bytes} bytes, and no more than {} are allowed; it will come again until this is raised",
            self.name(),
            self.packet_bytes_max
        );
        Trouble::End(ConnectorError::configuration("max_packet_size", message))
    }

    /// The broker closed the connection without a word.
    pub(super) fn closed(&self) -> Trouble {
        self.trouble_v5(v5::StateError::ConnectionAborted.into())
    }

    /// Reading or writing failed.
    pub(super) fn broken(&self, error: std::io::Error) -> Trouble {
        self.trouble_v5(error.into())
    }

    /// A packet that does not belong there.
    pub(super) fn wrong_packet(&self) -> Trouble {
        self.trouble_v5(v5::StateError::WrongPacket.into())
    }

    pub(super) fn silent(&self) -> Trouble {
        Trouble::Lost(format!("the broker did not answer a ping within {:?}", self.keep_alive))
    }
}
