//! The built `millstream` binary as a child process.
//!
//! It is not built from here: whoever runs the tests builds the workspace's binaries first (`cargo build`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::services::{Process, free_port};

/// The daemon answers within so long, and ends within so long after SIGTERM.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running daemon. It is killed when this value is dropped, or when the test's process dies.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    _log_folder: TempDir,
    /// The port of its HTTP listener, where the test chose one.
    pub http_port: u16,
}

/// The path of the built binary: beside the test's own.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("the test has a path");
    // target/debug/deps/e2e-… or target/debug/services
    let folder = own.ancestors().skip(1).find(|folder| folder.join("millstream").is_file());
    let folder = folder.unwrap_or_else(|| {
        panic!("no `millstream` binary beside {}: run `cargo build -p millstream` first", own.display())
    });
    folder.join("millstream")
}

/// Runs `millstream` with `args` in `folder` to its end: exit status, standard output, standard error.
pub fn run<A: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = A>) -> (ExitStatus, String, String) {
    let output = Command::new(binary()).args(args).current_dir(folder).output().expect("millstream can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status, text(output.stdout), text(output.stderr))
}

impl Daemon {
    /// Starts `millstream` with `args` and `environment` in `folder`. `{port}` in an argument or a value becomes a free
    /// port, the same everywhere: [`Daemon::http_port`].
    pub fn start(folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_on(free_port(), folder, args, environment)
    }

    /// As [`Daemon::start`], with the port of a daemon that was there before.
    pub fn start_on(http_port: u16, folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let filled = |text: &str| text.replace("{port}", &http_port.to_string());
        let mut command = Command::new(binary());
        command.args(args.iter().map(|arg| filled(arg))).current_dir(folder);
        command.envs(environment.iter().map(|(name, value)| (name, filled(value))));
        let log_folder = tempfile::Builder::new().prefix("millstream-log-").tempdir().expect("a temporary folder");
        let log = log_folder.path().join("output");
        let process = Process::start(&mut command, &log, Some(log_folder.path()))
            .unwrap_or_else(|error| panic!("no daemon: {error}"));
        Self { process, _log_folder: log_folder, http_port }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// `http://127.0.0.1:port` and `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port)
    }

    /// Waits until `GET /health` succeeds; fails the test, with the daemon's output, where it does not.
    pub async fn healthy(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        let client = reqwest::Client::new();
        loop {
            let answer = client.get(self.url("/health")).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            if let Some(status) = self.process.ended() {
                panic!("the daemon ended ({status}); it wrote:\n{}", self.process.output());
            }
            assert!(Instant::now() < deadline, "the daemon is not healthy; it wrote:\n{}", self.process.output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until its output contains `text`.
    pub async fn wait_for_output(&mut self, text: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.process.output().contains(text) {
            let ended = self.process.ended();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the daemon ({ended:?}) did not write `{text}` but:\n{}",
                self.process.output()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Standard output and standard error so far.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Kills it at once (SIGKILL) and waits until it is gone.
    pub fn kill9(&mut self) -> ExitStatus {
        self.process.kill9()
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.terminate(TIMEOUT)
    }
}
