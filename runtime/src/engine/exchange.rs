//! Spreads rows over the shards of the next stage by key group.
//!
//! A key belongs to one of [`KEY_GROUPS`] groups, a group to one shard; so the number of shards may change between
//! runs. The hash is not stored anywhere: a snapshot's rows are hashed again when it is restored.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::error::ArrowError;
use datafusion::common::hash_utils::{RandomState, create_hashes};

use crate::engine::channel::Sender;
use crate::engine::element::Element;
use crate::engine::error::{Closed, Interrupt, RunError};

/// Into how many groups the keys are divided: the most shards there can be.
pub(crate) const KEY_GROUPS: u16 = 256;

/// The shard, of `shards`, that the key group `group` belongs to.
pub(crate) fn shard_of(group: u16, shards: usize) -> usize {
    usize::from(group) * shards / usize::from(KEY_GROUPS)
}

/// The key group of every row, by the columns `keys`. Without keys all rows are in group 0.
pub(crate) fn key_groups(batch: &RecordBatch, keys: &[usize]) -> Result<Vec<u16>, ArrowError> {
    if keys.is_empty() {
        return Ok(vec![0; batch.num_rows()]);
    }
    let columns: Vec<ArrayRef> = keys.iter().map(|key| batch.column(*key).clone()).collect();
    let mut hashes = vec![0; batch.num_rows()];
    create_hashes(&columns, &RandomState::with_seed(0), &mut hashes)
        .map_err(|error| ArrowError::ComputeError(error.to_string()))?;
    Ok(hashes.into_iter().map(|hash| (hash % u64::from(KEY_GROUPS)) as u16).collect())
}

/// The outgoing side of an edge between stages.
pub(crate) struct Exchange {
    senders: Vec<Sender>,
    keys: Vec<usize>,
}

impl Exchange {
    /// Sends by the columns `keys` to `senders`, one per shard.
    pub(crate) fn new(senders: Vec<Sender>, keys: Vec<usize>) -> Self {
        Self { senders, keys }
    }

    /// Sends rows to the shards that they belong to, everything else to all.
    pub(crate) async fn send(&self, element: Element) -> Result<(), Interrupt> {
        match (&self.senders[..], element) {
            ([only], element) => only.send(element).await?,
            (senders, Element::Batch(batch)) => {
                for (sender, part) in senders.iter().zip(self.split(&batch)?) {
                    if let Some(part) = part {
                        sender.send(Element::Batch(part)).await?;
                    }
                }
            }
            (senders, element) => {
                for sender in senders {
                    sender.send(element.clone()).await.map_err(|Closed| Interrupt::Closed)?;
                }
            }
        }
        Ok(())
    }

    fn split(&self, batch: &RecordBatch) -> Result<Vec<Option<RecordBatch>>, RunError> {
        let failed = |error: ArrowError| RunError::fatal("exchange", error);
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); self.senders.len()];
        for (row, group) in key_groups(batch, &self.keys).map_err(failed)?.into_iter().enumerate() {
            rows[shard_of(group, self.senders.len())].push(row as u32);
        }
        let parts = rows.into_iter().map(|rows| match rows.len() {
            0 => Ok(None),
            n if n == batch.num_rows() => Ok(Some(batch.clone())),
            _ => {
                let rows = UInt32Array::from(rows);
                let columns = batch.columns().iter().map(|column| take(column, &rows, None));
                RecordBatch::try_new(batch.schema(), columns.collect::<Result<Vec<_>, _>>()?).map(Some)
            }
        });
        parts.collect::<Result<Vec<_>, ArrowError>>().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_group_has_a_shard_and_every_shard_a_group() {
        for shards in [1, 2, 3, 7, 256] {
            let used: std::collections::BTreeSet<_> = (0..KEY_GROUPS).map(|group| shard_of(group, shards)).collect();
            assert_eq!(used, (0..shards).collect());
        }
    }
}
