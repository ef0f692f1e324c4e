//! Segment files of the ingest log: their names, header and frames. What is in a frame is `codec`'s business.
//!
//! ```text
//! header   "MSINGEST", version u32, first sequence u64, reserved u32, CRC32C of these u32     (little endian)
//! frame    length of the body u32, CRC32C of length and body u32, body
//! ```
//!
//! A frame is one commit: it is written only after the frame before it was synced. So a frame that is damaged and has a
//! valid one behind it was durable once, and its damage is not a torn tail.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::ConnectorError;

/// The header's length.
pub(super) const HEADER_BYTES: u64 = 28;
/// What stands before a frame's body.
pub(super) const FRAME_HEADER_BYTES: usize = 8;
/// The longest body of a frame.
pub(super) const FRAME_BODY_BYTES_MAX: u64 = 1 << 30;

const MAGIC: &[u8; 8] = b"MSINGEST";
const VERSION: u32 = 1;
const EXTENSION: &str = "segment";
/// Files that were being made when the daemon died.
const TEMPORARY_EXTENSION: &str = "tmp";

/// What the log asks of the disk, so that tests can make it fail.
pub(super) trait Disk: Send + Sync {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The operating system's.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The path of the segment whose first message is `first`.
pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.{EXTENSION}"))
}

/// The segments in `folder`, by their names, in order. Files half made are removed.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(TEMPORARY_EXTENSION) => fs::remove_file(&path)?,
            Some(EXTENSION) => {
                if let Some(first) = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
                {
                    found.push((first, path));
                }
            }
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

/// Makes the segment whose first message is `first`: it is seen under its name only with its whole header on disk.
pub(super) fn create(folder: &Path, first: u64, disk: &dyn Disk) -> io::Result<File> {
    let temporary = folder.join(format!("{first:020}.{TEMPORARY_EXTENSION}"));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&temporary)?;
    disk.write_at(&file, &header(first), 0)?;
    disk.sync(&file)?;
    fs::rename(&temporary, path(folder, first))?;
    sync_folder(folder)?;
    Ok(file)
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn header(first: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..20].copy_from_slice(&first.to_le_bytes());
    let crc = crc32c::crc32c(&header[..24]);
    header[24..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Checks a segment's header.
pub(super) fn check_header(file: &File, path: &Path, first: u64) -> Result<(), ConnectorError> {
    let mut found = [0; HEADER_BYTES as usize];
    file.read_exact_at(&mut found, 0).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damage(path, 0, "it is shorter than its header"),
        _ => unreadable(path, &error),
    })?;
    if &found[..8] != MAGIC {
        return Err(damage(path, 0, "it does not begin as a segment does"));
    }
    let crc = u32::from_le_bytes([found[24], found[25], found[26], found[27]]);
    if crc != crc32c::crc32c(&found[..24]) {
        return Err(damage(path, 0, "the checksum of its header is wrong"));
    }
    let version = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
    if version != VERSION {
        return Err(ConnectorError::fatal(format!(
            "the ingest log {} was written in format {version}; this version of Millstream reads format {VERSION}: \
             start the newer version again",
            path.display()
        )));
    }
    if found != header(first) {
        return Err(damage(path, 0, "its header and its name disagree about its first message"));
    }
    Ok(())
}

/// Fills the frame header at the start of `frame`.
pub(super) fn seal_frame(frame: &mut [u8]) {
    let length = (frame.len() - FRAME_HEADER_BYTES) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    let crc = frame_crc(length, &frame[FRAME_HEADER_BYTES..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The length of the body and the checksum, from a frame header.
pub(super) fn parse_frame_header(bytes: &[u8]) -> Option<(u32, u32)> {
    let length = bytes.get(..4)?.try_into().ok()?;
    let crc = bytes.get(4..FRAME_HEADER_BYTES)?.try_into().ok()?;
    Some((u32::from_le_bytes(length), u32::from_le_bytes(crc)))
}

pub(super) fn frame_crc(length: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), body)
}

/// What was stored is not what was written.
pub(super) fn damage(path: &Path, offset: u64, what: &str) -> ConnectorError {
    ConnectorError::fatal(format!(
        "the ingest log {} is damaged at byte {offset}: {what}. Messages behind that point may have been acknowledged to \
         their senders, so nothing is skipped: restore the file, or move the folder away to start over without them",
        path.display()
    ))
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> ConnectorError {
    ConnectorError::retry(format!("the ingest log {} cannot be read: {error}", path.display()))
}
