//! A real Mosquitto for tests: on a free port, with a configuration of its own, ended with its handle.
//!
//! Tests include this file with `#[path]`. A test that cannot start Mosquitto fails; it never skips.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running broker.
pub(crate) struct Mosquitto {
    child: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
}

impl Mosquitto {
    /// Starts one; `extra` are further lines of its configuration, in which `FOLDER` stands for its folder.
    pub(crate) fn start(extra: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let base = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location FOLDER/\n\
             max_queued_messages 0\nlog_dest none\nuser root\n{extra}\n"
        );
        let config = base.replace("FOLDER", folder.path().to_str().unwrap());
        std::fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
        let mut broker = Self { child: None, port, folder };
        broker.restart();
        broker
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until it has stored `bytes`, so that they survive [`Mosquitto::kill`].
    pub(crate) fn wait_until_stored(&self, bytes: &[u8]) {
        let started = Instant::now();
        loop {
            let stored = std::fs::read(self.folder.path().join("mosquitto.db")).unwrap_or_default();
            if stored.windows(bytes.len()).any(|window| window == bytes) {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "Mosquitto does not store what it has");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again, on the same port and with what it had stored.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| "mosquitto".into());
        let child = Command::new(program)
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Mosquitto is installed (Debian package mosquitto)");
        self.child = Some(child);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "Mosquitto did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}
