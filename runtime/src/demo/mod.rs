//! `millstream demo`: an embedded MQTT broker, the shipped pipelines, and what comes of them on the terminal.
//!
//! The pipelines run in the same [`Daemon`] as with `millstream run`; the demo only adds the broker's address to their
//! environment, tells what the daemon does, and shows the rows of the `sse` sinks ([`live`]).

mod broker;
mod live;
mod screen;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::cli::{DemoArguments, fail};
use crate::daemon::{Daemon, Options, StateChange};
use crate::redact::SharedSecrets;
use crate::spec::LoadOptions;
use broker::Broker;
use screen::{Screen, Welcome};

/// How long files must be quiet before a change is read: short, because somebody is watching.
const SETTLE: Duration = Duration::from_millis(300);
/// The variable by which the pipelines find the broker.
const BROKER_VARIABLE: &str = "MQTT_URL";

/// Runs the demo until Ctrl-C (or `--stop-after`).
pub(crate) async fn run(arguments: DemoArguments, secrets: SharedSecrets) -> ExitCode {
    if let Err(message) = check_folder(&arguments.pipelines) {
        return fail(&message);
    }
    // Dropped at the end of this function, which removes the folder.
    let (data_dir, _temporary) = match data_dir(&arguments) {
        Ok(data_dir) => data_dir,
        Err(error) => return fail(&format!("cannot make a temporary folder: {error}; give one with --data-dir")),
    };
    let broker = match Broker::start(arguments.mqtt_port).await {
        Ok(broker) => broker,
        Err(message) => return fail(&message),
    };
    let load = LoadOptions { env: environment(broker.url()), ..LoadOptions::default() };
    let options = Options {
        paths: vec![arguments.pipelines.clone()],
        load: load.clone(),
        data_dir: data_dir.clone(),
        listen: Some(arguments.listen.clone()),
        bounded: false,
        state_change: StateChange::Discard,
        settle: SETTLE,
        poll_files: None,
        secrets,
    };
    let mut daemon = match Daemon::start(options).await {
        Ok(daemon) => daemon,
        Err(error) => return fail(&error.to_string()),
    };
    let address = daemon.address().map_or(arguments.listen, |address| address.to_string());
    let welcome = Welcome { address, broker, pipelines: arguments.pipelines, data_dir };
    let screen = Screen::new(welcome, load, daemon.shared(), daemon.observe());
    let screen = AbortOnDropHandle::new(tokio::spawn(screen.run()));
    let stopper = daemon.stopper();
    let _stop_after = arguments.stop_after.map(|limit| {
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(limit.0).await;
            stopper.stop().await;
        }))
    });
    let code = Box::pin(daemon.run()).await;
    drop(screen);
    screen::goodbye();
    code
}

/// Says what to do where the pipelines are not there.
fn check_folder(folder: &Path) -> Result<(), String> {
    if !folder.is_dir() {
        return Err(format!(
            "there is no folder `{}` here. The demo runs the pipelines that come with Millstream's source: start it in \
             the folder of the clone, or say where they are with --pipelines",
            folder.display()
        ));
    }
    let (files, _) = crate::spec::find(&[folder.to_owned()]);
    if files.is_empty() {
        return Err(format!(
            "there is no pipeline (*.yaml) in `{}`; say where they are with --pipelines",
            folder.display()
        ));
    }
    Ok(())
}

fn data_dir(arguments: &DemoArguments) -> std::io::Result<(PathBuf, Option<tempfile::TempDir>)> {
    match &arguments.data_dir {
        Some(folder) => Ok((folder.clone(), None)),
        None => {
            let folder = tempfile::Builder::new().prefix("millstream-demo-").tempdir()?;
            Ok((folder.path().to_owned(), Some(folder)))
        }
    }
}

/// The process's environment, with the address of the embedded broker, which comes first: the demo needs no other.
fn environment(broker: String) -> crate::spec::Environment {
    Arc::new(move |name| if name == BROKER_VARIABLE { Some(broker.clone()) } else { std::env::var(name).ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_empty_folder_is_answered_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_folder(&folder.path().join("pipelines")).unwrap_err().contains("--pipelines"));
        assert!(check_folder(folder.path()).unwrap_err().contains("no pipeline"));
        std::fs::write(folder.path().join("a.yaml"), "").unwrap();
        check_folder(folder.path()).unwrap();
    }

    #[test]
    fn the_pipelines_find_the_embedded_broker_and_not_another() {
        let environment = environment("mqtt://127.0.0.1:1".into());
        assert_eq!(environment("MQTT_URL").as_deref(), Some("mqtt://127.0.0.1:1"));
        assert_eq!(environment("PATH"), std::env::var("PATH").ok());
    }
}
