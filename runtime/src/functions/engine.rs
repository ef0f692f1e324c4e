//! One wasmtime engine for the daemon, with what all modules share: the clock of deadlines and compiled code.
//!
//! It knows no pipeline and no limits of a single module; those are in `instance`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::FunctionError;
use super::cache::DiskCache;

/// Deadlines are kept to within this time (plus what the operating system adds on a busy machine).
pub const EPOCH_TICK: Duration = Duration::from_millis(5);

/// The most stack that a guest may use; deeper recursion is a trap. Every thread that calls functions needs a larger one
/// (tokio's have 2 MiB).
pub const WASM_STACK_BYTES_MAX: usize = 512 << 10;

/// The WebAssembly engine: make one per daemon.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    disk: Option<DiskCache>,
    /// Compiled code by the blake3 of its file, for as long as a loaded module uses it: a reload compiles nothing anew.
    compiled: Mutex<HashMap<[u8; 32], Weak<Compiled>>>,
    /// Whether the thread that keeps deadlines could be started; it is with the first module.
    ticker: OnceLock<Result<(), String>>,
}

/// Compiled code, shared by all that load the same bytes.
pub(super) struct Compiled {
    pub(super) code: wasmtime::Module,
    /// The blake3 of the file, in hexadecimal.
    pub(super) hash: String,
}

impl Engine {
    /// Starts the engine. Its ticker thread starts with the first module, and ends with the last user of the engine.
    ///
    /// `cache_dir` keeps compiled code over restarts; it is made where it is missing, and must belong to the daemon's
    /// user with nobody else able to write there, because what is in it is run as machine code. Without it code is
    /// compiled at every start (10 ms for C or Rust, seconds for Go).
    pub fn new(cache_dir: Option<&Path>) -> Result<Arc<Self>, FunctionError> {
        let failed = |message: String| FunctionError { function: "WebAssembly engine".into(), row: None, message };
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        config.max_wasm_stack(WASM_STACK_BYTES_MAX);
        // 20 frames are more than the one or two names that an error message shows.
        config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20));
        let wasmtime = wasmtime::Engine::new(&config).map_err(|error| failed(format!("cannot start: {error:#}")))?;
        let disk = cache_dir.map(|dir| DiskCache::open(dir, &wasmtime)).transpose().map_err(failed)?;
        Ok(Arc::new(Self { wasmtime, disk, compiled: Mutex::default(), ticker: OnceLock::new() }))
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// Starts the ticker, if it does not run.
    fn keep_deadlines(&self) -> Result<(), wasmtime::Error> {
        let started = self.ticker.get_or_init(|| {
            let ticked = self.wasmtime.weak();
            let tick = move || {
                while let Some(engine) = ticked.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    #[expect(clippy::disallowed_methods, reason = "this thread is its own")]
                    std::thread::sleep(EPOCH_TICK);
                }
            };
            let thread = std::thread::Builder::new().name("wasm-epoch".into()).spawn(tick);
            thread.map(drop).map_err(|error| format!("cannot start the thread that keeps deadlines: {error}"))
        });
        started.clone().map_err(wasmtime::Error::msg)
    }

    /// The number of ticks after which at least `deadline` has passed.
    pub(super) fn ticks(deadline: Duration) -> u64 {
        let ticks = deadline.as_nanos().div_ceil(EPOCH_TICK.as_nanos());
        // The running tick may be almost over, so it does not count.
        u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1)
    }

    /// Compiled code for `bytes`: what is loaded already, what the disk has, or compiled now (in this thread and
    /// wasmtime's pool; it may take seconds).
    pub(super) fn compile(&self, bytes: &[u8]) -> Result<Arc<Compiled>, wasmtime::Error> {
        self.keep_deadlines()?;
        let hash = blake3::hash(bytes);
        if let Some(compiled) = self.loaded().get(hash.as_bytes()).and_then(Weak::upgrade) {
            return Ok(compiled);
        }
        let code = match self.disk.as_ref().and_then(|disk| disk.get(&self.wasmtime, &hash)) {
            Some(code) => code,
            None => {
                let code = wasmtime::Module::from_binary(&self.wasmtime, bytes)?;
                if let Some(disk) = &self.disk {
                    disk.put(&hash, &code);
                }
                code
            }
        };
        let compiled = Arc::new(Compiled { code, hash: hash.to_hex().to_string() });
        let mut loaded = self.loaded();
        loaded.retain(|_, module| module.strong_count() > 0);
        loaded.insert(*hash.as_bytes(), Arc::downgrade(&compiled));
        Ok(compiled)
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Weak<Compiled>>> {
        // The map is whole after every statement, so a panic elsewhere does not spoil it.
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("disk", &self.disk).finish_non_exhaustive()
    }
}
