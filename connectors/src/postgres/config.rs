//! Options of the table, and how they become one.

use std::path::Path;

use arrow::datatypes::SchemaRef;
use native_tls::TlsConnector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::table::{Limits, PostgresTable};
use super::{address, columns, sql};
use crate::error::ConnectorError;
use crate::format::FormatConfig;
use crate::secret::Secret;
use crate::table::{Table, check_limits};
use crate::tls::PemFiles;
use crate::units::{ByteSize, Duration};

/// Options of the table: what a SELECT gives, or a table or view as it is. The source needs `columns`; those with other
/// names in the database are named in the query (`SELECT nr AS number`). Further columns of the query are passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresTableConfig {
    /// Where the database is and how to log in: `postgres://user:password@host:5432/database`, with PostgreSQL's own
    /// parameters behind a `?` (`sslmode=verify-full`, `target_session_attrs=read-write`). Several hosts, with commas
    /// between them, are tried in turn. Either this or `host`, `user` and so on.
    #[serde(default)]
    pub url: Option<Secret>,
    /// The database's host, or the folder of its Unix socket.
    #[serde(default)]
    pub host: Option<String>,
    /// The database's port; 5432 where this is missing.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The database's name; that of the user where this is missing.
    #[serde(default)]
    pub database: Option<String>,
    /// The user.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// TLS to the database; `tls: {}` trusts the system's authorities. Without it the connection is not encrypted,
    /// unless the URL has a `sslmode`.
    #[serde(default)]
    pub tls: Option<PostgresTls>,
    /// The table or view, also with its schema (`fleet.vehicles`). Either this or `query`. As in SQL, upper case counts
    /// only within double quotes.
    #[serde(default)]
    pub table: Option<String>,
    /// One SELECT. It runs in a transaction that may not write.
    #[serde(default)]
    pub query: Option<String>,
    /// How often it is read again; never where this is missing. A read that fails leaves the rows of the last time in use.
    #[serde(default)]
    pub refresh: Option<Duration>,
    /// A connection is made within so long.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Duration,
    /// Connecting and reading all rows are done within so long.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// The most rows that are read; a read with more of them fails.
    #[serde(default = "default_rows_max")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub rows_max: usize,
    /// The most bytes of values that are read; a read with more of them fails. 1GiB at most.
    #[serde(default = "default_size_max")]
    pub size_max: ByteSize,
}

/// TLS to the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresTls {
    /// What is checked of the database's certificate.
    pub mode: PostgresTlsMode,
    /// A PEM file of the authorities to trust, and no others. The system's where this is missing.
    pub ca: Option<String>,
    /// A PEM file with this client's certificate (and those between it and its authority).
    pub cert: Option<String>,
    /// A PEM file with the certificate's private key, in PKCS #8 (`BEGIN PRIVATE KEY`).
    pub key: Option<String>,
}

/// What is checked of the database's certificate, by the names of PostgreSQL's `sslmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PostgresTlsMode {
    /// That a trusted authority has signed it, for this host.
    #[default]
    VerifyFull,
    /// That a trusted authority has signed it, for whichever host.
    VerifyCa,
    /// Nothing: whoever is on the way can read and change everything.
    Require,
}

const REFRESH_MIN: std::time::Duration = std::time::Duration::from_secs(1);
const TIMEOUT_MIN: std::time::Duration = std::time::Duration::from_millis(100);
const TIMEOUT_MAX: std::time::Duration = std::time::Duration::from_secs(3600);
const ROWS_MAX: usize = 100_000_000;

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(60)
}

fn default_rows_max() -> usize {
    1_000_000
}

fn default_size_max() -> ByteSize {
    ByteSize::mib(256)
}

impl PostgresTableConfig {
    /// Checks the options and builds the table; opens no connection.
    pub fn build(
        &self,
        base_dir: &Path,
        columns: Option<SchemaRef>,
        format: Option<&FormatConfig>,
    ) -> Result<Box<dyn Table>, ConnectorError> {
        self.check_limits()?;
        if format.is_some() {
            return Err(ConnectorError::configuration("", "a table of PostgreSQL has no format; remove `format`"));
        }
        let (mut config, sslmode) = address::config(self)?;
        config.connect_timeout(self.connect_timeout.0);
        let tls = match (&self.tls, sslmode) {
            (Some(tls), None) => Some(tls.connector(base_dir)?),
            (None, Some(Some(mode))) => Some(PostgresTls { mode, ..PostgresTls::default() }.connector(base_dir)?),
            (None, Some(None) | None) => None,
            (Some(_), Some(_)) => {
                return Err(ConnectorError::configuration("tls", "the URL has a `sslmode` already; write one of them"));
            }
        };
        let Some(columns) = columns else {
            return Err(ConnectorError::configuration(
                "",
                "the source needs `columns`: nothing is asked of the database when a pipeline is loaded",
            ));
        };
        for column in columns.fields() {
            columns::check(column)?;
        }
        let sql = sql::text(self.table.as_deref(), self.query.as_deref(), &columns)?;
        let limits = Limits { timeout: self.timeout.0, rows_max: self.rows_max, bytes_max: self.size_max };
        let refresh = self.refresh.map(|refresh| refresh.0);
        Ok(Box::new(PostgresTable::new(config, tls, sql, columns, limits, refresh)))
    }

    fn check_limits(&self) -> Result<(), ConnectorError> {
        let refuse = |option: &str, rule: &str| Err(ConnectorError::configuration(option, rule));
        check_limits(self.refresh, Duration(REFRESH_MIN), self.size_max)?;
        for (option, timeout) in [("connect_timeout", self.connect_timeout), ("timeout", self.timeout)] {
            if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout.0) {
                return refuse(option, "must be from 100ms to 1h");
            }
        }
        if !(1..=ROWS_MAX).contains(&self.rows_max) {
            return refuse("rows_max", "must be from 1 to 100000000");
        }
        Ok(())
    }
}

impl PostgresTls {
    fn connector(&self, base_dir: &Path) -> Result<TlsConnector, ConnectorError> {
        let files = PemFiles { ca: self.ca.as_deref(), cert: self.cert.as_deref(), key: self.key.as_deref() };
        let mut builder = files.builder(base_dir)?;
        match self.mode {
            PostgresTlsMode::VerifyFull => {}
            PostgresTlsMode::VerifyCa => drop(builder.danger_accept_invalid_hostnames(true)),
            PostgresTlsMode::Require => {
                builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
            }
        }
        builder.build().map_err(|error| ConnectorError::configuration("tls", error.to_string()))
    }
}
