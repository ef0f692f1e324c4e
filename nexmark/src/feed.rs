//! A stream of events cut into batches, kind by kind, for the engine: as rows or as lines of JSON.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use arrow::array::RecordBatch;

use crate::event::Kind;
use crate::generator::Generator;
use crate::rows::Rows;

/// The file or rows of a kind are cut after so many events of all kinds: about 8000 of them are bids.
pub const EVENTS_PER_BATCH: u64 = 8_700;

/// Events that came one after the other, of one kind.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The place in the stream of all events at which they start.
    pub place: u64,
    /// Of which kind they are.
    pub kind: Kind,
    /// The events as rows.
    pub rows: RecordBatch,
    /// The events as JSON objects, where that was asked for.
    pub lines: Vec<Vec<u8>>,
}

/// The first `count` events, in chunks by place and kind.
///
/// # Panics
/// Where memory does not hold them.
pub fn chunks(generator: &Generator, count: u64, as_lines: bool) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for place in (0..count).step_by(EVENTS_PER_BATCH as usize) {
        let mut rows = Rows::default();
        let mut lines: [Vec<Vec<u8>>; 3] = Default::default();
        for at in place..count.min(place + EVENTS_PER_BATCH) {
            let event = generator.at(at);
            if as_lines {
                let mut line = Vec::new();
                event.json(&mut line).expect("a vector takes everything");
                lines[event.kind() as usize].push(line);
            }
            rows.push(event);
        }
        for (kind, lines) in Kind::ALL.into_iter().zip(lines) {
            let rows = rows.batch(kind).expect("columns of one length");
            chunks.push(Chunk { place, kind, rows, lines });
        }
    }
    chunks
}

/// Writes the first `count` events to `person.jsonl`, `auction.jsonl` and `bid.jsonl` in `folder`.
///
/// # Errors
/// Where a file cannot be written.
pub fn write(generator: &Generator, count: u64, folder: &Path) -> Result<()> {
    let open = |kind: Kind| Ok(BufWriter::new(File::create(folder.join(format!("{}.jsonl", kind.name())))?));
    let mut files: Vec<BufWriter<File>> = Kind::ALL.into_iter().map(open).collect::<Result<_>>()?;
    for place in 0..count {
        let event = generator.at(place);
        let file = &mut files[event.kind() as usize];
        event.json(file)?;
        file.write_all(b"\n")?;
    }
    files.iter_mut().try_for_each(Write::flush)
}

/// Writes the side input of q13, `side_input.csv`: a value for each number below [`SIDE_INPUT_ROWS`].
///
/// # Errors
/// Where the file cannot be written.
pub fn write_side_input(folder: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(folder.join("side_input.csv"))?);
    writeln!(file, "key,value")?;
    (0..SIDE_INPUT_ROWS).try_for_each(|key| writeln!(file, "{key},value {}", key * 7 % SIDE_INPUT_ROWS))?;
    file.flush()
}

/// How many rows the side input of q13 has.
pub const SIDE_INPUT_ROWS: u64 = 10_000;
