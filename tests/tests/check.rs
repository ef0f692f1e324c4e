//! `millstream check` as a user runs it: everything that is wrong, in one go, at its place, and nothing touched.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream_tests::daemon::run;
use millstream_tests::sandbox::workspace;

/// A copy of tests/bad, so that what is left behind would be seen.
fn bad_files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = workspace().join("tests/bad");
    std::fs::create_dir(folder.path().join("schemas")).unwrap();
    for file in ["everything-wrong.yaml", "schemas/broken.yaml"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("rooms.csv"), "room,floor\n").unwrap();
    folder
}

/// All files below `folder`.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_in(&path));
        }
        files.push(path);
    }
    files.sort();
    files
}

#[test]
fn every_mistake_of_a_file_is_reported_in_one_go_at_its_place() {
    let folder = bad_files();
    let (status, out, err) = run(folder.path(), ["check", "--format", "json", "everything-wrong.yaml"]);
    assert_eq!((status.code(), err.as_str()), (Some(1), ""), "{out}");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let lines = found["problems"].as_array().unwrap().iter().map(|problem| {
        let part = |key: &str| problem[key].as_str().unwrap_or("-").to_owned();
        let place = format!("{}:{}:{}", part("file"), problem["line"], problem["column"]);
        format!("{place} {} | {} | {}", part("path"), part("message"), part("hint"))
    });
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
    assert!(found["errors"].as_u64() >= Some(25));
}

#[test]
fn mistakes_are_shown_for_people_and_as_annotations() {
    let folder = bad_files();
    let (status, out, _) = run(folder.path(), ["check", "everything-wrong.yaml"]);
    assert_eq!(status.code(), Some(1));
    insta::assert_snapshot!("for_people", out);
    let (status, out, _) = run(folder.path(), ["check", "--format", "github", "everything-wrong.yaml"]);
    assert_eq!(status.code(), Some(1));
    insta::assert_snapshot!("for_github", out);
}

#[test]
fn check_writes_nothing() {
    let folder = bad_files();
    std::fs::write(folder.path().join("right.yaml"), RIGHT).unwrap();
    let before = files_in(folder.path());
    for file in ["everything-wrong.yaml", "right.yaml"] {
        run(folder.path(), ["check", file]);
    }
    assert_eq!(files_in(folder.path()), before);
    assert!(!std::env::temp_dir().join("millstream-check").exists());
}

/// Every connector, to hosts that do not answer: packets to 192.0.2.0/24 go nowhere.
const RIGHT: &str = r#"
sources:
  a:
    mqtt: {url: "mqtt://192.0.2.1:1883", topics: [a]}
    columns: {x: int}
  b:
    kafka: {brokers: "192.0.2.1:9092", topics: [b]}
    columns: {x: int}
  c:
    http: {path: /c}
    columns: {x: int}
steps:
  all:
    sql: SELECT x FROM a UNION ALL SELECT x FROM b UNION ALL SELECT x FROM c
sinks:
  mqtt: {from: all, mqtt: {url: "mqtt://192.0.2.1:1883", topic: out}}
  kafka: {from: all, kafka: {brokers: "192.0.2.1:9092", topic: out}}
  http: {from: all, http: {url: "http://192.0.2.1/out"}}
  file: {from: all, file: {path: out/rows.jsonl}}
"#;

#[test]
fn check_opens_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("right.yaml"), RIGHT).unwrap();
    let started = Instant::now();
    let (status, out, err) = run(folder.path(), ["check", "right.yaml"]);
    assert_eq!((status.code(), out.as_str(), err.as_str()), (Some(0), "1 pipeline can run\n", ""));
    // A connection that is tried would wait for much longer.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn all_profiles_are_checked_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let profile = "profiles:\n  lab:\n    steps:\n      all:\n        sql: SELECT y FROM a\n";
    std::fs::write(folder.path().join("right.yaml"), format!("{RIGHT}{profile}")).unwrap();
    assert_eq!(run(folder.path(), ["check", "right.yaml"]).0.code(), Some(0));
    assert_eq!(run(folder.path(), ["check", "--profile", "lab", "right.yaml"]).0.code(), Some(1));
    let (status, out, _) = run(folder.path(), ["check", "--all-profiles", "right.yaml"]);
    assert_eq!(status.code(), Some(1));
    assert!(out.contains("with the profile `lab`: there is no column `y`"), "{out}");
}
