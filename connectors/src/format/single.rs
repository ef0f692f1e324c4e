//! What `text` and `bytes` share: a message is the one column, as it is.

use arrow::array::{Array, BinaryArray, BinaryBuilder, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};

use super::{DecodeError, Decoded, Decoder, text};
use crate::error::ConnectorError;

/// Refuses columns other than one of the right type.
pub(super) fn only_column(
    columns: &SchemaRef,
    format: &str,
    fits: fn(&DataType) -> bool,
) -> Result<(), ConnectorError> {
    match &columns.fields()[..] {
        [column] if fits(column.data_type()) => Ok(()),
        [column] => Err(ConnectorError::configuration(
            "format",
            format!(
                "the format {format} needs a column of type {}, but `{}` is {}",
                if format == "bytes" { "bytea" } else { "text" },
                column.name(),
                column.data_type()
            ),
        )),
        columns => Err(ConnectorError::configuration(
            "format",
            format!("the format {format} holds exactly one column, but there are {}", columns.len()),
        )),
    }
}

/// A decoder whose messages are its column.
pub(super) struct SingleDecoder {
    schema: SchemaRef,
    check: fn(&[u8]) -> Result<(), String>,
}

impl SingleDecoder {
    /// `columns` is the one column, or none where SQL does not use it.
    pub(super) fn new(columns: SchemaRef, check: fn(&[u8]) -> Result<(), String>) -> Self {
        Self { schema: columns, check }
    }

    fn check(&self, payloads: &BinaryArray, message: usize) -> Result<(), String> {
        if payloads.is_valid(message) {
            return (self.check)(payloads.value(message));
        }
        match self.schema.fields().first() {
            Some(column) if !column.is_nullable() => Err(format!(
                "column `{}`: the message has no value (a tombstone), and the column takes no null",
                column.name()
            )),
            _ => Ok(()),
        }
    }
}

impl Decoder for SingleDecoder {
    fn decode(&mut self, payloads: &BinaryArray) -> Decoded {
        let mut good = Vec::with_capacity(payloads.len());
        let mut errors = Vec::new();
        for message in 0..payloads.len() {
            let index = u32::try_from(message).unwrap_or(u32::MAX);
            match self.check(payloads, message) {
                Ok(()) => good.push(index),
                Err(reason) => errors.push(DecodeError { message: index, reason }),
            }
        }
        let kept = if errors.is_empty() {
            payloads.clone()
        } else {
            let mut kept = BinaryBuilder::new();
            for &message in &good {
                let message = message as usize;
                kept.append_option(payloads.is_valid(message).then(|| payloads.value(message)));
            }
            kept.finish()
        };
        let columns = self.schema.fields().iter().map(|field| text::typed(kept.clone(), field.data_type()));
        let rows = columns.collect::<Result<Vec<_>, _>>().and_then(|columns| {
            let options = RecordBatchOptions::new().with_row_count(Some(good.len()));
            RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
        });
        match rows {
            Ok(rows) => Decoded { rows, message_of_row: (!errors.is_empty()).then_some(good), errors },
            // The messages have been checked, so this is a fault of ours; none may be lost for it.
            Err(error) => {
                let all = 0..u32::try_from(payloads.len()).unwrap_or(u32::MAX);
                let reason = format!("the rows make no batch: {error}");
                let errors = all.map(|message| DecodeError { message, reason: reason.clone() }).collect();
                Decoded { rows: RecordBatch::new_empty(self.schema.clone()), message_of_row: Some(Vec::new()), errors }
            }
        }
    }
}
