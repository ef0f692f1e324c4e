//! Keeps count while a batch of messages is decoded: which row came from which message, and what went wrong.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::columns::Columns;
use super::{DecodeError, Decoded};

/// Rows and errors so far.
#[derive(Debug, Default)]
pub(super) struct Rows {
    message: u32,
    message_of_row: Vec<u32>,
    errors: Vec<DecodeError>,
}

/// A state to go back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    rows: usize,
    errors: usize,
}

impl Rows {
    /// Makes room for `more` rows.
    pub(super) fn reserve(&mut self, more: usize) {
        self.message_of_row.reserve(more);
    }

    /// What follows belongs to this message of the batch.
    pub(super) fn next_message(&mut self, message: usize) {
        // A batch has at most `batch_bytes_max` bytes, so its messages can be counted in 32 bits.
        self.message = u32::try_from(message).unwrap_or(u32::MAX);
    }

    /// How many rows there are.
    pub(super) fn count(&self) -> usize {
        self.message_of_row.len()
    }

    /// A row is complete.
    pub(super) fn add(&mut self) {
        self.message_of_row.push(self.message);
    }

    /// The current message, or a part of it, could not be read.
    pub(super) fn error(&mut self, reason: String) {
        self.errors.push(DecodeError { message: self.message, reason });
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { rows: self.message_of_row.len(), errors: self.errors.len() }
    }

    pub(super) fn back_to(&mut self, mark: Mark) {
        self.message_of_row.truncate(mark.rows);
        self.errors.truncate(mark.errors);
    }

    /// Makes the batch; `messages` is how many there were.
    pub(super) fn finish(mut self, schema: &SchemaRef, columns: &mut Columns, messages: usize) -> Decoded {
        let rows = match columns.finish(schema, self.count()) {
            Ok(rows) => rows,
            // The columns have checked every value, so this is a fault of ours. No row may be lost for it: every
            // message becomes an error.
            Err(error) => {
                columns.truncate(0);
                self.message_of_row.clear();
                self.errors = (0..u32::try_from(messages).unwrap_or(u32::MAX))
                    .map(|message| DecodeError { message, reason: format!("the rows make no batch: {error}") })
                    .collect();
                RecordBatch::new_empty(schema.clone())
            }
        };
        let one_to_one = self.message_of_row.len() == messages
            && self.message_of_row.iter().enumerate().all(|(row, &message)| row == message as usize);
        Decoded { rows, message_of_row: (!one_to_one).then_some(self.message_of_row), errors: self.errors }
    }
}
