//! A folder of pipelines, and a daemon that runs it, may be killed, and is started again on the same data directory.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, run};
use crate::services::free_port;

/// Whatever a test waits for comes within so long.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);
/// Tests wait for what is logged of subscriptions.
const LOG: &str = "info,librdkafka=warn,millstream_connectors::mqtt=debug";

/// A folder with `pipelines/`, `data/` and what pipelines write.
#[derive(Debug)]
pub struct Sandbox {
    daemon: Option<Daemon>,
    /// The port of the daemon's listener, the same over restarts.
    pub port: u16,
    client: reqwest::Client,
    folder: TempDir,
    more: Vec<String>,
    settle: String,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

/// The repository.
pub fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the tests are a folder of the workspace").to_owned()
}

impl Sandbox {
    /// An empty folder.
    pub fn new() -> Self {
        Self::with_arguments(&[])
    }

    /// An empty folder whose daemon is started with `more` arguments.
    pub fn with_arguments(more: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("millstream-e2e-").tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("pipelines")).expect("a folder can be made");
        let more = more.iter().map(|&argument| argument.to_owned()).collect();
        Self {
            daemon: None,
            port: free_port(),
            client: reqwest::Client::new(),
            folder,
            more,
            settle: "100ms".to_owned(),
        }
    }

    /// How long files must be quiet before the daemon reads them, from the next start on.
    pub fn settle(&mut self, settle: &str) {
        settle.clone_into(&mut self.settle);
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `pipelines/name.yaml` by renaming a temporary file over it, as editors do.
    pub fn pipeline(&self, name: &str, yaml: &str) {
        let (temporary, file) = (self.path(&format!("pipelines/.{name}.swp")), self.yaml(name));
        std::fs::write(&temporary, yaml).expect("the folder can be written to");
        std::fs::rename(temporary, file).expect("the file can be put in its place");
    }

    /// The path of `pipelines/name.yaml`.
    pub fn yaml(&self, name: &str) -> PathBuf {
        self.path(&format!("pipelines/{name}.yaml"))
    }

    /// Copies the WebAssembly module that ships to `udf/thermal.wasm`.
    pub fn with_thermal(self) -> Self {
        std::fs::create_dir_all(self.path("udf")).expect("a folder can be made");
        std::fs::copy(workspace().join("pipelines/udf/thermal.wasm"), self.path("udf/thermal.wasm"))
            .expect("the module that ships is there");
        self
    }

    /// Starts the daemon and waits until it answers.
    pub async fn start(&mut self) {
        let mut arguments =
            vec!["run", "pipelines", "--data-dir", "data", "--listen", "127.0.0.1:{port}", "--settle", &self.settle];
        arguments.extend(self.more.iter().map(String::as_str));
        let log = [("RUST_LOG", LOG)];
        let mut daemon = Daemon::start_on(self.port, self.folder.path(), &arguments, &log);
        daemon.healthy().await;
        self.daemon = Some(daemon);
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the daemon was started")
    }

    /// Kills the daemon at once.
    pub fn kill9(&mut self) {
        self.daemon().kill9();
    }

    /// Asks the daemon to end, and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.daemon().terminate()
    }

    /// Runs `millstream` with `arguments` in the folder, to its end.
    pub fn run(&self, arguments: &[&str]) -> (ExitStatus, String, String) {
        run(self.folder.path(), arguments)
    }

    /// `http://127.0.0.1:port` and `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Posts `body`; status and answer.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
        let answer = self.client.post(self.url(path)).header("content-type", "application/json").body(body);
        let answer = answer.timeout(TIMEOUT).send().await.expect("the daemon answers");
        (answer.status().as_u16(), answer.text().await.expect("the answer is text"))
    }

    /// Gets `path`; status and answer.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(self.url(path)).timeout(TIMEOUT).send().await.expect("the daemon answers");
        (answer.status().as_u16(), answer.text().await.expect("the answer is text"))
    }

    /// What the API says about the pipeline `name`; null where there is none.
    pub async fn status(&self, name: &str) -> Value {
        let (status, text) = self.get(&format!("/v1/pipelines/{name}")).await;
        if status == 200 { serde_json::from_str(&text).expect("the API answers JSON") } else { Value::Null }
    }

    /// Waits until the pipeline's status is as `wanted` says.
    pub async fn status_until(&mut self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let status = self.status(name).await;
            if wanted(&status) {
                return status;
            }
            if Instant::now() > deadline {
                panic!("{name} is not so: {what}, but {status:#}; the daemon wrote:\n{}", self.daemon().output());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the pipeline runs.
    pub async fn running(&mut self, name: &str) -> Value {
        self.status_until(name, "running", |status| status["state"] == "running").await
    }

    /// Waits until `done` says yes; fails with what `left` says and the daemon's output.
    pub async fn until<T>(&mut self, what: &str, mut done: impl AsyncFnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match done().await {
                Ok(value) => return value,
                Err(left) if Instant::now() > deadline => {
                    let output = self.daemon().output();
                    let tail = output.len().saturating_sub(6000);
                    let tail = (tail..=output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(0);
                    panic!("{what}: not in {TIMEOUT:?}: {left}; the daemon's output ends with:\n{}", &output[tail..]);
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The whole lines of a file of JSON lines; none where it is not there.
    pub fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}"))).collect()
    }

    /// What the daemon wrote since its last start.
    pub fn output(&mut self) -> String {
        self.daemon().output()
    }
}
