//! The connector `postgres`: tables of PostgreSQL to join with, read whole and again on each refresh.
//!
//! * `config`: the options. `address`: where the database is and how to log in; `sql`: what is asked of it.
//! * `table`: one connection per read, in a transaction that may not write.
//! * `columns`: a declared column and the type that the database has, brought together; `values`: PostgreSQL's binary form.
//!
//! Nothing is asked of the database when a pipeline is loaded: the columns are those that the YAML file declares.

mod address;
mod columns;
mod config;
mod sql;
mod table;
#[cfg(test)]
mod tests;
mod values;

pub use config::{PostgresTableConfig, PostgresTls, PostgresTlsMode};
