//! CPU time and memory of a process, from /proc: by process, and by thread name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use crate::failure::{Context, Result, failed};

/// The CPU time and memory of a process at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) at: Instant,
    /// Of all threads, ended ones too, in user and system mode.
    pub(crate) cpu_s: f64,
    pub(crate) resident_bytes: u64,
}

/// CPU seconds of the threads that live, by id, with the threads' names.
pub(crate) type Threads = BTreeMap<u32, (String, f64)>;

/// What a line of `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    /// User and system.
    ticks: u64,
    resident_pages: u64,
}

/// Reads a line such as `4711 (a name) S 1 …`. A name may have spaces and parentheses in it.
fn parse_stat(line: &str) -> Option<Stat> {
    let (before, after) = line.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    // proc(5) counts from 1, and `after` begins at field 3: utime is 14, stime 15, rss 24.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat { name: name.to_owned(), ticks: number(14)? + number(15)?, resident_pages: number(24)? })
}

/// Reads a value in kB of `/proc/PID/status`.
fn parse_status_bytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn read(path: PathBuf) -> Result<String> {
    std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))
}

fn stat(path: PathBuf) -> Result<Stat> {
    let line = read(path.clone())?;
    match parse_stat(&line) {
        Some(stat) => Ok(stat),
        None => failed(format!("{} has an unknown form: {line}", path.display())),
    }
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The process's CPU time and memory now.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let found = stat(PathBuf::from(format!("/proc/{pid}/stat")))?;
    Ok(Usage {
        at: Instant::now(),
        cpu_s: seconds(found.ticks),
        resident_bytes: found.resident_pages * rustix::param::page_size() as u64,
    })
}

/// The most memory that the process ever had.
pub(crate) fn peak_bytes(pid: u32) -> Result<u64> {
    let status = read(PathBuf::from(format!("/proc/{pid}/status")))?;
    parse_status_bytes(&status, "VmHWM").map_or_else(|| failed(format!("/proc/{pid}/status has no VmHWM")), Ok)
}

/// The CPU time of each thread that lives now.
pub(crate) fn threads(pid: u32) -> Result<Threads> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let mut threads = Threads::new();
    for entry in std::fs::read_dir(&folder).context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        // A thread may end between the listing and the look.
        if let (Some(id), Ok(stat)) =
            (entry.file_name().to_string_lossy().parse().ok(), stat(entry.path().join("stat")))
        {
            threads.insert(id, (stat.name, seconds(stat.ticks)));
        }
    }
    Ok(threads)
}

/// CPU seconds between two moments by thread name. `total_s` is what the process used meanwhile: what is in no living
/// thread was used by threads that have ended.
pub(crate) fn by_name(before: &Threads, after: &Threads, total_s: f64) -> BTreeMap<String, f64> {
    let mut names: BTreeMap<String, f64> = BTreeMap::new();
    for (id, (name, cpu_s)) in after {
        let earlier = before.get(id).map_or(0.0, |(_, cpu_s)| *cpu_s);
        *names.entry(name.clone()).or_default() += cpu_s - earlier;
    }
    let ended = total_s - names.values().sum::<f64>();
    // The clock's ticks do not add up exactly.
    if ended > 0.05 * total_s {
        names.insert("(ended)".to_owned(), ended);
    }
    names.retain(|_, cpu_s| *cpu_s > 0.0);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "4711 (a (b) c) S 1 4711 4711 0 -1 4194304 12 0 0 0 250 50 7 8 20 0 9 0 100 1000000 321 \
                        18446744073709551615 1 1 0 0 0 0 0";

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name() {
        let stat = parse_stat(LINE).unwrap();
        assert_eq!(stat, Stat { name: "a (b) c".to_owned(), ticks: 300, resident_pages: 321 });
        assert_eq!(parse_stat("4711 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn memory_is_read_from_status() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_status_bytes(status, "VmHWM"), Some(2048 * 1024));
        assert_eq!(parse_status_bytes(status, "VmHW"), None);
    }

    #[test]
    fn this_process_is_there() {
        let pid = std::process::id();
        assert!(usage(pid).unwrap().resident_bytes > 0);
        assert!(peak_bytes(pid).unwrap() > 0);
        assert!(threads(pid).unwrap().contains_key(&pid));
        assert!(usage(u32::MAX).is_err());
    }

    #[test]
    fn time_is_summed_by_name_and_what_ended_threads_used_is_shown() {
        let thread = |name: &str, cpu_s| (name.to_owned(), cpu_s);
        let before = Threads::from([(1, thread("main", 1.0)), (2, thread("worker", 5.0)), (9, thread("gone", 1.0))]);
        let after = Threads::from([(1, thread("main", 1.0)), (2, thread("worker", 7.0)), (3, thread("worker", 0.5))]);
        let names = by_name(&before, &after, 4.0);
        assert_eq!(names, BTreeMap::from([("worker".to_owned(), 2.5), ("(ended)".to_owned(), 1.5)]));
        assert!(!by_name(&before, &after, 2.51).contains_key("(ended)"));
    }
}
