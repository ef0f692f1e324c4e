//! The source's options, as the user writes them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KafkaSasl, KafkaTls, LibrdkafkaValue, TextOrList, default_metadata_max_age, default_socket_timeout};
use crate::units::{ByteSize, Duration};

/// Options of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSourceConfig {
    /// Addresses (`host:port`) to find the cluster by: a text, with commas between several, or a list.
    pub brokers: TextOrList,
    /// Topics to read: one or a list. A text that starts with `^` is a regular expression; topics that match it are
    /// found when they appear (see `metadata_max_age`).
    pub topics: TextOrList,
    /// The consumer group. Sources with the same group share the partitions between them. The default,
    /// `millstream-PIPELINE-SOURCE`, stays the same over restarts and is different for every source.
    #[serde(default)]
    pub group_id: Option<String>,
    /// Where to start in a partition for which there is neither a snapshot nor a committed offset: `earliest` (the
    /// default), `latest`, or `timestamp: "2026-01-31T00:00:00Z"` (the first message at or after that time). What it
    /// found for `latest` or a time is kept: after a failure the source starts there again. Partitions added to a topic
    /// later are read from their first message in any case.
    #[serde(default)]
    pub start_offset: StartOffset,
    /// The name by which the brokers log this client. `millstream-PIPELINE-SOURCE` by default.
    #[serde(default)]
    pub client_id: Option<String>,
    /// A name for static membership: a restart within `session_timeout` gets the same partitions back without the
    /// group's rebalancing. It must be different for every replica.
    #[serde(default)]
    pub group_instance_id: Option<String>,
    /// The rack (or availability zone) of this daemon: it then reads from replicas in the same rack where there are any.
    #[serde(default)]
    pub rack_id: Option<String>,
    /// TLS to the brokers; `tls: {}` trusts the system's authorities.
    #[serde(default)]
    pub tls: Option<KafkaTls>,
    /// How to log in.
    #[serde(default)]
    pub sasl: Option<KafkaSasl>,
    /// The group takes a member for dead that was not heard of for so long. After a crash (not after a stop) reading goes on
    /// only then, unless `group_instance_id` is set.
    #[serde(default = "default_session_timeout")]
    pub session_timeout: Duration,
    /// The member is heard of so often; at most a third of `session_timeout`.
    #[serde(default = "default_heartbeat")]
    pub heartbeat: Duration,
    /// The group takes a member for stuck that did not poll for so long. A sink that stands still is no reason: the
    /// source goes on polling, and only fetches nothing more.
    #[serde(default = "default_max_poll")]
    pub max_poll: Duration,
    /// A broker answers when it has so many bytes, or after `fetch_wait`.
    #[serde(default = "default_fetch_min")]
    pub fetch_min: ByteSize,
    /// A broker's answer has at most about so many bytes.
    #[serde(default = "default_fetch_max")]
    pub fetch_max: ByteSize,
    /// A broker's answer has at most about so many bytes of one partition.
    #[serde(default = "default_partition_fetch_max")]
    pub partition_fetch_max: ByteSize,
    /// A broker that has less than `fetch_min` answers after so long.
    #[serde(default = "default_fetch_wait")]
    pub fetch_wait: Duration,
    /// Whether messages of transactions are read that are open or were aborted.
    #[serde(default)]
    pub isolation_level: IsolationLevel,
    /// How the group shares out partitions; the same for all members.
    #[serde(default)]
    pub assignment: AssignmentStrategy,
    /// New topics and partitions are found within so long.
    #[serde(default = "default_metadata_max_age")]
    pub metadata_max_age: Duration,
    /// A request that a broker does not answer for so long has failed.
    #[serde(default = "default_socket_timeout")]
    pub socket_timeout: Duration,
    /// Anything else that librdkafka knows, by its own names (`fetch.error.backoff.ms: 100`).
    #[serde(default)]
    pub librdkafka: BTreeMap<String, LibrdkafkaValue>,
}

/// Where to start without a position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartOffset {
    /// At the first message that the broker has.
    #[default]
    Earliest,
    /// At what comes from now on.
    Latest,
    /// At the first message of this time (RFC 3339, `2026-01-31T00:00:00Z`) or later.
    Timestamp(String),
}

/// Which messages of transactions are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IsolationLevel {
    /// Only those of committed transactions (and those outside of any).
    #[default]
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// How partitions are shared out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AssignmentStrategy {
    /// Evenly, moving as few partitions as possible; the others are read on meanwhile.
    #[default]
    CooperativeSticky,
    /// Neighbouring partitions per topic; all reading stops while the group shares out anew.
    Range,
    /// One by one over all topics; all reading stops while the group shares out anew.
    #[serde(rename = "roundrobin")]
    RoundRobin,
}

/// Shorter than Kafka's own default of 45 s: after a crash the group hands out nothing until it takes the dead member
/// for dead.
fn default_session_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_heartbeat() -> Duration {
    Duration::from_secs(3)
}

fn default_max_poll() -> Duration {
    Duration::from_secs(300)
}

fn default_fetch_min() -> ByteSize {
    ByteSize(1)
}

fn default_fetch_max() -> ByteSize {
    ByteSize::mib(50)
}

fn default_partition_fetch_max() -> ByteSize {
    ByteSize::mib(1)
}

fn default_fetch_wait() -> Duration {
    Duration::from_millis(50)
}
