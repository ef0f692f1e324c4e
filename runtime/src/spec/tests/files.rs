//! Contracts, folders of pipelines, and files that cannot be read.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::super::{LoadOptions, Loaded, find, load, name_clashes, problem::Problem, render};
use super::GOOD;

fn loaded(files: &[(&str, &str)], main: &str) -> (tempfile::TempDir, Loaded) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let loaded = load(&folder.path().join(main), &LoadOptions::default());
    (folder, loaded)
}

fn with_contract(name: &str) -> String {
    GOOD.replace("columns: {ts: timestamp, v: double}", &format!("schema: {name}"))
}

const CONTRACT: &str = "description: x\ncolumns:\n  ts: timestamp\n  v: {type: double, nullable: false}\n";

#[test]
fn a_contract_brings_its_columns_with_their_places() {
    for (place, name) in [
        ("pipelines/schemas/telemetry.yaml", "telemetry"),
        ("schemas/telemetry.yml", "telemetry"),
        ("schemas/telemetry.yaml", "../schemas/telemetry.yaml"),
    ] {
        let (folder, loaded) =
            loaded(&[("pipelines/p.yaml", &with_contract(name)), (place, CONTRACT)], "pipelines/p.yaml");
        let spec = loaded.spec.as_ref().unwrap_or_else(|| panic!("{:?}", loaded.problems));
        let columns = spec.sources["readings"].resolved_columns().unwrap();
        assert_eq!(columns.keys().collect::<Vec<_>>(), ["ts", "v"]);
        assert!(!columns["v"].nullable());
        let at = loaded.map.locate(&Problem::new(["sources", "readings", "columns", "v", "type"], "no type"));
        assert_eq!(at.file.canonicalize().unwrap(), folder.path().join(place).canonicalize().unwrap());
        assert_eq!((at.line, at.column, at.end_column), (4, 13, 19));
        assert_eq!(loaded.files_read, [at.file]);
    }
}

#[test]
fn mistakes_about_contracts_are_told() {
    let contract = |text: &str, name: &str| {
        let (folder, loaded) = loaded(
            &[("p.yaml", &with_contract(name)), ("schemas/telemetry.yaml", text), ("schemas/a.proto", "")],
            "p.yaml",
        );
        assert!(loaded.spec.is_none());
        let shown = render::human(&loaded.located(&[]), false);
        shown.replace(&folder.path().display().to_string(), "")
    };
    let shown = contract("columns: {ts: timestamp, v: {typ: double}}\nextra: 1\n", "telemetry");
    assert!(shown.contains("--> /schemas/telemetry.yaml:1:30"), "{shown}");
    assert!(
        shown.contains("`extra` is not a key here") && shown.contains("--> /schemas/telemetry.yaml:2:1"),
        "{shown}"
    );
    let shown = contract(CONTRACT, "telemtry");
    assert!(shown.contains("did you mean `telemetry`?") && shown.contains("--> /p.yaml:4:13"), "{shown}");
    assert!(contract(CONTRACT, "a").contains("contracts in .proto are not read yet"));
    assert!(contract(CONTRACT, "x/a.avsc").contains("contracts in .avsc are not read yet"));
    let shown = contract("columns: {t: timestamp}", "telemetry");
    assert!(shown.contains("`ts` is no column of `readings`"), "{shown}");
    let shown = contract(CONTRACT, "telemetry\n    columns: {ts: timestamp}");
    assert!(shown.contains("`schema` and `columns` are both given"), "{shown}");
}

#[test]
fn folders_are_searched_for_yaml_only() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("schemas")).unwrap();
    fs::create_dir_all(at("..data")).unwrap();
    fs::create_dir_all(at("folder.yaml")).unwrap();
    for name in ["b.yaml", "a.yml", "c.json", ".hidden.yaml", "schemas/x.yaml", "..data/real.yaml"] {
        fs::write(at(name), GOOD).unwrap();
    }
    std::os::unix::fs::symlink(at("..data/real.yaml"), at("linked.yaml")).unwrap();
    std::os::unix::fs::symlink(at("gone"), at("dangling.yaml")).unwrap();
    let (files, problems) = find(&[folder.path().to_owned(), at("b.yaml"), at("c.json"), at("missing.yaml")]);
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["a.yml", "b.yaml", "c.json", "dangling.yaml", "linked.yaml"]);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].file, Some(at("missing.yaml")));
    let dangling = load(&at("dangling.yaml"), &LoadOptions::default());
    assert!(dangling.problems[0].message.contains("cannot be read"), "{:?}", dangling.problems);
}

#[test]
fn two_pipelines_of_the_same_name_are_both_named() {
    let one = super::load_plain(&format!("name: Same\n{GOOD}"));
    let mut two = super::load_plain(&format!("name: same\n{GOOD}"));
    two.file = PathBuf::from("other.yaml");
    let loaded = [&one, &two, &super::load_plain(GOOD)];
    let clashes = name_clashes(&loaded, &BTreeMap::new());
    assert_eq!(clashes.len(), 1);
    assert_eq!(clashes[0].0, 1);
    assert_eq!(clashes[0].1.message, "two pipelines are named `same`: p.yaml and other.yaml");
    // The file that runs has the name, wherever it stands.
    let running = |name: &str| BTreeMap::from([(name.to_owned(), PathBuf::from("other.yaml"))]);
    let clashes = name_clashes(&loaded, &running("same"));
    assert_eq!(clashes.len(), 1);
    assert_eq!(clashes[0].0, 0);
    assert_eq!(clashes[0].1.message, "two pipelines are named `Same`: other.yaml and p.yaml");
    // A file that has taken another name has given up the one by which it runs.
    assert_eq!(name_clashes(&loaded, &running("p"))[0].0, 1);
    // One that says nothing any more has not.
    let mut broken = super::load_plain("name: [");
    broken.file = PathBuf::from("other.yaml");
    assert!(name_clashes(&[&one, &broken], &running("Same")).iter().any(|(index, _)| *index == 0));
}

#[test]
fn a_file_that_is_not_utf8_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), b"name: x\nlabels: {a: \xff}\n").unwrap();
    let loaded = load(&folder.path().join("p.yaml"), &LoadOptions::default());
    assert!(loaded.problems[0].message.contains("not UTF-8: line 2"), "{:?}", loaded.problems);
}
