//! What a daemon finds when it opens an ingest log: which segments there are, and where the last one ends.
//!
//! Only the last segment is read whole; damage in the others is found when they are read, by the same checksums.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::codec;
use super::segment::{self, FRAME_HEADER_BYTES, HEADER_BYTES, damage, unreadable};
use crate::error::ConnectorError;

/// What was found in the folder.
pub(super) struct Recovered {
    /// First message, path and bytes of each segment; the last is the one that is written.
    pub(super) segments: Vec<(u64, PathBuf, u64)>,
    /// The last segment.
    pub(super) active: File,
    /// The sequence number that the next message gets.
    pub(super) next: u64,
}

/// Reads the log in `folder`, or starts one.
pub(super) fn recover(folder: &Path, disk: &dyn segment::Disk) -> Result<Recovered, ConnectorError> {
    let failed = |error: io::Error| unreadable(folder, &error);
    let mut names = segment::list(folder).map_err(failed)?;
    let Some((last_first, last_path)) = names.pop() else {
        let active = segment::create(folder, 0, disk).map_err(failed)?;
        return Ok(Recovered { segments: vec![(0, segment::path(folder, 0), HEADER_BYTES)], active, next: 0 });
    };
    let mut segments = Vec::new();
    for (first, path) in names {
        let file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
        segment::check_header(&file, &path, first)?;
        let bytes = file.metadata().map_err(|error| unreadable(&path, &error))?.len();
        segments.push((first, path, bytes));
    }
    let active = File::options().read(true).write(true).open(&last_path).map_err(|e| unreadable(&last_path, &e))?;
    segment::check_header(&active, &last_path, last_first)?;
    let (end, next) = cut_torn_tail(&active, &last_path, last_first, disk)?;
    segments.push((last_first, last_path, end));
    Ok(Recovered { segments, active, next })
}

/// Finds the end of the last segment, cuts what a crash left behind it, and syncs: what a killed daemon had written
/// and not synced is about to be read as durable.
fn cut_torn_tail(file: &File, path: &Path, first: u64, disk: &dyn segment::Disk) -> Result<(u64, u64), ConnectorError> {
    let failed = |error: io::Error| unreadable(path, &error);
    let length = file.metadata().map_err(failed)?.len();
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    io::Seek::seek(&mut reader, io::SeekFrom::Start(HEADER_BYTES)).map_err(failed)?;
    let scan = scan(&mut reader, length, first).map_err(failed)?;
    if scan.end < length {
        if let Some(offset) = scan.valid_behind {
            return Err(damage(path, scan.end, &format!("a frame is broken, and a good one follows at byte {offset}")));
        }
        tracing::warn!(
            file = %path.display(), offset = scan.end, bytes = length - scan.end,
            "the end of the ingest log was being written when the daemon or the machine stopped; nothing in it had been \
             acknowledged, and it is cut off"
        );
        file.set_len(scan.end).map_err(failed)?;
    }
    disk.sync(file).map_err(failed)?;
    Ok((scan.end, scan.next))
}

/// Where the good frames of a segment end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// The offset behind the last good frame.
    pub(super) end: u64,
    /// The sequence number behind it.
    pub(super) next: u64,
    /// A good frame behind a bad one, by its offset.
    pub(super) valid_behind: Option<u64>,
}

/// Reads frames from `reader`, which stands behind the header of a segment of `length` bytes.
pub(super) fn scan(reader: &mut impl Read, length: u64, first: u64) -> io::Result<Scan> {
    let mut scan = Scan { end: HEADER_BYTES, next: first, valid_behind: None };
    let mut frame = Vec::new();
    loop {
        let left = length - scan.end;
        frame.clear();
        reader.by_ref().take((FRAME_HEADER_BYTES as u64).min(left)).read_to_end(&mut frame)?;
        let Some((body_length, crc)) = segment::parse_frame_header(&frame) else { break };
        let body_room = left - FRAME_HEADER_BYTES as u64;
        reader.by_ref().take(u64::from(body_length).min(body_room)).read_to_end(&mut frame)?;
        match check_frame(&frame, body_length, crc, scan.next) {
            Some(next) => {
                scan.end += frame.len() as u64;
                scan.next = next;
            }
            None => break,
        }
    }
    // `frame` holds the start of what is not good.
    reader.by_ref().take((length - scan.end).saturating_sub(frame.len() as u64)).read_to_end(&mut frame)?;
    scan.valid_behind = find_valid_frame(&frame, scan.next).map(|offset| scan.end + offset as u64);
    Ok(scan)
}

/// The sequence number behind the frame, if it is good and begins at `expected`.
fn check_frame(frame: &[u8], body_length: u32, crc: u32, expected: u64) -> Option<u64> {
    let body = frame.get(FRAME_HEADER_BYTES..)?;
    let (first, count) = codec::group_header(body)?;
    if body.len() != body_length as usize || first != expected || count == 0 {
        return None;
    }
    (segment::frame_crc(body_length, body) == crc).then(|| first.checked_add(u64::from(count)))?
}

/// Looks at every offset for a good frame that could follow a broken one whose first message was `broken`.
fn find_valid_frame(bytes: &[u8], broken: u64) -> Option<usize> {
    // A message takes at least two bytes, so a frame further on cannot be further ahead than this. The bound keeps
    // checksums from being computed over chance finds.
    let furthest = broken.saturating_add(bytes.len() as u64);
    (1..bytes.len()).find(|&offset| {
        let candidate = &bytes[offset..];
        let Some((length, crc)) = segment::parse_frame_header(candidate) else { return false };
        let Some(frame) = candidate.get(..FRAME_HEADER_BYTES + length as usize) else { return false };
        let Some((first, _)) = codec::group_header(&frame[FRAME_HEADER_BYTES..]) else { return false };
        first > broken && first <= furthest && check_frame(frame, length, crc, first).is_some()
    })
}
