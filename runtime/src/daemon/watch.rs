//! What tells the daemon that something may have changed: the file system, and signals.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Event;

/// However long files keep changing, they are read after this many settle times.
const SETTLES_MAX: u32 = 20;

/// Watches folders. Spurious notices are harmless: a look at unchanged files changes nothing.
pub(crate) struct Watcher {
    watcher: Option<RecommendedWatcher>,
    followed: BTreeSet<PathBuf>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Watcher {
    /// A watcher of nothing yet. Notices become [`Event::Files`] when there was none for `settle`.
    pub(crate) fn start(events: mpsc::Sender<Event>, settle: Duration, poll: Option<Duration>) -> Self {
        // One pending notice says as much as many.
        let (notices, noticed) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |notice: notify::Result<notify::Event>| match notice {
            // Reading a file is no change of it.
            Ok(notice) if notice.kind.is_access() => {}
            // A full channel holds a notice already.
            Ok(_) => {
                notices.try_send(()).ok();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch the files; looking at them anyway");
                notices.try_send(()).ok();
            }
        });
        let watcher = watcher.map_err(|error| {
            tracing::error!(%error, "cannot watch the files; use SIGHUP, POST /v1/reload or --poll-files");
        });
        let mut tasks = vec![AbortOnDropHandle::new(tokio::spawn(settled(noticed, events.clone(), settle)))];
        if let Some(period) = poll {
            tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(period).await;
                    if events.send(Event::Files).await.is_err() {
                        return;
                    }
                }
            })));
        }
        Self { watcher: watcher.ok(), followed: BTreeSet::new(), _tasks: tasks }
    }

    /// Watches exactly `folders`.
    pub(crate) fn follow(&mut self, folders: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = folders.iter().cloned().collect();
        for folder in self.followed.difference(&wanted) {
            // A folder that is gone cannot be unwatched, and need not be.
            watcher.unwatch(folder).ok();
        }
        let mut followed: BTreeSet<PathBuf> = self.followed.intersection(&wanted).cloned().collect();
        for folder in wanted.difference(&self.followed) {
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    followed.insert(folder.clone());
                }
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "cannot watch this folder"),
            }
        }
        self.followed = followed;
    }
}

/// Turns a flurry of notices into one event.
async fn settled(mut noticed: mpsc::Receiver<()>, events: mpsc::Sender<Event>, settle: Duration) {
    while noticed.recv().await.is_some() {
        let deadline = tokio::time::Instant::now() + settle * SETTLES_MAX;
        while tokio::time::Instant::now() < deadline {
            match tokio::time::timeout(settle, noticed.recv()).await {
                Ok(Some(())) => {}
                Ok(None) => return,
                Err(_) => break,
            }
        }
        if events.send(Event::Files).await.is_err() {
            return;
        }
    }
}

/// SIGTERM and SIGINT stop (a second one at once), SIGHUP looks at the files.
pub(crate) fn signals(events: mpsc::Sender<Event>) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        let mut stopping = false;
        loop {
            let stop = tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = hangup.recv() => false,
            };
            if stop && stopping {
                tracing::warn!("stopped at once; the next start goes on from the last snapshot");
                #[expect(clippy::disallowed_methods, reason = "this is what was asked for")]
                std::process::exit(130);
            }
            stopping |= stop;
            let event = if stop { Event::Stop } else { Event::Files };
            if stop {
                tracing::info!("stopping; once more to stop at once");
            }
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
