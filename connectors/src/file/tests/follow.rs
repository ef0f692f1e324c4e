//! Files that grow.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;
use tempfile::{TempDir, tempdir};

use super::super::follow::Follow;
use super::super::source::{Files, Start, Step, Steps};
use super::*;

struct Log {
    folder: TempDir,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add(&self, name: &str, text: &str) -> File {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    /// A reader that is stepped by hand, so that nothing depends on time.
    fn follow(&self, path: &str, start: Start, from: &Positions) -> Follow {
        let config = serde_json::from_value(json!({"path": path, "follow": true})).unwrap();
        Follow::open(Files::new(&config, &context(self.folder.path())).unwrap(), start, from).unwrap()
    }
}

/// Steps until there is nothing more for now.
fn read_on(follow: &mut Follow, read: &mut Read) {
    while let Step::Event(event) = follow.step().unwrap() {
        read.take(event);
    }
}

#[tokio::test]
async fn growth_is_seen_and_half_a_line_is_waited_for() {
    let log = Log::new();
    let config = json!({"path": "app.log", "follow": true, "poll_interval": "5ms"});
    let mut source = open(log.folder.path(), config, &Positions::default()).await;
    let mut read = Read::default();
    assert!(read.take(source.next().await.unwrap()));
    assert_eq!(read.partitions, [Vec::<String>::new()], "the file need not be there yet");
    log.add("app.log", "one\ntw");
    read.until(&mut source, 1).await;
    log.add("app.log", "o\nthree\n");
    read.until(&mut source, 3).await;
    assert_eq!(read.lines, ["one", "two", "three"]);
    assert_eq!(read.positions.0.values().copied().collect::<Vec<_>>(), [14]);
}

#[test]
fn half_a_line_is_not_part_of_the_position() {
    let log = Log::new();
    log.add("app.log", "one\ntw");
    let mut read = Read::default();
    read_on(&mut log.follow("app.log", Start::Beginning, &Positions::default()), &mut read);
    assert_eq!(read.lines, ["one"]);
    log.add("app.log", "o\n");
    read_on(&mut log.follow("app.log", Start::Beginning, &read.positions.clone()), &mut read);
    assert_eq!(read.lines, ["one", "two"]);
}

#[test]
fn starting_at_the_end_skips_what_is_there_but_not_what_comes_while_away() {
    let log = Log::new();
    log.add("app.log", "old\nhalf");
    let mut follow = log.follow("*.log", Start::End, &Positions::default());
    let mut read = Read::default();
    read_on(&mut follow, &mut read);
    assert_eq!(read.lines, Vec::<String>::new());
    log.add("app.log", " a line\nnew\n");
    log.add("other.log", "all of it\n");
    read_on(&mut follow, &mut read);
    assert_eq!(read.lines, ["half a line", "new", "all of it"]);
    drop(follow);
    log.add("third.log", "while away\n");
    read_on(&mut log.follow("*.log", Start::End, &read.positions.clone()), &mut read);
    assert_eq!(read.lines[3..], ["while away"]);
}

#[test]
fn a_rotated_file_is_read_to_its_end_and_the_new_one_from_its_beginning() {
    let log = Log::new();
    log.add("app.log", "1\n2\n");
    let mut follow = log.follow("app.log", Start::Beginning, &Positions::default());
    let mut read = Read::default();
    read_on(&mut follow, &mut read);
    fs::rename(log.path("app.log"), log.path("app.log.1")).unwrap();
    log.add("app.log", "4\n");
    // The writer has not noticed yet.
    log.add("app.log.1", "3\n");
    read_on(&mut follow, &mut read);
    read.lines.sort();
    assert_eq!(read.lines, ["1", "2", "3", "4"]);
    assert_eq!(follow.names().len(), 2);
    follow.forget_rotated_at_once();
    log.add("app.log.1", "5");
    read_on(&mut follow, &mut read);
    assert_eq!(read.lines[4..], ["5"], "the last line of a file that is let go");
    assert_eq!(follow.names().len(), 1);
    assert_eq!(read.partitions.last().unwrap(), &follow.names());
}

#[test]
fn a_file_that_was_rotated_while_nobody_looked_is_found_again() {
    let log = Log::new();
    log.add("app.log", "1\n");
    let mut read = Read::default();
    read_on(&mut log.follow("app.log", Start::Beginning, &Positions::default()), &mut read);
    log.add("app.log", "2\n3\n");
    fs::rename(log.path("app.log"), log.path("app.log.1")).unwrap();
    log.add("app.log", "4\n");
    let mut again = Read::default();
    read_on(&mut log.follow("app.log", Start::Beginning, &read.positions), &mut again);
    again.lines.sort();
    assert_eq!(again.lines, ["2", "3", "4"]);
    // The same where the pattern matches the rotated file too.
    let mut again = Read::default();
    read_on(&mut log.follow("app.log*", Start::Beginning, &read.positions), &mut again);
    again.lines.sort();
    assert_eq!(again.lines, ["2", "3", "4"]);
}

#[test]
fn a_file_that_is_cut_is_read_from_its_beginning() {
    let log = Log::new();
    log.add("app.log", "a long first line\n");
    let mut follow = log.follow("app.log", Start::Beginning, &Positions::default());
    let mut read = Read::default();
    read_on(&mut follow, &mut read);
    File::create(log.path("app.log")).unwrap().write_all(b"x\n").unwrap();
    read_on(&mut follow, &mut read);
    assert_eq!(read.lines, ["a long first line", "x"]);
    // Cut and grown beyond the old place before anybody looked.
    File::create(log.path("app.log")).unwrap().write_all(b"a new and longer line\n").unwrap();
    read_on(&mut follow, &mut read);
    assert_eq!(read.lines[2..], ["a new and longer line"]);
}

#[test]
fn compressed_files_of_a_rotation_are_left_out() {
    let log = Log::new();
    log.add("app.log", "1\n");
    log.add("app.log.2.gz", "\x1f\n");
    let mut read = Read::default();
    read_on(&mut log.follow("app.log*", Start::Beginning, &Positions::default()), &mut read);
    assert_eq!(read.lines, ["1"]);
}

#[test]
fn the_header_comes_again_when_the_file_changes() {
    let log = Log::new();
    log.add("a.csv", "id,n\na,1\n");
    log.add("b.csv", "n,id\n2,b\n");
    let mut follow = log.follow("*.csv", Start::Beginning, &Positions::default());
    let mut read = Read::default();
    read_on(&mut follow, &mut read);
    log.add("a.csv", "a,3\n");
    read_on(&mut follow, &mut read);
    assert_eq!(read.headers, ["id,n", "n,id", "id,n"]);
    assert_eq!(read.lines, ["id,n", "a,1", "n,id", "2,b", "a,3"]);
}
