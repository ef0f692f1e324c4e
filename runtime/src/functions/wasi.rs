//! WASI preview 1 as a closed stand-in: what languages with a runtime (Go, C with stdio) need to start, and no more.
//!
//! No files, no network, no environment, no arguments. The clock stands still and random numbers come from a fixed seed,
//! so that the same rows give the same results. What is printed goes to the daemon's debug log.

use wasmtime::{Caller, Error, Extern, FuncType, Linker, Memory, Val, ValType};

use super::imports::GuestExit;
use super::instance::Host;

/// The import module's name.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

const SUCCESS: i32 = 0;
const EBADF: i32 = 8;
const EINVAL: i32 = 28;
const ENOSYS: i32 = 52;

/// What every clock shows: 2000-01-01 in UTC, in nanoseconds. (Go does not start with a clock at 0.)
const CLOCK_NS: u64 = 946_684_800_000_000_000;
/// At most so much of one write is logged, in bytes.
const LOGGED_BYTES_MAX: usize = 4096;
/// At most so many pieces in one write.
const PIECES_MAX: u32 = 1024;

/// The functions that only say what they cannot do: name, parameters (`i` i32, `l` i64), the answer.
const REFUSED: &[(&str, &str, i32)] = &[
    ("fd_advise", "illi", EBADF),
    ("fd_allocate", "ill", EBADF),
    ("fd_close", "i", EBADF),
    ("fd_datasync", "i", EBADF),
    ("fd_fdstat_get", "ii", EBADF),
    ("fd_fdstat_set_flags", "ii", EBADF),
    ("fd_fdstat_set_rights", "ill", EBADF),
    ("fd_filestat_get", "ii", EBADF),
    ("fd_filestat_set_size", "il", EBADF),
    ("fd_filestat_set_times", "illi", EBADF),
    ("fd_pread", "iiili", EBADF),
    ("fd_prestat_dir_name", "iii", EBADF),
    ("fd_prestat_get", "ii", EBADF),
    ("fd_pwrite", "iiili", EBADF),
    ("fd_read", "iiii", EBADF),
    ("fd_readdir", "iiili", EBADF),
    ("fd_renumber", "ii", EBADF),
    ("fd_seek", "ilii", EBADF),
    ("fd_sync", "i", EBADF),
    ("fd_tell", "ii", EBADF),
    ("path_create_directory", "iii", EBADF),
    ("path_filestat_get", "iiiii", EBADF),
    ("path_filestat_set_times", "iiiilli", EBADF),
    ("path_link", "iiiiiii", EBADF),
    ("path_open", "iiiiillii", EBADF),
    ("path_readlink", "iiiiii", EBADF),
    ("path_remove_directory", "iii", EBADF),
    ("path_rename", "iiiiii", EBADF),
    ("path_symlink", "iiiii", EBADF),
    ("path_unlink_file", "iii", EBADF),
    ("poll_oneoff", "iiii", ENOSYS),
    ("proc_raise", "i", ENOSYS),
    ("sched_yield", "", SUCCESS),
    ("sock_accept", "iii", EBADF),
    ("sock_recv", "iiiiii", EBADF),
    ("sock_send", "iiiii", EBADF),
    ("sock_shutdown", "ii", EBADF),
];

/// The functions that do something.
const ANSWERED: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "environ_get",
    "environ_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "fd_write",
    "proc_exit",
    "random_get",
];

/// True for the functions of preview 1.
pub(super) fn has(name: &str) -> bool {
    ANSWERED.contains(&name) || REFUSED.iter().any(|(refused, _, _)| *refused == name)
}

/// Defines all of them.
pub(super) fn define(linker: &mut Linker<Host>) -> Result<(), Error> {
    for &(name, parameters, errno) in REFUSED {
        let parameters = parameters.chars().map(|kind| if kind == 'l' { ValType::I64 } else { ValType::I32 });
        let ty = FuncType::new(linker.engine(), parameters, [ValType::I32]);
        linker.func_new(MODULE, name, ty, move |_, _, results| {
            if let Some(result) = results.first_mut() {
                *result = Val::I32(errno);
            }
            Ok(())
        })?;
    }
    linker.func_wrap(MODULE, "args_get", |_: i32, _: i32| SUCCESS)?;
    linker.func_wrap(MODULE, "environ_get", |_: i32, _: i32| SUCCESS)?;
    linker.func_wrap(MODULE, "args_sizes_get", nothing)?;
    linker.func_wrap(MODULE, "environ_sizes_get", nothing)?;
    linker.func_wrap(MODULE, "clock_res_get", |mut caller: Caller<'_, Host>, _clock: i32, out: i32| {
        store(&mut caller, out, &1_000_000_u64.to_le_bytes())
    })?;
    linker.func_wrap(
        MODULE,
        "clock_time_get",
        |mut caller: Caller<'_, Host>, _clock: i32, _precision: i64, out: i32| {
            store(&mut caller, out, &CLOCK_NS.to_le_bytes())
        },
    )?;
    linker.func_wrap(MODULE, "fd_write", write)?;
    linker.func_wrap(MODULE, "random_get", random)?;
    linker
        .func_wrap(MODULE, "proc_exit", |code: i32| -> Result<(), Error> { Err(Error::new(GuestExit::Exit(code))) })?;
    Ok(())
}

fn memory(caller: &mut Caller<'_, Host>) -> Result<Memory, Error> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => Err(Error::msg("the module calls WASI but exports no memory named `memory`")),
    }
}

/// Writes to the guest's memory; outside of it is an error of the call, as for the guest's own stores.
fn store(caller: &mut Caller<'_, Host>, at: i32, bytes: &[u8]) -> Result<i32, Error> {
    let memory = memory(caller)?;
    memory.write(caller, at as u32 as usize, bytes)?;
    Ok(SUCCESS)
}

/// No arguments, no environment: zero entries of zero bytes.
fn nothing(mut caller: Caller<'_, Host>, count: i32, bytes: i32) -> Result<i32, Error> {
    store(&mut caller, count, &[0; 4])?;
    store(&mut caller, bytes, &[0; 4])
}

fn random(mut caller: Caller<'_, Host>, at: i32, length: i32) -> Result<i32, Error> {
    let memory = memory(&mut caller)?;
    let (data, host) = memory.data_and_store_mut(&mut caller);
    let (start, length) = (at as u32 as usize, length as u32 as usize);
    let Some(target) = data.get_mut(start..).and_then(|rest| rest.get_mut(..length)) else { return Ok(EINVAL) };
    for chunk in target.chunks_mut(8) {
        chunk.copy_from_slice(&host.next_random().to_le_bytes()[..chunk.len()]);
    }
    Ok(SUCCESS)
}

/// Standard output and standard error go to the log; there are no other files.
fn write(mut caller: Caller<'_, Host>, file: i32, pieces: i32, count: i32, written: i32) -> Result<i32, Error> {
    if file != 1 && file != 2 {
        return Ok(EBADF);
    }
    if count as u32 > PIECES_MAX {
        return Ok(EINVAL);
    }
    let memory = memory(&mut caller)?;
    let data = memory.data(&caller);
    let (mut total, mut logged) = (0_u32, Vec::new());
    let word = |at: usize| Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?));
    for piece in 0..count as u32 as usize {
        let at = pieces as u32 as usize + 8 * piece;
        let (Some(start), Some(length)) = (word(at), word(at + 4)) else { return Ok(EINVAL) };
        let Some(text) = data.get(start as usize..).and_then(|rest| rest.get(..length as usize)) else {
            return Ok(EINVAL);
        };
        logged.extend_from_slice(&text[..text.len().min(LOGGED_BYTES_MAX - logged.len())]);
        total = total.wrapping_add(length);
    }
    let text = String::from_utf8_lossy(&logged).trim_end().to_owned();
    tracing::debug!(module = %caller.data().module, %text, "function printed");
    if file == 2 {
        caller.data_mut().complained(&text);
    }
    store(&mut caller, written, &total.to_le_bytes())
}
