//! Spreads rows over the shards of the next stage by key group.
//!
//! A key belongs to one of [`KEY_GROUPS`] groups, a group to one shard; so the number of shards may change between
//! runs. The hash is not stored anywhere: a snapshot's rows are hashed again when it is restored.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
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
        let shards = self.senders.len();
        let groups = key_groups(batch, &self.keys).map_err(failed)?;
        let (rows, ends) = rows_by_shard(&groups, shards);
        let rows = ScalarBuffer::from(rows);
        let parts = (0..shards).map(|shard| {
            let start = if shard == 0 { 0 } else { ends[shard - 1] };
            let length = ends[shard] - start;
            if length == 0 {
                return Ok(None);
            }
            if length == batch.num_rows() {
                return Ok(Some(batch.clone()));
            }
            let rows = UInt32Array::new(rows.slice(start, length), None);
            let columns = batch.columns().iter().map(|column| take(column, &rows, None));
            RecordBatch::try_new(batch.schema(), columns.collect::<Result<Vec<_>, _>>()?).map(Some)
        });
        parts.collect::<Result<Vec<_>, ArrowError>>().map_err(failed)
    }
}

/// The rows by shard, in order within each, and where the rows of each shard end.
fn rows_by_shard(groups: &[u16], shards: usize) -> (Vec<u32>, Vec<usize>) {
    let mut per_group = [0_usize; KEY_GROUPS as usize];
    groups.iter().for_each(|group| per_group[usize::from(*group)] += 1);
    // Where the next row of each shard goes. Shards are made of key groups that follow each other.
    let mut ends = vec![0; shards];
    (0..KEY_GROUPS).for_each(|group| ends[shard_of(group, shards)] += per_group[usize::from(group)]);
    let mut next = Vec::with_capacity(shards);
    ends.iter_mut().fold(0, |before, end| {
        next.push(before);
        *end += before;
        *end
    });
    let mut shard = [0_u8; KEY_GROUPS as usize];
    (0..KEY_GROUPS).for_each(|group| shard[usize::from(group)] = shard_of(group, shards) as u8);
    let mut rows = vec![0; groups.len()];
    for (row, group) in groups.iter().enumerate() {
        let next = &mut next[usize::from(shard[usize::from(*group)])];
        rows[*next] = row as u32;
        *next += 1;
    }
    (rows, ends)
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
