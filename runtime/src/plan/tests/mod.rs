//! What `check` says, as a user sees it: YAML in, rendered mistakes out.

mod drafts;
mod projection;
mod sql;
mod updating;

use std::path::Path;
use std::sync::Arc;

use millstream_connectors::routes::Routes;

use super::{Environment, Plan};
use crate::functions::Engine;
use crate::spec::{LoadOptions, Located, load_text, render};

fn environment() -> Environment {
    Environment {
        functions: Engine::new(None).unwrap(),
        routes: Arc::new(Routes::default()),
        data_dir: "never-written".into(),
    }
}

/// All mistakes of a text that stands in `file`.
async fn located(file: &Path, text: &str) -> Vec<Located> {
    let loaded = load_text(file, text, &LoadOptions::default());
    let environment = environment();
    let further = match (&loaded.spec, &loaded.draft) {
        (Some(spec), _) => Box::pin(Plan::build(file, spec, &environment)).await.1,
        (None, Some(draft)) => Box::pin(Plan::judge(file, draft, &environment)).await,
        (None, None) => Vec::new(),
    };
    loaded.located(&further)
}

/// Runs on a thread with the stack of tokio's workers, which is what the daemon has.
fn on_worker<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(work).await.unwrap() })
}

/// What a user sees.
fn shown(text: &str) -> String {
    let text = text.to_owned();
    on_worker(async move { render::human(&located(Path::new("p.yaml"), &text).await, false) })
}

#[test]
fn what_nobody_reads_is_warned_about_once() {
    let text = "sources:\n  a: {http: {}, columns: {v: double}}\n  lone: {http: {path: /lone}, columns: {v: double}}\n\
                steps: {s: {sql: select v from a}}\nsinks: {o: {from: s, stdout: {}}}\n";
    let found = on_worker(async move { located(std::path::Path::new("p.yaml"), text).await });
    let shown: Vec<String> = found.iter().map(|found| format!("{} {}", found.location.line, found.message)).collect();
    assert_eq!(shown, ["3 no step and no sink reads the source `lone`"]);
}
