//! The daemon that is measured: a child process on a folder of pipelines and a data directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use millstream_tests::services::{Process, free_port};
use serde_json::Value;
use tempfile::TempDir;

use crate::failure::{Context, Result, failed};
use crate::procfs;
use crate::variant::Variant;

/// The daemon ends within so long after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(5);

/// A running daemon; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    process: Process,
    folder: TempDir,
    /// When it was started.
    pub(crate) started: Instant,
}

impl Daemon {
    /// Starts the daemon on these pipelines, in a new folder in `parent`.
    pub(crate) fn start(variant: &Variant, parent: &Path, pipelines: &[Value]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("daemon-").tempdir_in(parent)?;
        std::fs::create_dir(folder.path().join("pipelines"))?;
        for pipeline in pipelines {
            write_pipeline(folder.path(), variant, pipeline)?;
        }
        let mut command = Command::new(&variant.binary);
        command.args(["run", "pipelines", "--data-dir", "data", "--listen"]);
        command.arg(format!("127.0.0.1:{}", free_port())).current_dir(folder.path());
        command.envs(variant.environment.iter().map(|(name, value)| (name, value)));
        let started = Instant::now();
        let process =
            Process::start(&mut command, &folder.path().join("log"), None).map_err(crate::failure::Failure)?;
        Ok(Self { process, folder, started })
    }

    /// Replaces a pipeline's file by a rename, as editors do.
    pub(crate) fn rewrite(&self, variant: &Variant, pipeline: &Value) -> Result<()> {
        write_pipeline(self.folder.path(), variant, pipeline)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn usage(&self) -> Result<procfs::Usage> {
        procfs::usage(self.id())
    }

    /// Waits until `text` has come in the log `count` times.
    pub(crate) fn wait_for_log(&mut self, text: &str, count: usize, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.process.output().matches(text).count() < count {
            self.check()?;
            if Instant::now() > deadline {
                return failed(format!("the daemon does not write `{text}` but:\n{}", self.process.output_tail()));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Fails where the daemon has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.process.ended() {
            Some(status) => failed(format!("the daemon ended ({status}):\n{}", self.process.output_tail())),
            None => Ok(()),
        }
    }

    /// The end of its log, for messages.
    pub(crate) fn log_tail(&self) -> String {
        self.process.output_tail()
    }

    /// Fails where rows went to the dead letter: nothing in the measurements is wrong with any of them.
    fn check_dead_letters(&self) -> Result<()> {
        let data = self.folder.path().join("data");
        for entry in std::fs::read_dir(&data).context(|| format!("cannot read {}", data.display()))? {
            let letters = entry?.path().join("dead-letter.jsonl");
            let text = std::fs::read_to_string(&letters).unwrap_or_default();
            if let Some(first) = text.lines().next() {
                return failed(format!("{} rows went to the dead letter; the first: {first}", text.lines().count()));
            }
        }
        Ok(())
    }

    /// Stops it as an operator would. `keep` is a folder that gets a copy of its pipelines and log.
    pub(crate) fn stop(mut self, keep: Option<PathBuf>) -> Result<()> {
        self.check()?;
        let status = self.process.terminate(STOP_TIMEOUT);
        if let Some(keep) = keep {
            std::fs::create_dir_all(&keep)?;
            std::fs::copy(&self.process.log, keep.join("log"))?;
            for entry in std::fs::read_dir(self.folder.path().join("pipelines"))? {
                let entry = entry?;
                std::fs::copy(entry.path(), keep.join(entry.file_name()))?;
            }
        }
        if !status.success() {
            return failed(format!("the daemon did not stop cleanly ({status}):\n{}", self.process.output_tail()));
        }
        self.check_dead_letters()
    }
}

fn write_pipeline(folder: &Path, variant: &Variant, pipeline: &Value) -> Result<()> {
    let name = pipeline["name"].as_str().unwrap_or("pipeline");
    let (temporary, file) =
        (folder.join(format!("pipelines/.{name}.new")), folder.join(format!("pipelines/{name}.yaml")));
    std::fs::write(&temporary, variant.yaml(pipeline)?)?;
    std::fs::rename(temporary, file)?;
    Ok(())
}
