//! Compiled code on disk, so that a restart compiles nothing anew. A cache: whatever is missing or odd is compiled again.
//!
//! An entry is `<key>.cwasm`: 32 bytes of blake3 over what follows, then what wasmtime serialized. The key hashes the
//! module's bytes and all that the code depends on (wasmtime's version, settings, this processor's features).

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The most bytes of compiled code kept; the entries least recently written go first.
const CACHE_BYTES_MAX: u64 = 512 << 20;
/// A larger entry is not read (64 MiB of WebAssembly make a few times as much machine code).
const ENTRY_BYTES_MAX: u64 = CACHE_BYTES_MAX;
/// The length of the checksum before each entry.
const CHECKSUM_BYTES: usize = blake3::OUT_LEN;

/// The directory of compiled code.
#[derive(Debug)]
pub(super) struct DiskCache {
    dir: PathBuf,
    /// The user that owns the directory and must own every entry: this process's.
    owner: u32,
    /// What compiled code depends on beside the module's bytes.
    environment: String,
}

impl DiskCache {
    /// Makes `dir` where it is missing and refuses it where somebody else could write to it.
    pub(super) fn open(dir: &Path, engine: &wasmtime::Engine) -> Result<Self, String> {
        let shown = dir.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| format!("cannot make the cache directory {shown}: {error}"))?;
        // A file that this process makes has this process's user as its owner.
        let owner = tempfile::tempfile_in(dir)
            .and_then(|probe| probe.metadata())
            .map_err(|error| format!("cannot write to the cache directory {shown}: {error}"))?
            .uid();
        let metadata = fs::metadata(dir).map_err(|error| format!("cannot read {shown}: {error}"))?;
        if metadata.uid() != owner || metadata.mode() & 0o022 != 0 {
            return Err(format!(
                "the cache directory {shown} can be written by others (owner {}, mode {:o}), and what is in it is run \
                 as machine code: give it to the daemon's user with mode 700, or name another one",
                metadata.uid(),
                metadata.mode() & 0o7777
            ));
        }
        let mut hasher = Blake(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { dir: dir.to_owned(), owner, environment: hasher.0.finalize().to_hex().to_string() })
    }

    /// The compiled code of the module with this hash, where there is an entry in which nothing is odd.
    pub(super) fn get(&self, engine: &wasmtime::Engine, module: &blake3::Hash) -> Option<wasmtime::Module> {
        let path = self.path(module);
        match self.read(&path) {
            Ok(Some(bytes)) => match deserialize(engine, bytes.get(CHECKSUM_BYTES..)?) {
                Ok(code) => Some(code),
                Err(error) => {
                    tracing::warn!(path = %path.display(), "compiled code does not load, compiling again: {error:#}");
                    None
                }
            },
            Ok(None) => None,
            Err(problem) => {
                tracing::warn!(path = %path.display(), "compiled code is not used, compiling again: {problem}");
                None
            }
        }
    }

    /// Keeps compiled code; a failure only costs time at the next start, so it is logged.
    pub(super) fn put(&self, module: &blake3::Hash, code: &wasmtime::Module) {
        let path = self.path(module);
        let stored = code.serialize().map_err(|error| format!("{error:#}")).and_then(|bytes| {
            self.make_room(bytes.len() as u64).map_err(|error| error.to_string())?;
            self.write(&path, &bytes).map_err(|error| error.to_string())
        });
        if let Err(error) = stored {
            tracing::warn!(path = %path.display(), "compiled code is not kept: {error}");
        }
    }

    fn path(&self, module: &blake3::Hash) -> PathBuf {
        let key = blake3::hash(format!("{} {}", self.environment, module.to_hex()).as_bytes());
        self.dir.join(format!("{}.cwasm", key.to_hex()))
    }

    /// An entry's bytes with its checksum, both checked.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, String> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        // Of the open file, so that nothing can be exchanged after the look.
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if !metadata.is_file() || metadata.uid() != self.owner || metadata.mode() & 0o022 != 0 {
            return Err(format!("others can write to it (owner {}, mode {:o})", metadata.uid(), metadata.mode()));
        }
        if metadata.len() > ENTRY_BYTES_MAX {
            return Err(format!("it has {} bytes, more than {ENTRY_BYTES_MAX}", metadata.len()));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        match bytes.split_at_checked(CHECKSUM_BYTES) {
            Some((sum, code)) if blake3::hash(code).as_bytes() == sum => Ok(Some(bytes)),
            _ => Err("its checksum is wrong".into()),
        }
    }

    /// Writes beside and renames, so that a reader sees all of it or nothing.
    fn write(&self, path: &Path, code: &[u8]) -> std::io::Result<()> {
        // tempfile makes files with mode 600.
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(blake3::hash(code).as_bytes())?;
        file.write_all(code)?;
        file.persist(path)?;
        Ok(())
    }

    /// Removes the oldest entries until `wanted` more bytes fit.
    fn make_room(&self, wanted: u64) -> std::io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "cwasm") {
                let metadata = entry.metadata()?;
                entries.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), entry.path()));
            }
        }
        entries.sort_unstable();
        let mut total = wanted + entries.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        for (_, bytes, path) in entries {
            if total <= CACHE_BYTES_MAX {
                break;
            }
            fs::remove_file(&path)?;
            total -= bytes;
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "wasmtime cannot check machine code; see SAFETY")]
fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> Result<wasmtime::Module, wasmtime::Error> {
    // SAFETY: `code` must be what `Module::serialize` returned, of any version of wasmtime (others than this one are
    // refused by wasmtime itself). Only `DiskCache::put` writes files of this name; they are owned by this process's
    // user with nobody else able to write to them or to the directory (checked by `open` and `read`), so whoever could
    // exchange them could as well exchange this program; and the checksum before them shows damage by the disk.
    unsafe { wasmtime::Module::deserialize(engine, code) }
}

/// Lets what implements `Hash` be hashed by blake3: std's hasher is not stable over releases of Rust, and 64 bits are few.
struct Blake(blake3::Hasher);

impl Hasher for Blake {
    fn finish(&self) -> u64 {
        self.0.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}
