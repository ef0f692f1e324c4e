//! A child process in a group of its own that cannot outlive the test.
//!
//! Statics are never dropped and a killed test drops nothing, so `Drop` alone would leave services behind. Beside every
//! child runs a guard, a shell that reads from a pipe whose other end only this process holds: when this process is
//! gone for whatever reason, the guard kills the child's group and removes its folder.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A port of 127.0.0.1 that nothing listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("127.0.0.1 has a free port")
        .port()
}

/// A running child process, its output in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    guard: Child,
    group: Pid,
    /// Standard output and standard error, appended over restarts.
    pub log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`. When this process dies, the child is killed and `folder`
    /// (if any) removed.
    pub fn start(command: &mut Command, log: &Path, folder: Option<&Path>) -> Result<Self, String> {
        let open = || File::options().create(true).append(true).open(log);
        let (stdout, stderr) = open()
            .and_then(|stdout| Ok((stdout, open()?)))
            .map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let group = Pid::from_child(&child);
        // The guard leaves our group too, so that a Ctrl-C in the terminal does not end it before it has done its work.
        let guard = Command::new("sh")
            .args(["-c", r#"cat >/dev/null; kill -s KILL -- "-$1"; [ -z "$2" ] || rm -rf -- "$2""#, "guard"])
            .arg(group.as_raw_nonzero().to_string())
            .arg(folder.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start sh: {error}"))?;
        Ok(Self { child, guard, group, log: log.to_owned() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Kills it at once, as a power cut would, and waits until it is gone.
    pub fn kill9(&mut self) -> ExitStatus {
        self.dismiss_guard();
        if self.ended().is_none() {
            // It may end between the look and the signal; then there is nothing to kill.
            kill_process_group(self.group, Signal::KILL).ok();
        }
        self.child.wait().unwrap_or_else(|_| ExitStatus::from_raw(9))
    }

    /// Asks it to end (SIGTERM) and waits for that; kills it after `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        kill_process_group(self.group, Signal::TERM).ok();
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                self.dismiss_guard();
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill9()
    }

    /// What it wrote.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what it wrote, for messages.
    pub fn output_tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Ends the guard first, so that it never signals a group whose number was given to another process.
    fn dismiss_guard(&mut self) {
        self.guard.kill().ok();
        self.guard.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_dies_with_the_process_that_started_it() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & wait"]);
        let mut process = Process::start(&mut command, &folder.path().join("log"), Some(&inner)).unwrap();
        // What the kernel does when this process dies, whatever the reason.
        drop(process.guard.stdin.take());
        assert_eq!(process.child.wait().unwrap().signal(), Some(9));
        process.guard.wait().unwrap();
        assert!(!inner.exists());
    }
}
