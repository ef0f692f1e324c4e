//! `millstream demo`, as a newcomer meets it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use millstream_tests::daemon::Daemon;
use millstream_tests::services::free_port;
use tempfile::TempDir;

/// Whatever is waited for comes within so long.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A copy of the shipped pipelines and contracts that a test may edit.
fn copy() -> TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    for part in ["pipelines", "pipelines/data", "pipelines/udf", "schemas"] {
        std::fs::create_dir_all(folder.path().join(part)).unwrap();
        let files = std::fs::read_dir(root.join(part)).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.is_file()) {
            std::fs::copy(&file, folder.path().join(part).join(file.file_name().unwrap())).unwrap();
        }
    }
    folder
}

fn start(folder: &Path, stop_after: &str) -> Daemon {
    let mqtt = free_port().to_string();
    let listen = ["demo", "--listen", "127.0.0.1:{port}", "--mqtt-port", &mqtt, "--stop-after", stop_after];
    Daemon::start(folder, &listen, &[])
}

/// The data of the first row with `text` in it, as the `sse` sink sends it.
async fn live_row(demo: &Daemon, text: &str) -> serde_json::Value {
    let client = reqwest::Client::new();
    let request = client.get(demo.url("/live/cold-chain/live")).header("accept", "text/event-stream");
    let mut stream = request.send().await.unwrap().error_for_status().unwrap().bytes_stream();
    let mut seen = String::new();
    let row = async {
        while let Some(bytes) = stream.next().await {
            seen += &String::from_utf8_lossy(&bytes.unwrap());
            let complete = seen.rsplit_once("\n\n").map_or("", |(complete, _)| complete);
            let row = complete.lines().filter_map(|line| line.strip_prefix("data: ")).find(|row| row.contains(text));
            if let Some(row) = row {
                return serde_json::from_str(row).unwrap();
            }
        }
        panic!("the stream ended")
    };
    match tokio::time::timeout(TIMEOUT, row).await {
        Ok(row) => row,
        Err(_) => panic!("no row with `{text}`; the demo wrote:\n{}", demo.output()),
    }
}

fn edit(file: &PathBuf, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_alarms_and_takes_a_change_of_its_pipeline_live() {
    let folder = copy();
    let mut demo = start(folder.path(), "10m");
    demo.healthy().await;
    demo.wait_for_output("Now edit pipelines/cold-chain.yaml").await;

    // Alarms that were computed from what went through the broker: on the listener, and on the terminal.
    let row = live_row(&demo, "truck-").await;
    assert!(row["bay_c"].as_f64().unwrap() > row["max_c"].as_f64().unwrap(), "{row}");
    assert!(row["dew_point_c"].is_f64() && row["depot"].is_string(), "{row}");
    demo.wait_for_output("cold-chain/live\n").await;
    demo.wait_for_output(row["vehicle"].as_str().unwrap()).await;

    // A mistake is shown with its place, and what runs goes on.
    let file = folder.path().join("pipelines/cold-chain.yaml");
    edit(&file, "WHERE bay_c > max_c", "WHERE bay_c > max_d");
    demo.wait_for_output("What ran before goes on").await;
    demo.wait_for_output("pipelines/cold-chain.yaml:").await;
    demo.wait_for_output("max_c").await;
    live_row(&demo, "truck-").await;

    // A change goes live.
    edit(&file, "WHERE bay_c > max_d", "WHERE bay_c > max_c - 50");
    edit(&file, "'warm' END AS level", "'fine' END AS level");
    demo.wait_for_output("cold-chain: your change is live").await;
    live_row(&demo, "\"fine\"").await;

    assert!(demo.terminate().success(), "{}", demo.output());
    assert!(demo.output().contains("The demo has stopped."));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_stops_by_itself_where_it_is_told_to_and_leaves_nothing_behind() {
    let folder = copy();
    let temporary = tempfile::tempdir().unwrap();
    let mqtt = free_port().to_string();
    let arguments = ["demo", "--listen", "127.0.0.1:{port}", "--mqtt-port", &mqtt, "--stop-after", "3s"];
    let mut demo = Daemon::start(folder.path(), &arguments, &[("TMPDIR", temporary.path().to_str().unwrap())]);
    let deadline = Instant::now() + TIMEOUT;
    while demo.ended().is_none() {
        assert!(Instant::now() < deadline, "{}", demo.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(demo.ended().unwrap().success(), "{}", demo.output());
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_without_pipelines_says_where_they_are_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (status, _, stderr) = millstream_tests::daemon::run(folder.path(), ["demo"]);
    assert!(!status.success());
    assert!(stderr.contains("no folder `pipelines`") && stderr.contains("--pipelines"), "{stderr}");
}
