//! The task of one shard of a stage: gate → chain.

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::chain::Chain;
use crate::engine::coordinator::{Part, TaskEvent};
use crate::engine::element::Element;
use crate::engine::error::Interrupt;
use crate::engine::gate::{Event, Gate};

/// Runs until the inputs are at their end or closed.
pub(crate) async fn run(
    task: usize,
    name: String,
    mut gate: Gate,
    mut chain: Chain,
    events: mpsc::Sender<TaskEvent>,
) -> Result<(), Interrupt> {
    loop {
        let event = match chain.next_tick() {
            None => gate.next().await,
            Some(due) => tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => {
                    chain.tick(Instant::now()).await?;
                    continue;
                }
                event = gate.next() => event,
            },
        };
        match event {
            Event::Batch(input, batch, reached) => {
                chain.input_watermark = reached;
                chain.feed(input, Element::Batch(batch)).await?;
            }
            Event::Watermark(watermark) => chain.feed(0, Element::Watermark(watermark)).await?,
            Event::Barrier(epoch) => {
                chain.feed(0, Element::Barrier(epoch)).await?;
                let watermark = gate.watermark().map(|watermark| (name.clone(), watermark));
                let part = Part { states: std::mem::take(&mut chain.states), watermark, ..Part::default() };
                TaskEvent::Acked { task, epoch, part }.send(&events).await?;
            }
            Event::End => {
                chain.feed(0, Element::End).await?;
                TaskEvent::Finished { task, part: Part::default() }.send(&events).await?;
                return Ok(());
            }
            Event::Closed => return Ok(()),
        }
    }
}
