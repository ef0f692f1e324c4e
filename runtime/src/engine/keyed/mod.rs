//! Keys of rows: encoded once per batch, hashed once per row, and given dense numbers by a table.
//!
//! What an operator keeps per key (accumulators, buffers) is indexed by those numbers. A key's encoding sorts as SQL
//! sorts its columns (ascending, nulls first), so that a table can be given out in that order without decoding it.

mod encode;
mod table;

pub(crate) use encode::{EncodedKeys, KeyEncoder};
pub(crate) use table::{KeyTable, Selection};
