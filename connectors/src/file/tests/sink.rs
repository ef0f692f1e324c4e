//! Files that are written.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use tempfile::{TempDir, tempdir};

use super::super::FileSinkConfig;
use super::*;
use crate::{ErrorKind, Sink, SinkContext};

struct Out {
    folder: TempDir,
    config: Value,
    format: Value,
}

impl Out {
    fn new(config: Value, format: Value) -> Self {
        Self { folder: tempdir().unwrap(), config, format }
    }

    fn build(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        let context = SinkContext {
            pipeline: "p".into(),
            name: "s".into(),
            base_dir: self.folder.path().into(),
            columns: rows(&[]).schema(),
            format: serde_json::from_value(self.format.clone()).unwrap(),
            routes: Default::default(),
        };
        serde_json::from_value::<FileSinkConfig>(self.config.clone()).unwrap().build(&context)
    }

    async fn open(&self, restored: Option<&[u8]>) -> Box<dyn Sink> {
        let mut sink = self.build().unwrap();
        sink.open(restored).await.unwrap();
        sink
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The names of the files, in order; hidden ones only if asked for.
    fn names(&self, hidden: bool) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| hidden == name.starts_with('.')).collect();
        names.sort();
        names
    }
}

async fn flush(sink: &mut Box<dyn Sink>) -> Vec<u8> {
    sink.flush().await.unwrap().state.unwrap()
}

/// A whole checkpoint.
async fn checkpoint(sink: &mut Box<dyn Sink>) -> Vec<u8> {
    let state = flush(sink).await;
    sink.committed().await.unwrap();
    state
}

#[tokio::test]
async fn rows_appear_at_once_and_a_crash_cuts_back_to_the_snapshot() {
    let out = Out::new(json!({"path": "sub/out.jsonl"}), json!(null));
    let mut sink = out.open(None).await;
    sink.write(&rows(&[("a", 1)])).await.unwrap();
    assert_eq!(out.text("sub/out.jsonl"), "{\"id\":\"a\",\"n\":1}\n");
    let state = flush(&mut sink).await;
    sink.write(&rows(&[("b", 2), ("c", 3)])).await.unwrap();
    drop(sink);
    // A crash in the middle of a write.
    let torn = format!("{}{{\"id\":\"d", out.text("sub/out.jsonl"));
    fs::write(out.path("sub/out.jsonl"), torn).unwrap();
    let mut sink = out.open(Some(&state)).await;
    assert_eq!(out.text("sub/out.jsonl"), "{\"id\":\"a\",\"n\":1}\n");
    sink.write(&rows(&[("b", 2)])).await.unwrap();
    sink.close().await.unwrap();
    assert_eq!(out.text("sub/out.jsonl"), "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":2}\n");
}

#[tokio::test]
async fn what_others_did_to_the_file_is_never_cut_off() {
    let out = Out::new(json!({"path": "out.jsonl"}), json!(null));
    let mut sink = out.open(None).await;
    sink.write(&rows(&[("a", 1)])).await.unwrap();
    let state = flush(&mut sink).await;
    drop(sink);
    // Rotated away, and another file put in its place.
    fs::rename(out.path("out.jsonl"), out.path("old.jsonl")).unwrap();
    fs::write(out.path("out.jsonl"), "a much longer line that is somebody else's, and not ended").unwrap();
    let mut sink = out.open(Some(&state)).await;
    sink.write(&rows(&[("b", 2)])).await.unwrap();
    assert_eq!(
        out.text("out.jsonl"),
        "a much longer line that is somebody else's, and not ended\n{\"id\":\"b\",\"n\":2}\n"
    );
    assert_eq!(out.text("old.jsonl"), "{\"id\":\"a\",\"n\":1}\n");
}

#[tokio::test]
async fn what_to_do_with_a_file_that_exists_is_asked_once() {
    for (if_exists, expected) in
        [("append", Some("x\n{\"id\":\"a\",\"n\":1}\n")), ("replace", Some("{\"id\":\"a\",\"n\":1}\n")), ("fail", None)]
    {
        let out = Out::new(json!({"path": "out.jsonl", "if_exists": if_exists}), json!(null));
        fs::write(out.path("out.jsonl"), "x\n").unwrap();
        let mut sink = out.build().unwrap();
        match (sink.open(None).await, expected) {
            (Err(error), None) => {
                assert_eq!((error.kind, error.option.as_deref()), (ErrorKind::Configuration, Some("path")))
            }
            (Ok(()), Some(expected)) => {
                sink.write(&rows(&[("a", 1)])).await.unwrap();
                assert_eq!(out.text("out.jsonl"), expected);
                let state = flush(&mut sink).await;
                drop(sink);
                drop(out.open(Some(&state)).await);
                assert_eq!(out.text("out.jsonl"), expected, "a restart replaces nothing");
            }
            (result, expected) => panic!("{if_exists}: {result:?}, {expected:?}"),
        }
    }
}

#[tokio::test]
async fn csv_has_one_header_and_no_other_columns_beneath_it() {
    let out = Out::new(json!({"path": "out.csv"}), json!("csv"));
    let mut sink = out.open(None).await;
    sink.write(&rows(&[("a", 1)])).await.unwrap();
    let state = flush(&mut sink).await;
    drop(sink);
    let mut sink = out.open(Some(&state)).await;
    sink.write(&rows(&[("b,", 2)])).await.unwrap();
    assert_eq!(out.text("out.csv"), "id,n\na,1\n\"b,\",2\n");
    drop(sink);
    fs::write(out.path("out.csv"), "id,n,more\na,1,2\n").unwrap();
    let error = out.build().unwrap().open(None).await.unwrap_err();
    assert!(error.message.contains("does not start with the header `id,n`"), "{error}");
}

#[tokio::test]
async fn two_sinks_on_one_file_are_refused() {
    let out = Out::new(json!({"path": "out.jsonl"}), json!(null));
    let _first = out.open(None).await;
    let error = out.build().unwrap().open(None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.message.contains("is being written by another sink"), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_a_reason_to_try_again() {
    let out = Out::new(json!({"path": "/dev/full"}), json!(null));
    let mut sink = out.build().unwrap();
    // A device can be neither locked nor synced everywhere; the write is what must fail.
    if sink.open(None).await.is_ok() {
        let error = sink.write(&rows(&[("a", 1)])).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Retry);
        assert!(error.message.contains("the disk (or quota) is full"), "{error}");
        assert!(sink.write(&rows(&[("b", 1)])).await.is_err(), "no row after a gap");
        assert!(sink.flush().await.is_err());
    } else {
        panic!("/dev/full cannot be opened");
    }
}

#[tokio::test]
async fn files_are_published_whole_when_a_checkpoint_covers_them() {
    let out = Out::new(json!({"path": "out.csv", "roll": {"rows": 2}}), json!("csv"));
    let mut sink = out.open(None).await;
    sink.write(&rows(&[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)])).await.unwrap();
    assert_eq!(out.names(false), Vec::<String>::new(), "nothing is visible before its checkpoint");
    flush(&mut sink).await;
    assert_eq!(out.names(false), Vec::<String>::new());
    sink.committed().await.unwrap();
    assert_eq!(out.names(false), ["out-000001.csv", "out-000002.csv"]);
    assert_eq!(out.text("out-000002.csv"), "id,n\nc,3\nd,4\n");
    assert_eq!(out.names(true), [".out-000003.csv.p.s.part"]);
    sink.close().await.unwrap();
    assert_eq!(out.text("out-000003.csv"), "id,n\ne,5\n", "the end of the pipeline publishes the rest");
    assert_eq!(out.names(true), Vec::<String>::new());
    // A new pipeline with the same path overwrites nothing.
    let mut sink = out.open(None).await;
    sink.write(&rows(&[("f", 6), ("g", 7)])).await.unwrap();
    checkpoint(&mut sink).await;
    assert_eq!(out.text("out-000004.csv"), "id,n\nf,6\ng,7\n");
}

#[tokio::test]
async fn every_row_is_published_once_wherever_the_crash_is() {
    // Rows 0.. are written in uneven batches; after `crash` actions the sink is dropped, and all goes on from the last
    // complete checkpoint, as the runtime does it.
    for crash in 0..40 {
        let out = Out::new(json!({"path": "out.jsonl", "roll": {"size": "70B", "rows": 4}}), json!(null));
        let (mut actions, mut restored, mut sent): (i32, Option<Vec<u8>>, i64) = (0, None, 0);
        let mut crashed = false;
        'run: loop {
            let mut sink = out.open(restored.as_deref()).await;
            let mut next = sent;
            for step in 0.. {
                let mut dies = || {
                    actions += 1;
                    actions == crash && !std::mem::replace(&mut crashed, true)
                };
                if next >= 30 {
                    break;
                }
                let batch: Vec<_> = (next..(next + 1 + step % 4).min(30)).map(|n| ("r", n)).collect();
                sink.write(&rows(&batch)).await.unwrap();
                next += batch.len() as i64;
                if dies() {
                    continue 'run;
                }
                if step % 3 == 1 {
                    let state = flush(&mut sink).await;
                    if dies() {
                        continue 'run;
                    }
                    (restored, sent) = (Some(state), next);
                    if dies() {
                        continue 'run; // The epoch is complete, and the sink never heard of it.
                    }
                    sink.committed().await.unwrap();
                    if dies() {
                        continue 'run;
                    }
                }
            }
            checkpoint(&mut sink).await;
            sink.close().await.unwrap();
            break;
        }
        let all: String = out.names(false).iter().map(|name| out.text(name)).collect();
        let expected: String = (0..30).map(|n| format!("{{\"id\":\"r\",\"n\":{n}}}\n")).collect();
        assert_eq!(all, expected, "crash at action {crash}");
        assert_eq!(out.names(true), Vec::<String>::new(), "crash at action {crash}");
        assert!(out.names(false).iter().all(|name| out.text(name).len() <= 70));
    }
}

#[tokio::test]
async fn a_file_that_was_cut_by_others_is_a_loud_error() {
    let out = Out::new(json!({"path": "out.jsonl", "roll": {"rows": 100}}), json!(null));
    let mut sink = out.open(None).await;
    sink.write(&rows(&[("a", 1)])).await.unwrap();
    let state = checkpoint(&mut sink).await;
    drop(sink);
    fs::write(out.path(&out.names(true)[0]), "").unwrap();
    let error = out.build().unwrap().open(Some(&state)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal);
    assert!(error.message.contains("has 0 bytes, but the last checkpoint covers 17"), "{error}");
}

#[tokio::test]
async fn time_ends_a_file_even_where_no_row_comes_any_more() {
    let out = Out::new(json!({"path": "%Y/{sequence}.jsonl", "roll": {"every": "20ms"}}), json!(null));
    let mut sink = out.open(None).await;
    assert!(sink.next_tick().is_none(), "nothing waits");
    sink.write(&rows(&[("a", 1)])).await.unwrap();
    let state = checkpoint(&mut sink).await;
    tokio::time::sleep_until(sink.next_tick().unwrap() + Duration::from_millis(2)).await;
    sink.tick().await.unwrap();
    assert!(sink.next_tick().is_none());
    let year = out.names(false).remove(0);
    assert_eq!(out.text(&format!("{year}/000001.jsonl")), "{\"id\":\"a\",\"n\":1}\n");
    // The snapshot still names it as open; after a restart the next file is begun.
    drop(sink);
    let mut sink = out.open(Some(&state)).await;
    sink.write(&rows(&[("b", 2)])).await.unwrap();
    checkpoint(&mut sink).await;
    sink.close().await.unwrap();
    assert_eq!(out.text(&format!("{year}/000002.jsonl")), "{\"id\":\"b\",\"n\":2}\n");
}

#[tokio::test]
async fn other_columns_begin_another_file() {
    let mut out = Out::new(json!({"path": "out.csv", "roll": {"rows": 100}}), json!("csv"));
    let mut sink = out.open(None).await;
    sink.write(&rows(&[("a", 1)])).await.unwrap();
    let state = checkpoint(&mut sink).await;
    drop(sink);
    out.format = json!({"csv": {"delimiter": ";"}});
    let mut sink = out.open(Some(&state)).await;
    sink.write(&rows(&[("b", 2)])).await.unwrap();
    checkpoint(&mut sink).await;
    sink.close().await.unwrap();
    assert_eq!(out.text("out-000001.csv"), "id,n\na,1\n");
    assert_eq!(out.text("out-000002.csv"), "id;n\nb;2\n");
}

#[test]
fn options_that_cannot_work_are_refused_at_load() {
    for (config, format, option) in [
        (json!({"path": ""}), json!(null), "path"),
        (json!({"path": "a/"}), json!(null), "path"),
        (json!({"path": "a", "roll": {}}), json!(null), "roll"),
        (json!({"path": "a", "roll": {"rows": 0}}), json!(null), "roll.rows"),
        (json!({"path": "a-%!", "roll": {"rows": 1}}), json!(null), "path"),
        (json!({"path": "a", "roll": {"rows": 1}, "if_exists": "replace"}), json!(null), "if_exists"),
        (json!({"path": "a"}), json!("bytes"), "format"),
        (json!({"path": "a"}), json!("text"), "format"),
    ] {
        let error = Out::new(config, format).build().err().unwrap();
        assert_eq!(error.option.as_deref(), Some(option), "{error}");
    }
}
