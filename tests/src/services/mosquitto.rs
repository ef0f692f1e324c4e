//! Eclipse Mosquitto, and helpers to publish and subscribe.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet};
use tempfile::TempDir;
use tokio::sync::{OnceCell, mpsc};

use super::{Process, free_port};

/// Names a broker (`host:port`) to use instead of one that the harness starts.
const ENVIRONMENT: &str = "MILLSTREAM_TEST_MQTT";
const INSTALL: &str =
    "needed is Mosquitto (on Debian: apt-get install mosquitto), or a broker named in MILLSTREAM_TEST_MQTT=host:port";
/// The broker listens within so long; one call of a helper takes no longer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Messages that wait for a test to look at them.
const RECEIVED_MAX: usize = 100_000;

/// A Mosquitto broker that lets everybody in.
#[derive(Debug)]
pub struct Mosquitto {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    /// Ends before the folder goes (fields are dropped in this order).
    process: Process,
    folder: TempDir,
}

/// A message received by a [`Subscription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttMessage {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its QoS, as delivered.
    pub qos: u8,
    /// True where it is a retained one.
    pub retain: bool,
}

/// The broker that all tests of this process share; started once, with persistence. Tests keep apart by topics and
/// client ids, and never kill this one.
pub async fn mqtt() -> &'static Mosquitto {
    static SHARED: OnceCell<Result<Mosquitto, String>> = OnceCell::const_new();
    let shared = SHARED
        .get_or_init(|| async {
            match std::env::var(ENVIRONMENT) {
                Ok(address) if !address.is_empty() => Mosquitto::named(&address),
                _ => Mosquitto::try_start(true).await,
            }
        })
        .await;
    shared.as_ref().unwrap_or_else(|error| panic!("no MQTT broker: {error}"))
}

impl Mosquitto {
    /// A broker that runs already, at `host:port`.
    pub fn named(address: &str) -> Result<Self, String> {
        let wrong = || format!("{ENVIRONMENT}={address} is not host:port");
        let (host, port) = address.trim_start_matches("mqtt://").rsplit_once(':').ok_or_else(wrong)?;
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| wrong())?, own: None })
    }

    /// A broker of the test's own. With `persistence` sessions and queued messages survive [`Mosquitto::kill9`].
    pub async fn start(persistence: bool) -> Self {
        Self::try_start(persistence).await.unwrap_or_else(|error| panic!("no MQTT broker: {error}"))
    }

    /// As [`Mosquitto::start`], with an error that says what is missing.
    pub async fn try_start(persistence: bool) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("millstream-mqtt-").tempdir().map_err(|e| e.to_string())?;
        let port = free_port();
        let mut configuration = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest stderr\nmax_queued_messages 0\n\
             # Started as root, it would become a user who may not write here.\nuser root\n"
        );
        if persistence {
            // Written after every change: what was acknowledged is there after a kill.
            configuration.push_str(&format!(
                "persistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1\n",
                folder.path().display()
            ));
        }
        std::fs::write(folder.path().join("mosquitto.conf"), configuration).map_err(|e| e.to_string())?;
        let process = start_server(folder.path())?;
        let mut broker = Self { host: "127.0.0.1".to_owned(), port, own: Some(Own { process, folder }) };
        broker.ready().await?;
        Ok(broker)
    }

    async fn ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect((self.host.as_str(), self.port)).is_err() {
            let own = self.own.as_mut().ok_or("no broker")?;
            if Instant::now() > deadline || own.process.ended().is_some() {
                return Err(format!("it does not start; it says:\n{}\n({INSTALL})", own.process.output_tail()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// `mqtt://host:port`.
    pub fn url(&self) -> String {
        format!("mqtt://{}:{}", self.host, self.port)
    }

    /// Kills the broker at once. Only for a broker of the test's own.
    pub fn kill9(&mut self) {
        self.own.as_mut().expect("only a broker of the test's own may be killed").process.kill9();
    }

    /// Starts the broker again, on the same port with the same data, and waits until it listens.
    pub async fn restart(&mut self) {
        let own = self.own.as_mut().expect("only a broker of the test's own may be restarted");
        own.process.kill9();
        own.process = start_server(own.folder.path()).unwrap_or_else(|error| panic!("no MQTT broker: {error}"));
        self.ready().await.unwrap_or_else(|error| panic!("no MQTT broker: {error}"));
    }

    /// What the broker logged.
    pub fn log(&self) -> String {
        self.own.as_ref().map(|own| own.process.output()).unwrap_or_default()
    }

    /// Publishes `(topic, payload)` with `qos` 0, 1 or 2 and waits until the broker has acknowledged all (or, with QoS
    /// 0, until all are sent).
    pub async fn publish<T: Into<String>, P: Into<Vec<u8>>>(
        &self,
        qos: u8,
        messages: impl IntoIterator<Item = (T, P)>,
    ) {
        let messages: Vec<(String, Vec<u8>)> = messages.into_iter().map(|(t, p)| (t.into(), p.into())).collect();
        self.publish_all(qos, false, messages).await;
    }

    /// Publishes one retained message.
    pub async fn publish_retained(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.publish_all(1, true, vec![(topic.to_owned(), payload.into())]).await;
    }

    async fn publish_all(&self, qos: u8, retain: bool, messages: Vec<(String, Vec<u8>)>) {
        let (client, mut events) = self.client(&unique("publish"));
        let (count, level) = (messages.len(), rumqttc::qos(qos).expect("QoS is 0, 1 or 2"));
        let sender = tokio::spawn(async move {
            for (topic, payload) in messages {
                client.publish(topic, level, retain, payload).await.expect("the client runs");
            }
            client
        });
        let mut done = 0;
        let all = async {
            while done < count {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => done += 1,
                    Ok(Event::Outgoing(Outgoing::Publish(_))) if qos == 0 => done += 1,
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        if tokio::time::timeout(TIMEOUT, all).await.is_err() {
            panic!("the broker took {done} of {count} messages in {TIMEOUT:?}");
        }
        let client = sender.await.expect("all were handed to the client");
        client.disconnect().await.expect("the client runs");
        while !matches!(events.poll().await, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_)) {}
    }

    /// Subscribes to `filter`; returns when the broker has confirmed it.
    pub async fn subscribe(&self, filter: &str, qos: u8) -> Subscription {
        let (client, mut events) = self.client(&unique("subscribe"));
        let level = rumqttc::qos(qos).expect("QoS is 0, 1 or 2");
        client.subscribe(filter, level).await.expect("the client runs");
        let confirmed = async {
            while !matches!(events.poll().await, Ok(Event::Incoming(Packet::SubAck(_)))) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, confirmed).await.expect("the broker confirms a subscription");
        let (sender, received) = mpsc::channel(RECEIVED_MAX);
        let filter = filter.to_owned();
        tokio::spawn(async move {
            while !sender.is_closed() {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let message = MqttMessage {
                            topic: publish.topic,
                            payload: publish.payload.to_vec(),
                            qos: publish.qos as u8,
                            retain: publish.retain,
                        };
                        if sender.send(message).await.is_err() {
                            return;
                        }
                    }
                    // The session was lost with the connection.
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        if client.try_subscribe(&filter, level).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Subscription { received }
    }

    fn client(&self, id: &str) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(id, &self.host, self.port);
        options.set_max_packet_size(16 << 20, 16 << 20).set_keep_alive(Duration::from_secs(10));
        AsyncClient::new(options, 100)
    }
}

/// Messages of a subscription, collected in the background.
#[derive(Debug)]
pub struct Subscription {
    received: mpsc::Receiver<MqttMessage>,
}

impl Subscription {
    /// The next message; fails the test where none comes in time.
    pub async fn next(&mut self) -> MqttMessage {
        let next = tokio::time::timeout(TIMEOUT, self.received.recv()).await;
        next.unwrap_or_else(|_| panic!("no message came in {TIMEOUT:?}")).expect("the subscription runs")
    }

    /// The next `count` messages.
    pub async fn take(&mut self, count: usize) -> Vec<MqttMessage> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.next().await);
        }
        messages
    }

    /// A message that has come already.
    pub fn try_next(&mut self) -> Option<MqttMessage> {
        self.received.try_recv().ok()
    }
}

fn start_server(folder: &Path) -> Result<Process, String> {
    // Debian keeps it where only root's path looks.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let mut command = Command::new("env");
    command.arg("mosquitto").arg("-c").arg(folder.join("mosquitto.conf")).env("PATH", path);
    Process::start(&mut command, &folder.join("mosquitto.log"), Some(folder)).map_err(|e| format!("{e}\n({INSTALL})"))
}

/// Two clients with one id would throw each other out.
fn unique(purpose: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{purpose}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
