//! A PostgreSQL of the test's own, with a password and, where asked for, TLS.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Process, free_port};

const INSTALL: &str = "needed is PostgreSQL (on Debian: apt-get install postgresql)";
/// The database answers within so long.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// PostgreSQL does not run as root; then it runs as nobody.
const NOBODY: u32 = 65_534;

/// A PostgreSQL on 127.0.0.1.
#[derive(Debug)]
pub struct Postgres {
    /// Its port.
    pub port: u16,
    /// Ends before the folder goes (fields are dropped in this order).
    process: Process,
    folder: TempDir,
    tls: bool,
}

impl Postgres {
    /// The superuser, and the name of the database.
    pub const USER: &str = "millstream";
    /// The password that TCP connections need.
    pub const PASSWORD: &str = "pg-s3cret-word";

    /// Makes a database and starts it. With `tls` it takes connections with TLS, too; needs `openssl` on the path.
    pub async fn start(tls: bool) -> Self {
        Self::try_start(tls).await.unwrap_or_else(|error| panic!("no PostgreSQL: {error}"))
    }

    async fn try_start(tls: bool) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("millstream-pg-").tempdir().map_err(|e| e.to_string())?;
        if tls {
            make_certificates(folder.path())?;
        }
        std::fs::write(folder.path().join("password"), Self::PASSWORD).map_err(|e| e.to_string())?;
        give_away(folder.path())?;
        let mut initdb = command(folder.path(), "initdb")?;
        initdb.args(["-D", "data", "-U", Self::USER, "-A", "scram-sha-256", "--pwfile", "password"]);
        run(initdb.args(["-E", "UTF8", "--no-locale", "--no-sync"]))?;
        let port = free_port();
        let process = start_server(folder.path(), port, tls)?;
        let mut postgres = Self { port, process, folder, tls };
        postgres.ready().await?;
        postgres.execute_in("postgres", &format!("CREATE DATABASE {}", Self::USER))?;
        Ok(postgres)
    }

    async fn ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + TIMEOUT;
        while let Err(error) = self.execute_in("postgres", "SELECT 1") {
            if Instant::now() > deadline {
                return Err(format!("it does not start: {error}; it says:\n{}", self.process.output_tail()));
            }
            // After a kill it refuses to start until the last child of the one before is gone.
            if self.process.ended().is_some() {
                self.process = start_server(self.folder.path(), self.port, self.tls)?;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// A file that it was given: `ca.pem` with TLS.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs SQL; what it gives, as psql shows it without names and borders.
    pub fn execute(&self, sql: &str) -> String {
        self.execute_in(Self::USER, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn execute_in(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = program("psql")?;
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", Self::USER]);
        psql.args(["-p", &self.port.to_string(), "-d", database, "-c", sql]);
        run(psql.env("PGPASSWORD", Self::PASSWORD).env("PGCONNECT_TIMEOUT", "5"))
    }

    /// Kills it at once.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again, on the same port with the same data, and waits until it answers.
    pub async fn restart(&mut self) {
        self.process.kill9();
        let started = start_server(self.folder.path(), self.port, self.tls);
        self.process = started.unwrap_or_else(|error| panic!("no PostgreSQL: {error}"));
        self.ready().await.unwrap_or_else(|error| panic!("no PostgreSQL: {error}"));
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

fn start_server(folder: &Path, port: u16, tls: bool) -> Result<Process, String> {
    let mut server = command(folder, "postgres")?;
    server.args(["-D", "data", "-p", &port.to_string()]);
    let mut settings =
        vec!["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "timezone=Asia/Tokyo"];
    // Sessions of users who write dates in their own way.
    settings.extend(["datestyle=German", "log_connections=on"]);
    if tls {
        settings.extend(["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"]);
    }
    for setting in settings {
        server.args(["-c", setting]);
    }
    Process::start(&mut server, &folder.join("postgres.log"), Some(folder))
}

/// A command of PostgreSQL's, in `folder`, as a user who may run it.
fn command(folder: &Path, name: &str) -> Result<Command, String> {
    let mut command = program(name)?;
    command.current_dir(folder);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Ok(command)
}

/// Debian keeps the server's programs where no path looks.
fn program(name: &str) -> Result<Command, String> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.exists());
    found.map(Command::new).ok_or_else(|| format!("there is no `{name}`; {INSTALL}"))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Everything in `folder` becomes the server's.
fn give_away(folder: &Path) -> Result<(), String> {
    if !is_root() {
        return Ok(());
    }
    let inside = std::fs::read_dir(folder).map_err(|e| e.to_string())?.flatten().map(|entry| entry.path());
    for path in inside.chain([folder.to_owned()]) {
        chown(&path, Some(NOBODY), Some(NOBODY)).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Err(format!("{}: {}", command.get_program().to_string_lossy(), said.concat()))
}

/// `ca.pem`, and `server.crt` with `server.key` for 127.0.0.1.
fn make_certificates(folder: &Path) -> Result<(), String> {
    let script = r#"set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
        printf 'subjectAltName=IP:127.0.0.1' > san.cnf
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san.cnf -out server.crt"#;
    run(Command::new("sh").args(["-c", script]).current_dir(folder))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(folder.join("server.key"), private).map_err(|e| e.to_string())
}
