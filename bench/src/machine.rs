//! The machine that the figures belong to, and whether it has anything else to do.

use serde::Serialize;

use crate::progress::Progress;

/// With so many tasks per core waiting before anything was started, figures are not to be trusted.
const BUSY: f64 = 0.5;

/// The machine before the measurements.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    kernel: String,
    processor: String,
    /// Tasks that ran or waited in the minute before; missing where /proc does not say.
    load: Option<f64>,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: processor(&read("/proc/cpuinfo")),
            load: load(&read("/proc/loadavg")),
        }
    }

    /// Says so where the machine is busy with something else.
    pub(crate) fn warn(&self, progress: &Progress) {
        if let Some(load) = self.load.filter(|load| *load > BUSY * self.cores as f64) {
            progress.begin(&format!(
                "this machine is busy (load {load:.1} on {} cores): clock and latency figures will be worse than it can do",
                self.cores
            ));
        }
    }
}

fn processor(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or_else(String::new, |(_, name)| name.trim().to_owned())
}

fn load(loadavg: &str) -> Option<f64> {
    loadavg.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_and_load_are_read() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n"), "Some CPU @ 2 GHz");
        assert_eq!(processor(""), "");
        assert_eq!(load("1.25 0.5 0.1 1/100 4711\n"), Some(1.25));
        assert_eq!(load(""), None);
    }
}
