//! Running copies of a module: their limits, and the pool they wait in between calls.
//!
//! A call takes an instance from the pool (or makes one), and gives it back when it returned; after a trap, a passed
//! deadline or a panic the instance is dropped, because nobody knows what state its memory is in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_connectors::units::{ByteSize, Duration as SpecDuration};
use wasmtime::{InstancePre, ResourceLimiter, Store, Trap, WasmBacktrace};

use super::engine::{Compiled, Engine};
use super::imports::{self, GuestExit};
use super::rows::RowLoop;
use super::scalar::Signature;

/// At most so many instances of a module wait in its pool, each with at most its `memory_max`; what is given back beyond
/// is dropped.
pub const IDLE_INSTANCES_MAX: usize = 32;
/// The most elements of all tables of an instance together (8 bytes each).
pub const TABLE_ELEMENTS_MAX: usize = 1 << 20;
/// The most tables of an instance.
const TABLES_MAX: usize = 16;
/// The most memories of an instance.
const MEMORIES_MAX: usize = 4;
/// The most characters shown of what a guest printed to standard error before it failed.
const COMPLAINT_CHARS_MAX: usize = 200;

/// What the host keeps for one instance.
pub(super) struct Host {
    /// The module's file, for the log.
    pub(super) module: Arc<str>,
    memory_max: u64,
    /// All memories together, the collector's heap too.
    memory: u64,
    table_elements: usize,
    /// The guest was refused memory since the call began.
    memory_refused: bool,
    complaint: String,
    random: u64,
}

impl Host {
    /// The same numbers in every instance: a function must not depend on which instance runs it.
    pub(super) fn next_random(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Keeps the beginning of what the guest prints to standard error, to be shown if it then fails.
    pub(super) fn complained(&mut self, text: &str) {
        let room = COMPLAINT_CHARS_MAX.saturating_sub(self.complaint.chars().count());
        self.complaint.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(room));
    }

    fn start_call(&mut self) {
        self.memory_refused = false;
        self.complaint.clear();
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = (self.memory + desired as u64).saturating_sub(current as u64);
        if grown > self.memory_max {
            self.memory_refused = true;
            return Ok(false);
        }
        self.memory = grown;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = (self.table_elements + desired).saturating_sub(current);
        if grown > TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.table_elements = grown;
        Ok(true)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

/// An instance with its functions, in the order of the module's signatures.
pub(super) struct Instance {
    pub(super) store: Store<Host>,
    pub(super) functions: Vec<Box<dyn RowLoop>>,
    /// How many batches it has been used for.
    calls: u64,
}

/// What instances of a module are limited to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) memory_max: ByteSize,
    pub(super) deadline: Duration,
}

/// All instances of a loaded module.
pub(super) struct Pool {
    engine: Arc<Engine>,
    /// Kept so that a reload finds the compiled code.
    compiled: Arc<Compiled>,
    pre: InstancePre<Host>,
    module: Arc<str>,
    signatures: Vec<Signature>,
    limits: Limits,
    idle: Mutex<Vec<Instance>>,
}

impl Pool {
    /// A pool with a first instance, so that a module that cannot start is refused when it is loaded.
    pub(super) fn new(
        engine: &Arc<Engine>,
        compiled: Arc<Compiled>,
        module: &str,
        signatures: Vec<Signature>,
        limits: Limits,
    ) -> Result<Self, String> {
        let pre = imports::linker(engine.wasmtime())
            .and_then(|linker| linker.instantiate_pre(&compiled.code))
            .map_err(|error| format!("{error:#}"))?;
        let pool = Self {
            engine: Arc::clone(engine),
            compiled,
            pre,
            module: module.into(),
            signatures,
            limits,
            idle: Mutex::default(),
        };
        let first = pool.instantiate()?;
        pool.give_back(first);
        Ok(pool)
    }

    pub(super) fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    pub(super) fn hash(&self) -> &str {
        &self.compiled.hash
    }

    /// Runs `call` with an instance and a fresh deadline. The error is a sentence, with the row where there is one.
    ///
    /// A guest that leaks a little in every call reaches its memory limit some day at a row that is not to blame: then
    /// `call` runs again, with a fresh instance.
    pub(super) fn with_instance<T>(
        &self,
        call: impl Fn(&mut Instance) -> Result<T, (usize, wasmtime::Error)>,
    ) -> Result<T, (Option<usize>, String)> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut used) = idle {
            match self.run(&mut used, &call) {
                Ok(result) => {
                    self.give_back(used);
                    return Ok(result);
                }
                Err(_) if used.calls > 1 && used.store.data().memory_refused => {
                    let module = &*self.module;
                    tracing::debug!(
                        module,
                        calls = used.calls,
                        "an instance is full and is replaced: does it free memory?"
                    );
                }
                Err((row, error)) => return Err((Some(row), self.explain(&error, used.store.data()))),
            }
        }
        let mut fresh = self.instantiate().map_err(|message| (None, message))?;
        match self.run(&mut fresh, &call) {
            Ok(result) => {
                self.give_back(fresh);
                Ok(result)
            }
            Err((row, error)) => Err((Some(row), self.explain(&error, fresh.store.data()))),
        }
    }

    fn run<T>(
        &self,
        instance: &mut Instance,
        call: impl Fn(&mut Instance) -> Result<T, (usize, wasmtime::Error)>,
    ) -> Result<T, (usize, wasmtime::Error)> {
        instance.calls += 1;
        instance.store.data_mut().start_call();
        instance.store.set_epoch_deadline(Engine::ticks(self.limits.deadline));
        call(instance)
    }

    fn give_back(&self, instance: Instance) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_INSTANCES_MAX {
            idle.push(instance);
        }
    }

    /// A new instance, after its start function and `_initialize` (where it has them) within the deadline.
    fn instantiate(&self) -> Result<Instance, String> {
        let host = Host {
            module: Arc::clone(&self.module),
            memory_max: self.limits.memory_max.0,
            memory: 0,
            table_elements: 0,
            memory_refused: false,
            complaint: String::new(),
            random: 0,
        };
        let mut store = Store::new(self.engine.wasmtime(), host);
        store.limiter(|host| host);
        store.set_epoch_deadline(Engine::ticks(self.limits.deadline));
        match self.start(&mut store) {
            Ok(functions) => Ok(Instance { store, functions, calls: 0 }),
            Err(error) => Err(format!("cannot start: {}", self.explain(&error, store.data()))),
        }
    }

    fn start(&self, store: &mut Store<Host>) -> Result<Vec<Box<dyn RowLoop>>, wasmtime::Error> {
        let instance = self.pre.instantiate(&mut *store)?;
        if instance.get_func(&mut *store, "_initialize").is_some() {
            instance.get_typed_func::<(), ()>(&mut *store, "_initialize")?.call(&mut *store, ())?;
        }
        self.signatures
            .iter()
            .map(|signature| {
                let function = instance
                    .get_func(&mut *store, &signature.export)
                    .ok_or_else(|| wasmtime::Error::msg(format!("there is no export `{}`", signature.export)))?;
                super::rows::row_loop(function, store, signature)
            })
            .collect()
    }

    /// What happened, in a sentence.
    fn explain(&self, error: &wasmtime::Error, host: &Host) -> String {
        let mut message = String::new();
        if host.memory_refused {
            message = format!("memory limit {} reached (`memory_max`), then ", self.limits.memory_max);
        }
        match (error.downcast_ref::<Trap>(), error.downcast_ref::<GuestExit>()) {
            (Some(Trap::Interrupt), _) => {
                let deadline = SpecDuration(self.limits.deadline);
                message += &format!("ran longer than {deadline} (`deadline`, the longest that a batch may take)");
            }
            (Some(Trap::StackOverflow), _) => {
                let stack = ByteSize(super::WASM_STACK_BYTES_MAX as u64);
                message += &format!("trap: the stack limit of {stack} was reached (endless recursion?)");
            }
            (Some(trap), _) => {
                // Display says `wasm trap: …`.
                let text = trap.to_string();
                message += &format!("trap: {}", text.strip_prefix("wasm trap: ").unwrap_or(&text));
            }
            (None, Some(exit)) => message += &exit.to_string(),
            // The root cause alone: the contexts around it are backtraces.
            (None, None) => message += &error.root_cause().to_string(),
        }
        if let Some(function) = innermost(error) {
            message += &format!(", in `{function}`");
        }
        if !host.complaint.is_empty() {
            message += &format!("; it printed: {}", host.complaint);
        }
        message
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("module", &self.module).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The name of the guest's function that failed, where the module has names.
fn innermost(error: &wasmtime::Error) -> Option<String> {
    let frame = error.downcast_ref::<WasmBacktrace>()?.frames().first()?.func_name()?.to_owned();
    // Mangled names of C++ and Rust help nobody.
    (frame.len() <= 60 && !frame.starts_with("_Z") && !frame.starts_with("_R")).then_some(frame)
}
