//! Splits a file into lines and knows the byte at which each starts.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int64Array, StringArray};
use bytes::Bytes;

use super::io_error;
use super::source::Compression;
use crate::batch::MessageBatch;
use crate::error::ConnectorError;
use crate::format::document::BOM;

/// How many bytes are read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Bounds and habits of a reader, from the source's options.
#[derive(Debug, Clone)]
pub(super) struct LineOptions {
    pub(super) rows_max: usize,
    pub(super) bytes_max: usize,
    pub(super) line_max: usize,
    pub(super) skip_blank: bool,
    pub(super) metadata: Vec<String>,
}

/// Where bytes come from.
enum Input {
    Plain(File),
    Compressed(Box<dyn Read + Send>),
}

/// Reads the lines of one file.
pub(super) struct LineReader {
    path: PathBuf,
    /// As shown to the user, and in the metadata.
    name: Arc<str>,
    partition: Arc<str>,
    compression: Compression,
    input: Input,
    options: LineOptions,
    /// What has been read; from `head` on it is not yet handed out.
    buffer: Vec<u8>,
    head: usize,
    /// The byte of the file that is at `head`.
    position: u64,
    /// Between `head` and this index of `buffer` there is no line break.
    searched: usize,
}

/// The lines of one batch, under construction.
struct Lines {
    bytes: usize,
    payloads: BinaryBuilder,
    /// Where each line starts in the file.
    starts: Vec<i64>,
}

impl LineReader {
    /// Opens the file at `path` to go on at byte `position`. A position that is not after a line break of this file is
    /// not of this file: reading then starts over, with a warning, so that nothing is missed.
    pub(super) fn open(
        path: &Path,
        (name, partition): (&str, &str),
        compression: Compression,
        position: u64,
        options: LineOptions,
    ) -> Result<Self, ConnectorError> {
        let input = open(path, compression)?;
        let mut reader = Self {
            path: path.to_owned(),
            name: name.into(),
            partition: partition.into(),
            compression,
            input,
            options,
            buffer: Vec::new(),
            head: 0,
            position: 0,
            searched: 0,
        };
        if position > 0 && !reader.go_to(position)? {
            tracing::warn!(
                file = %path.display(), position,
                "the file is not the one that was being read up to here (it was cut or replaced): it is read from its beginning"
            );
            reader.input = open(path, compression)?;
            reader.position = 0;
        }
        Ok(reader)
    }

    /// Goes to `position`; false where it is not the end of a line.
    fn go_to(&mut self, position: u64) -> Result<bool, ConnectorError> {
        let path = &self.path;
        let (len, last) = match &mut self.input {
            Input::Plain(file) => {
                let len = file.metadata().map_err(|error| io_error("read", path, &error))?.len();
                let mut last = [0];
                if position <= len {
                    file.read_exact_at(&mut last, position - 1).map_err(|error| io_error("read", path, &error))?;
                    file.seek(SeekFrom::Start(position)).map_err(|error| io_error("read", path, &error))?;
                }
                (len, last[0])
            }
            Input::Compressed(input) => {
                // Compressed files cannot be entered in the middle: what has been read is read again and skipped.
                let mut skipped = 0;
                let mut last = 0;
                let mut chunk = vec![0; CHUNK_BYTES];
                while skipped < position {
                    let want = usize::try_from(position - skipped).unwrap_or(usize::MAX).min(CHUNK_BYTES);
                    let read = input
                        .read(chunk.get_mut(..want).unwrap_or_default())
                        .map_err(|error| io_error("decompress", path, &error))?;
                    if read == 0 {
                        break;
                    }
                    skipped += read as u64;
                    last = chunk.get(read - 1).copied().unwrap_or(0);
                }
                // The end of a compressed file is not known; a last line without its line break is the rule's exception.
                (skipped, if skipped == position { b'\n' } else { last })
            }
        };
        self.position = position;
        Ok(position == len || (position < len && last == b'\n'))
    }

    pub(super) fn partition(&self) -> &Arc<str> {
        &self.partition
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The file, if it is read as it is.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.input {
            Input::Plain(file) => Some(file),
            Input::Compressed(_) => None,
        }
    }

    /// How many bytes of a line without its line break are waiting.
    pub(super) fn unfinished(&self) -> usize {
        self.buffer.len() - self.head
    }

    /// Where reading has come to, with what is buffered.
    pub(super) fn read_up_to(&self) -> u64 {
        self.position + self.unfinished() as u64
    }

    /// True where the byte before what was read last is still the one that was read: false after a file was cut and
    /// written anew beyond the place where it was read.
    pub(super) fn still_the_same(&self) -> bool {
        let (Input::Plain(file), end) = (&self.input, self.read_up_to()) else { return true };
        let expected = if self.unfinished() == 0 { b'\n' } else { self.buffer.last().copied().unwrap_or(b'\n') };
        let mut last = [0];
        end == 0 || file.read_exact_at(&mut last, end - 1).is_ok_and(|()| last[0] == expected)
    }

    /// Starts over: the file was cut.
    pub(super) fn rewind(&mut self) -> Result<(), ConnectorError> {
        self.buffer.clear();
        (self.position, self.head, self.searched) = (0, 0, 0);
        match &mut self.input {
            Input::Plain(file) => file.rewind().map_err(|error| io_error("read", &self.path, &error)),
            Input::Compressed(_) => Ok(()),
        }
    }

    /// The next lines, or `None` where there are no more for now. `complete`: the file will not grow, so that a last line
    /// counts that has no line break.
    pub(super) fn next(&mut self, complete: bool) -> Result<Option<MessageBatch>, ConnectorError> {
        let mut lines = Lines { bytes: 0, payloads: BinaryBuilder::new(), starts: Vec::new() };
        while lines.starts.len() < self.options.rows_max && lines.bytes < self.options.bytes_max {
            if self.take_line(&mut lines)? {
                continue;
            }
            if self.fill()? == 0 {
                if complete && self.unfinished() > 0 {
                    self.push(&mut lines, self.buffer.len(), self.buffer.len());
                }
                break;
            }
        }
        Ok((!lines.starts.is_empty()).then(|| self.batch(lines)))
    }

    /// Moves the first whole line of the buffer to `lines`; false where there is none.
    fn take_line(&mut self, lines: &mut Lines) -> Result<bool, ConnectorError> {
        let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
        let line_break = memchr::memchr(b'\n', unsearched).map(|at| self.searched + at);
        let end = line_break.unwrap_or(self.buffer.len());
        if end - self.head > self.options.line_max {
            return Err(ConnectorError::fatal(format!(
                "{}: the line at byte {} is longer than `line_max` ({} bytes); raise the option or mend the file",
                self.path.display(),
                self.position,
                self.options.line_max
            )));
        }
        match line_break {
            Some(end) => self.push(lines, end, end + 1),
            None => self.searched = self.buffer.len(),
        }
        Ok(line_break.is_some())
    }

    /// Adds the line from `head` to `end`; the next one starts at `next`.
    fn push(&mut self, lines: &mut Lines, end: usize, next: usize) {
        let start = self.position;
        let line = self.buffer.get(self.head..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = if start == 0 { line.strip_prefix(BOM).unwrap_or(line) } else { line };
        if !self.options.skip_blank || !line.trim_ascii().is_empty() {
            lines.bytes += line.len();
            lines.payloads.append_value(line);
            lines.starts.push(i64::try_from(start).unwrap_or(i64::MAX));
        }
        self.position += (next - self.head) as u64;
        (self.head, self.searched) = (next, next);
    }

    fn fill(&mut self) -> Result<usize, ConnectorError> {
        self.buffer.drain(..self.head);
        self.searched -= self.head;
        self.head = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK_BYTES, 0);
        let chunk = self.buffer.get_mut(before..).unwrap_or_default();
        let (read, doing) = match &mut self.input {
            Input::Plain(file) => (retried(|| file.read(chunk)), "read"),
            Input::Compressed(input) => (retried(|| input.read(chunk)), "decompress"),
        };
        self.buffer.truncate(before + read.as_ref().copied().unwrap_or(0));
        read.map_err(|error| io_error(doing, &self.path, &error))
    }

    fn batch(&self, mut lines: Lines) -> MessageBatch {
        let column = |field: &String| -> ArrayRef {
            match field.as_str() {
                "line_offset" => Arc::new(Int64Array::from(lines.starts.clone())),
                _ => Arc::new(StringArray::from_iter_values(lines.starts.iter().map(|_| &*self.name))),
            }
        };
        MessageBatch {
            partition: self.partition.clone(),
            payloads: lines.payloads.finish(),
            metadata: self.options.metadata.iter().map(column).collect(),
            next_position: self.position,
        }
    }

    /// The first line of the file, wherever reading is.
    pub(super) fn first_line(&self) -> Result<Bytes, ConnectorError> {
        let mut line = Vec::new();
        let mut chunk = vec![0; 4096];
        let mut other = match &self.input {
            Input::Plain(_) => None,
            Input::Compressed(_) => Some(open(&self.path, self.compression)?),
        };
        loop {
            let read = match (&self.input, &mut other) {
                (Input::Plain(file), _) => retried(|| file.read_at(&mut chunk, line.len() as u64)),
                (_, Some(Input::Compressed(input))) => retried(|| input.read(&mut chunk)),
                _ => Ok(0),
            };
            let read = read.map_err(|error| io_error("read", &self.path, &error))?;
            let found = chunk.get(..read).unwrap_or_default();
            let end = found.iter().position(|&b| b == b'\n');
            line.extend_from_slice(found.get(..end.unwrap_or(read)).unwrap_or_default());
            if end.is_some() || read == 0 || line.len() > self.options.line_max {
                let line = line.strip_prefix(BOM).unwrap_or(&line);
                return Ok(Bytes::copy_from_slice(line.strip_suffix(b"\r").unwrap_or(line)));
            }
        }
    }
}

/// Reads again where a signal came between.
fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn open(path: &Path, compression: Compression) -> Result<Input, ConnectorError> {
    let file = File::open(path).map_err(|error| io_error("open", path, &error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(ConnectorError::retry(format!("cannot read {}: it is a folder", path.display())));
    }
    Ok(match compression.of(path) {
        Compression::Gzip => Input::Compressed(Box::new(flate2::read::MultiGzDecoder::new(file))),
        Compression::Zstd => {
            let decoder = zstd::Decoder::new(file).map_err(|error| io_error("decompress", path, &error))?;
            Input::Compressed(Box::new(decoder))
        }
        _ => Input::Plain(file),
    })
}
