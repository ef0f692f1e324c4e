//! The table: one connection per read, in a transaction that may not write.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::TryStreamExt as _;
use native_tls::TlsConnector;
use postgres_native_tls::MakeTlsConnector;
use tokio_postgres::{Client, Config, Error, NoTls, Statement};

use super::address;
use super::columns::{Filling, Raw};
use crate::error::ConnectorError;
use crate::table::Table;
use crate::units::ByteSize;

/// The database is told that a connection ends, and heard within so long.
const GOODBYE: Duration = Duration::from_millis(500);

/// What a read may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) timeout: Duration,
    pub(super) rows_max: usize,
    pub(super) bytes_max: ByteSize,
}

/// The table.
pub(super) struct PostgresTable {
    config: Config,
    tls: Option<MakeTlsConnector>,
    sql: String,
    columns: SchemaRef,
    limits: Limits,
    refresh: Option<Duration>,
    /// The database, for messages.
    place: String,
}

impl PostgresTable {
    pub(super) fn new(
        config: Config,
        tls: Option<TlsConnector>,
        sql: String,
        columns: SchemaRef,
        limits: Limits,
        refresh: Option<Duration>,
    ) -> Self {
        let place = address::place(&config);
        Self { config, tls: tls.map(MakeTlsConnector::new), sql, columns, limits, refresh, place }
    }

    async fn read(&self) -> Result<RecordBatch, ConnectorError> {
        match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(|error| self.failed(&error))?;
                self.read_over(client, connection).await
            }
            Some(tls) => {
                let connected = self.config.connect(tls.clone()).await;
                let (client, connection) = connected.map_err(|error| self.failed(&error))?;
                self.read_over(client, connection).await
            }
        }
    }

    /// Reads all rows, while `connection` moves the bytes.
    async fn read_over(
        &self,
        mut client: Client,
        connection: impl Future<Output = Result<(), Error>>,
    ) -> Result<RecordBatch, ConnectorError> {
        let mut connection = pin!(connection);
        let rows = tokio::select! {
            // First, because it knows why the client fails.
            biased;
            end = &mut connection => Err(match end {
                Err(error) => self.failed(&error),
                Ok(()) => ConnectorError::retry(format!("PostgreSQL at {} closed the connection", self.place)),
            }),
            rows = self.rows(&mut client) => rows,
        }?;
        drop(client);
        // The rows are complete: how the connection ends changes nothing.
        tokio::time::timeout(GOODBYE, connection).await.ok();
        Ok(rows)
    }

    async fn rows(&self, client: &mut Client) -> Result<RecordBatch, ConnectorError> {
        let failed = |error: Error| self.failed(&error);
        let transaction = client.build_transaction().read_only(true).start().await.map_err(failed)?;
        // The database stops a query that nobody waits for any more.
        let timeout = format!("SET LOCAL statement_timeout = {}", self.limits.timeout.as_millis().max(1));
        transaction.batch_execute(&timeout).await.map_err(failed)?;
        let statement = transaction.prepare(&self.sql).await.map_err(failed)?;
        let mut columns = self.columns_of(&statement)?;
        let rows = transaction.query_raw(&statement, std::iter::empty::<i32>()).await.map_err(failed)?;
        let mut rows = pin!(rows);
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            count += 1;
            bytes += row.raw_size_bytes() as u64;
            self.check(count, bytes)?;
            for (place, column) in &mut columns {
                let Raw(value) = row.try_get(*place).map_err(failed)?;
                column
                    .push(value)
                    .map_err(|why| ConnectorError::retry(format!("{}: row {count}: {why}", self.what())))?;
            }
        }
        let arrays = columns.into_iter().map(|(_, column)| column.finish()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let batch = RecordBatch::try_new_with_options(self.columns.clone(), arrays, &options);
        let batch = batch.map_err(|error| ConnectorError::fatal(format!("{}: {error}", self.what())))?;
        transaction.rollback().await.map_err(failed)?;
        Ok(batch)
    }

    /// Each declared column, and its place in the statement's rows.
    fn columns_of(&self, statement: &Statement) -> Result<Vec<(usize, Filling)>, ConnectorError> {
        let found = statement.columns();
        let columns = self.columns.fields().iter().map(|column| {
            let mut places = found.iter().enumerate().filter(|(_, found)| found.name() == column.name());
            let option = format!("columns.{}", column.name());
            match (places.next(), places.next()) {
                (Some((place, found)), None) => Ok((place, Filling::new(column, found.type_())?)),
                (Some(_), Some(_)) => {
                    let rule = format!("two columns of the query on {} have this name", self.place);
                    Err(ConnectorError::configuration(option, rule))
                }
                (None, _) => {
                    let names: Vec<_> = found.iter().map(|found| found.name()).collect();
                    let rule = format!("the query on {} has no such column; it has: {}", self.place, names.join(", "));
                    Err(ConnectorError::configuration(option, rule))
                }
            }
        });
        columns.collect()
    }

    fn check(&self, rows: usize, bytes: u64) -> Result<(), ConnectorError> {
        let Limits { rows_max, bytes_max, .. } = self.limits;
        if rows > rows_max {
            let text = format!("{} has more than {rows_max} rows; raise `rows_max`, or select fewer", self.what());
            return Err(ConnectorError::retry(text));
        }
        if bytes > bytes_max.0 {
            let text = format!("{} has more than {bytes_max} of values; raise `size_max`, or select less", self.what());
            return Err(ConnectorError::retry(text));
        }
        Ok(())
    }

    /// What is read, for messages.
    fn what(&self) -> String {
        format!("the table of PostgreSQL at {}", self.place)
    }

    fn failed(&self, error: &Error) -> ConnectorError {
        ConnectorError::retry(format!("PostgreSQL at {}: {}", self.place, describe(error)))
    }
}

/// What the database said, or what kept it from saying something.
fn describe(error: &Error) -> String {
    if let Some(said) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {})", said.message(), said.code().code());
        for (name, more) in [("detail", said.detail()), ("hint", said.hint())] {
            if let Some(more) = more {
                text.push_str(&format!("; {name}: {more}"));
            }
        }
        return text;
    }
    let (mut text, mut cause) = (error.to_string(), std::error::Error::source(error));
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[async_trait]
impl Table for PostgresTable {
    fn schema(&self) -> SchemaRef {
        self.columns.clone()
    }

    async fn load(&self) -> Result<RecordBatch, ConnectorError> {
        let timeout = self.limits.timeout;
        match tokio::time::timeout(timeout, Box::pin(self.read())).await {
            Ok(rows) => rows,
            Err(_) => {
                Err(ConnectorError::retry(format!("{} was not read within {timeout:?} (`timeout`)", self.what())))
            }
        }
    }

    fn refresh(&self) -> Option<Duration> {
        self.refresh
    }
}
