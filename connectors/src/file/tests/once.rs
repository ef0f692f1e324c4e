//! Files that are read once.

use std::fs;
use std::io::Write;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use serde_json::json;
use tempfile::tempdir;

use super::*;

#[tokio::test]
async fn every_line_is_a_message_also_a_last_one_without_its_line_break() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "\u{feff}one\r\n\n  \ntwo\nthree\nfour").unwrap();
    let mut source = open(folder.path(), json!({"path": "a.txt"}), &Positions::default()).await;
    let read = Read::to_end(&mut source).await.unwrap();
    assert_eq!(read.lines, ["one", "two", "three", "four"]);
    assert_eq!(read.headers, ["one"]);
    assert_eq!(read.partitions, [["a.txt"]]);
    assert_eq!(read.positions.get("a.txt"), Some(26));
    let mut source = open(folder.path(), json!({"path": "a.txt"}), &read.positions).await;
    assert_eq!(Read::to_end(&mut source).await.unwrap().lines, Vec::<String>::new(), "it was read to its end");
    let config = json!({"path": "a.txt", "skip_blank_lines": false});
    let mut source = open(folder.path(), config, &Positions::default()).await;
    assert_eq!(Read::to_end(&mut source).await.unwrap().lines, ["one", "", "  ", "two", "three", "four"]);
}

#[tokio::test]
async fn reading_goes_on_after_the_last_batch_wherever_it_was_stopped() {
    let folder = tempdir().unwrap();
    let text: String = (0..50).map(|i| format!("line {i}\n")).collect();
    for name in ["a.log", "b.log", "c.log.gz", "d.log.zst"] {
        let path = folder.path().join(name);
        match name.rsplit_once('.').unwrap().1 {
            "gz" => {
                let mut gz = flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), Default::default());
                gz.write_all(text.as_bytes()).unwrap();
                gz.finish().unwrap();
            }
            "zst" => fs::write(path, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap(),
            _ => fs::write(path, &text).unwrap(),
        }
    }
    fs::write(folder.path().join(".hidden.log"), "no\n").unwrap();
    let config = json!({"path": "*.log*"});
    let whole = Read::to_end(&mut open(folder.path(), config.clone(), &Positions::default()).await).await.unwrap();
    assert_eq!(whole.lines.len(), 200);
    assert_eq!(whole.partitions[0], ["a.log", "b.log", "c.log.gz", "d.log.zst"]);
    assert_eq!(whole.partitions[1], ["b.log", "c.log.gz", "d.log.zst"], "a file at its end holds nobody back");
    // Stop after every batch, and open again.
    let (mut lines, mut positions) = (Vec::new(), Positions::default());
    'files: loop {
        let mut source = open(folder.path(), config.clone(), &positions).await;
        loop {
            match source.next().await.unwrap() {
                SourceEvent::Messages(batch) => {
                    lines.extend(super::lines(&batch));
                    positions.set(&batch.partition, batch.next_position);
                    break;
                }
                SourceEvent::End => break 'files,
                _ => {}
            }
        }
    }
    assert_eq!(lines, whole.lines);
}

#[tokio::test]
async fn metadata_says_file_and_place() {
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    fs::write(folder.path().join("in/x.log"), "ab\n\ncdé\nf\n").unwrap();
    let mut source = open(folder.path(), json!({"path": "in/?.log"}), &Positions::default()).await;
    loop {
        if let SourceEvent::Messages(batch) = source.next().await.unwrap() {
            assert_eq!(batch.metadata[0].as_string::<i32>().value(2), "in/x.log");
            assert_eq!(batch.metadata[1].as_primitive::<Int64Type>().values(), &[0, 4, 9]);
            assert_eq!(
                super::super::METADATA.iter().map(|field| field.name).collect::<Vec<_>>(),
                ["path", "line_offset"]
            );
            for (field, column) in super::super::METADATA.iter().zip(&batch.metadata) {
                assert_eq!(&field.data_type, column.data_type());
            }
            break;
        }
    }
}

#[tokio::test]
async fn a_file_that_was_replaced_by_another_is_read_from_its_beginning() {
    let folder = tempdir().unwrap();
    let mut positions = Positions::default();
    positions.set("a.txt", 6);
    for content in ["x\n", "a longer line than before\n"] {
        fs::write(folder.path().join("a.txt"), content).unwrap();
        let mut source = open(folder.path(), json!({"path": "a.txt"}), &positions).await;
        assert_eq!(Read::to_end(&mut source).await.unwrap().lines, [content.trim_end()]);
    }
}

#[tokio::test]
async fn a_line_beyond_the_limit_is_an_error_that_names_its_place() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), format!("ok\n{}\nok\n", "x".repeat(2_000_000))).unwrap();
    let mut source = open(folder.path(), json!({"path": "a.txt"}), &Positions::default()).await;
    let error = Read::to_end(&mut source).await.unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Fatal);
    assert!(error.message.contains("the line at byte 3 is longer than `line_max` (1048576 bytes)"), "{error}");
    let mut source = open(folder.path(), json!({"path": "a.txt", "line_max": "4MiB"}), &Positions::default()).await;
    assert_eq!(Read::to_end(&mut source).await.unwrap().lines.len(), 3);
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let folder = tempdir().unwrap();
    for path in ["none.txt", "*.none"] {
        let error = build(folder.path(), json!({"path": path})).unwrap().open(&Positions::default()).await.unwrap_err();
        assert_eq!(error.kind, crate::ErrorKind::Retry);
        assert!(error.message.contains(path), "{error}");
    }
}

#[test]
fn options_that_cannot_work_are_refused_at_load() {
    let folder = tempdir().unwrap();
    for (config, option) in [
        (json!({"path": ""}), "path"),
        (json!({"path": "a[", "follow": true}), "path"),
        (json!({"path": "a", "start": "end"}), "start"),
        (json!({"path": "a", "follow": true, "compression": "gzip"}), "compression"),
        (json!({"path": "a", "line_max": "0B"}), "line_max"),
        (json!({"path": "a", "poll_interval": "0s"}), "poll_interval"),
    ] {
        let error = build(folder.path(), config).err().unwrap();
        assert_eq!(error.option.as_deref(), Some(option));
    }
    assert!(serde_json::from_value::<FileSourceConfig>(json!({"path": "a", "folow": true})).is_err());
}

#[tokio::test]
async fn a_next_that_is_dropped_loses_nothing() {
    let folder = tempdir().unwrap();
    let text: String = (0..200).map(|i| format!("{i}\n")).collect();
    fs::write(folder.path().join("a.txt"), text).unwrap();
    let mut source = open(folder.path(), json!({"path": "a.txt"}), &Positions::default()).await;
    let mut read = Read::default();
    loop {
        // Polled once and dropped, as a `select!` does.
        if let std::task::Poll::Ready(event) = futures::poll!(source.next()) {
            if !read.take(event.unwrap()) {
                break;
            }
        } else {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(read.lines, (0..200).map(|i| i.to_string()).collect::<Vec<_>>());
}
