//! Apache Kafka: one node that is broker and controller at once, and helpers to fill and read topics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::kafka_client::{KafkaMessage, Produce, client, consume_all, end_offsets};
use super::{Process, free_port};

/// Names a broker (`host:port`) to use instead of one that the harness starts.
const ENVIRONMENT: &str = "MILLSTREAM_TEST_KAFKA";
const INSTALL: &str = "Apache Kafka needs Java 17 or later and Maven (on Debian: apt-get install default-jre-headless maven), \
     or a broker named in MILLSTREAM_TEST_KAFKA=host:port";
/// The broker is ready within so long.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// One call of a helper takes no longer.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Any UUID does: every cluster has its own folder.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qk";

/// A Kafka broker.
#[derive(Debug)]
pub struct Kafka {
    /// `host:port` of the plain listener.
    pub brokers: String,
    /// `host:port` of the listener with SASL, where asked for. Its user is `millstream`, password `secret`.
    pub sasl_brokers: Option<String>,
    /// `host:port` of the listener with TLS, where asked for. Its certificate is signed by `ca.pem` in the folder.
    pub tls_brokers: Option<String>,
    own: Option<Own>,
}

/// A broker that the harness started.
#[derive(Debug)]
struct Own {
    /// Ends before the folder goes (fields are dropped in this order).
    process: Process,
    jars: PathBuf,
    folder: TempDir,
    load: bool,
}

/// Which listeners a broker of one's own has beside the plain one.
#[derive(Debug, Clone, Copy, Default)]
pub struct KafkaOptions {
    /// A listener with SASL PLAIN and SCRAM-SHA-256/512 (user `millstream`, password `secret`).
    pub sasl: bool,
    /// A listener with TLS. Needs `openssl` on the path.
    pub tls: bool,
    /// Made for measurements and not for a short life: all of Java's compilers, and more memory.
    pub load: bool,
}

/// The broker that all tests of this process share; started once. Tests keep apart by the names of their topics and
/// groups, and never kill this one.
pub async fn kafka() -> &'static Kafka {
    crate::log_to_stderr();
    static SHARED: OnceCell<Result<Kafka, String>> = OnceCell::const_new();
    let shared = SHARED
        .get_or_init(|| async {
            match std::env::var(ENVIRONMENT) {
                Ok(brokers) if !brokers.is_empty() => Ok(Kafka::named(brokers)),
                _ => Kafka::try_start(KafkaOptions::default()).await,
            }
        })
        .await;
    shared.as_ref().unwrap_or_else(|error| panic!("no Kafka: {error}"))
}

impl Kafka {
    /// A broker that runs already.
    pub fn named(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), sasl_brokers: None, tls_brokers: None, own: None }
    }

    /// A broker of the test's own, to kill and restart.
    pub async fn start_own() -> Self {
        Self::start_with(KafkaOptions::default()).await
    }

    /// A broker of the test's own, with more listeners.
    pub async fn start_with(options: KafkaOptions) -> Self {
        crate::log_to_stderr();
        Self::try_start(options).await.unwrap_or_else(|error| panic!("no Kafka: {error}"))
    }

    /// As [`Kafka::start_with`], with an error that says what is missing.
    pub async fn try_start(options: KafkaOptions) -> Result<Self, String> {
        let kafka = tokio::task::spawn_blocking(move || Self::prepare(options)).await.map_err(|e| e.to_string())??;
        kafka.ready().await?;
        Ok(kafka)
    }

    fn prepare(options: KafkaOptions) -> Result<Self, String> {
        let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("services");
        let fetched = run(&mut Command::new(services.join("fetch-kafka.sh")))?;
        let jars = PathBuf::from(fetched.trim());
        let folder = tempfile::Builder::new().prefix("millstream-kafka-").tempdir().map_err(|e| e.to_string())?;
        let port = free_port();
        let mut kafka = Self::named(format!("127.0.0.1:{port}"));
        let more = kafka.more_listeners(options, folder.path())?;
        let template = std::fs::read_to_string(services.join("server.properties")).map_err(|e| e.to_string())?;
        let listeners: String = [("SASL_PLAINTEXT", &kafka.sasl_brokers), ("SSL", &kafka.tls_brokers)]
            .into_iter()
            .filter_map(|(name, address)| address.as_ref().map(|address| format!(",{name}://{address}")))
            .collect();
        let properties = template
            .replace("@PORT@", &port.to_string())
            .replace("@CONTROLLER_PORT@", &free_port().to_string())
            .replace("@MORE_LISTENERS@", &listeners)
            .replace("@FOLDER@", &folder.path().to_string_lossy());
        let file = folder.path().join("server.properties");
        std::fs::write(&file, properties + &more).map_err(|e| e.to_string())?;
        let mut format = java(&jars, false);
        format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]).arg(&file);
        if options.sasl {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                format.args(["--add-scram", &format!("{mechanism}=[name=millstream,password=secret]")]);
            }
        }
        run(&mut format)?;
        let process = start_server(&jars, folder.path(), options.load)?;
        kafka.own = Some(Own { process, jars, folder, load: options.load });
        Ok(kafka)
    }

    /// Chooses the ports of further listeners and returns the lines that configure them.
    fn more_listeners(&mut self, options: KafkaOptions, folder: &Path) -> Result<String, String> {
        let mut lines = String::new();
        if options.sasl {
            self.sasl_brokers = Some(format!("127.0.0.1:{}", free_port()));
            lines.push_str("\nsasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n");
            let module = "org.apache.kafka.common.security";
            lines.push_str(&format!(
                "listener.name.sasl_plaintext.plain.sasl.jaas.config={module}.plain.PlainLoginModule required \
                 user_millstream=\"secret\";\n"
            ));
            for mechanism in ["scram-sha-256", "scram-sha-512"] {
                lines.push_str(&format!(
                    "listener.name.sasl_plaintext.{mechanism}.sasl.jaas.config={module}.scram.ScramLoginModule required;\n"
                ));
            }
        }
        if options.tls {
            self.tls_brokers = Some(format!("127.0.0.1:{}", free_port()));
            make_certificates(folder)?;
            lines.push_str(&format!(
                "\nssl.keystore.type=PEM\nssl.keystore.location={0}/server.pem\n\
                 ssl.truststore.type=PEM\nssl.truststore.location={0}/ca.pem\nssl.client.auth=requested\n",
                folder.display()
            ));
        }
        Ok(lines)
    }

    /// Where `ca.pem`, `client.pem` and `client.key` are (with TLS), and the broker's data and log.
    pub fn folder(&self) -> &Path {
        self.own.as_ref().expect("this broker was not started by the harness").folder.path()
    }

    async fn ready(&self) -> Result<(), String> {
        let brokers = self.brokers.clone();
        let answered = blocking(move || {
            let deadline = Instant::now() + START_TIMEOUT;
            let client: BaseConsumer = client(&brokers).create().expect("the client's options are valid");
            while Instant::now() < deadline {
                if client.fetch_metadata(None, Duration::from_secs(1)).is_ok_and(|found| !found.brokers().is_empty()) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            false
        });
        if answered.await {
            return Ok(());
        }
        let tail = self.own.as_ref().map(|own| own.process.output_tail()).unwrap_or_default();
        Err(format!("{} does not answer; its log ends with:\n{tail}\n({INSTALL})", self.brokers))
    }

    /// Kills the broker at once. Only for a broker of the test's own.
    pub fn kill9(&mut self) {
        self.own.as_mut().expect("only a broker of the test's own may be killed").process.kill9();
    }

    /// Starts the broker again, on the same ports with the same data, and waits until it answers.
    pub async fn restart(&mut self) {
        let own = self.own.as_mut().expect("only a broker of the test's own may be restarted");
        own.process.kill9();
        own.process =
            start_server(&own.jars, own.folder.path(), own.load).unwrap_or_else(|error| panic!("no Kafka: {error}"));
        self.ready().await.unwrap_or_else(|error| panic!("no Kafka: {error}"));
    }

    /// Creates `topic`; an existing one is an error.
    pub async fn create_topic(&self, topic: &str, partitions: i32) {
        self.create_topic_with(topic, partitions, &[]).await;
    }

    /// Creates `topic` with settings such as `retention.ms`.
    pub async fn create_topic_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let created = self.admin().create_topics([&new], &AdminOptions::new()).await.expect("the broker answers");
        created.into_iter().for_each(|one| {
            one.unwrap_or_else(|(topic, code)| panic!("cannot create {topic}: {code}"));
        });
        // The answer comes before every client can see the topic.
        self.end_offsets(topic).await;
    }

    /// Adds partitions up to `partitions`.
    pub async fn add_partitions(&self, topic: &str, partitions: usize) {
        let new = rdkafka::admin::NewPartitions::new(topic, partitions);
        let done = self.admin().create_partitions([&new], &AdminOptions::new()).await.expect("the broker answers");
        done.into_iter().for_each(|one| {
            one.unwrap_or_else(|(topic, code)| panic!("cannot add partitions to {topic}: {code}"));
        });
    }

    /// Deletes everything before `offset`, as retention would.
    pub async fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("a valid offset");
        self.admin().delete_records(&offsets, &AdminOptions::new()).await.expect("the broker deletes records");
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        client(&self.brokers).create().expect("the client's options are valid")
    }

    /// Produces one message per line of JSON, spread over the partitions, and waits until all are acknowledged.
    pub async fn produce(&self, topic: &str, lines: impl IntoIterator<Item = serde_json::Value>) {
        let messages = lines.into_iter().map(|line| Produce::value(line.to_string())).collect();
        self.produce_messages(topic, messages).await;
    }

    /// Produces messages with key, partition and so on, and waits until all are acknowledged.
    pub async fn produce_messages(&self, topic: &str, messages: Vec<Produce>) {
        let (brokers, topic) = (self.brokers.clone(), topic.to_owned());
        blocking(move || {
            let producer: BaseProducer = client(&brokers).create().expect("the client's options are valid");
            for message in &messages {
                message.send(&producer, &topic);
            }
            producer.flush(CALL_TIMEOUT).expect("the broker acknowledges what is produced");
        })
        .await;
    }

    /// For each partition its first offset and the one after its last.
    pub async fn end_offsets(&self, topic: &str) -> BTreeMap<i32, (i64, i64)> {
        let (brokers, topic) = (self.brokers.clone(), topic.to_owned());
        blocking(move || end_offsets(&client(&brokers).create().expect("valid options"), &topic)).await
    }

    /// All committed messages of `topic`, up to the ends that its partitions have now; in order within a partition.
    pub async fn consume_all(&self, topic: &str) -> Vec<KafkaMessage> {
        let (brokers, topic) = (self.brokers.clone(), topic.to_owned());
        blocking(move || consume_all(&brokers, &topic)).await
    }

    /// The offsets that `group` has committed for `topic`, by partition.
    pub async fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let (brokers, group, topic) = (self.brokers.clone(), group.to_owned(), topic.to_owned());
        blocking(move || {
            let consumer: BaseConsumer = client(&brokers).set("group.id", &group).create().expect("valid options");
            let mut wanted = TopicPartitionList::new();
            for partition in end_offsets(&consumer, &topic).into_keys() {
                wanted.add_partition(&topic, partition);
            }
            let found = consumer.committed_offsets(wanted, CALL_TIMEOUT).expect("the broker answers");
            let offsets = found.elements().into_iter().filter_map(|one| match one.offset() {
                Offset::Offset(offset) => Some((one.partition(), offset)),
                _ => None,
            });
            offsets.collect()
        })
        .await
    }
}

fn java(jars: &Path, load: bool) -> Command {
    let mut command = Command::new("java");
    // In a short life the second compiler does not pay.
    let options: &[&str] = if load { &["-Xmx1g"] } else { &["-Xmx512m", "-XX:TieredStopAtLevel=1"] };
    command.args(options).arg("-cp").arg(jars.join("*"));
    command
}

fn start_server(jars: &Path, folder: &Path, load: bool) -> Result<Process, String> {
    let mut command = java(jars, load);
    command.arg("kafka.Kafka").arg(folder.join("server.properties")).current_dir(folder);
    Process::start(&mut command, &folder.join("kafka.log"), Some(folder))
}

/// Runs `command` to its end and returns what it wrote.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("cannot run {name}: {error}\n({INSTALL})"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{name} failed:\n{}{}\n({INSTALL})", text(&output.stdout), text(&output.stderr)))
}

/// `ca.pem`, `server.pem` (key and certificate of 127.0.0.1 and localhost), `client.pem` and `client.key`.
fn make_certificates(folder: &Path) -> Result<(), String> {
    let script = r#"set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
        for name in server client; do
            openssl req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
            printf 'subjectAltName=IP:127.0.0.1,DNS:localhost' > san.cnf
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san.cnf -out $name.pem
        done
        cp server.pem server.crt
        cat server.key server.crt > server.pem"#;
    run(Command::new("sh").args(["-c", script]).current_dir(folder)).map(drop)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("{error}"),
        },
    }
}
