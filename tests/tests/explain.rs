//! `millstream explain` tells every pipeline that is here, in words that the user knows.

use std::path::{Path, PathBuf};

use millstream_tests::daemon;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The shipped pipelines, those of the golden tests and those of Nexmark.
fn pipelines() -> Vec<PathBuf> {
    let list = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let golden = list(root().join("pipelines/tests")).map(|folder| folder.join("pipeline.yaml"));
    let mut files: Vec<PathBuf> = list(root().join("pipelines")).collect();
    files.extend(golden.filter(|file| file.exists()));
    files.extend(list(root().join("tests/nexmark")));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// What `millstream explain` says.
fn explained(input: &Path, arguments: &[&str]) -> (bool, String, String) {
    let mut command = std::process::Command::new(daemon::binary());
    command.arg("explain").args(arguments).env("INPUT", input).env("OUTPUT", input);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// The names that the plan gives to columns and inputs, and that nobody wrote.
fn internal_names(text: &str) -> Vec<&str> {
    let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let numbered = |word: &str, prefix: &str| {
        word.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()))
    };
    words.filter(|word| word.starts_with("__") || numbered(word, "c") || word.starts_with("placeholder_")).collect()
}

#[test]
fn a_folder_is_explained_file_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().display().to_string();
    let (success, _, errors) = explained(folder.path(), &[&shown]);
    assert!(!success && errors.contains("there is no *.yaml or *.yml file in"), "{errors}");
    let yaml = "sources: {s: {generate: {columns: {n: {sequence: {}}}}}}\nsinks: {o: {from: s, stdout: {}}}\n";
    for name in ["one", "two"] {
        std::fs::write(folder.path().join(format!("{name}.yaml")), yaml).unwrap();
    }
    let (success, text, errors) = explained(folder.path(), &[&shown]);
    assert!(success && text.contains("one") && text.contains("two"), "{text}{errors}");
    let (success, _, errors) = explained(folder.path(), &[&shown, "--format", "json"]);
    assert!(!success && errors.contains("is a folder"), "{errors}");
    std::fs::write(folder.path().join("three.yaml"), yaml.replace("from: s", "from: x")).unwrap();
    let (success, text, errors) = explained(folder.path(), &[&shown]);
    assert!(!success && text.contains("two") && errors.contains("three.yaml"), "{text}{errors}");
}

#[test]
fn every_pipeline_is_explained_without_names_that_nobody_wrote() {
    let input = tempfile::tempdir().unwrap();
    ::nexmark::feed::write_side_input(input.path()).unwrap();
    let mut wrong = Vec::new();
    for file in pipelines() {
        let shown = file.display().to_string();
        let (success, text, errors) = explained(input.path(), &[&shown]);
        if !success {
            wrong.push(format!("{shown}:\n{errors}"));
            continue;
        }
        let names = internal_names(&text);
        if !names.is_empty() {
            wrong.push(format!("{shown} shows {names:?}:\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn a_step_can_be_had_as_json_and_as_a_flowchart() {
    let input = tempfile::tempdir().unwrap();
    let file = root().join("pipelines/cold-chain.yaml").display().to_string();
    let (success, text, errors) = explained(input.path(), &[&file, "bays", "--format", "json"]);
    assert!(success, "{errors}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["step"], "bays");
    assert_eq!(json["stages"][0]["operators"][0]["source"]["connector"], "mqtt");
    let (success, text, errors) = explained(input.path(), &[&file, "--format", "mermaid"]);
    assert!(success && text.starts_with("flowchart LR\n"), "{text}{errors}");
}

#[test]
fn mistakes_are_those_that_the_check_shows() {
    let input = tempfile::tempdir().unwrap();
    let file = root().join("tests/bad/everything-wrong.yaml").display().to_string();
    let (success, text, errors) = explained(input.path(), &[&file]);
    assert!(!success && text.is_empty(), "{text}");
    let (_, checked, _) = daemon::run(&root(), ["check", "--color", "never", &file]);
    assert_eq!(errors, checked);
    let (success, _, errors) = explained(input.path(), &["no-such-file.yaml"]);
    assert!(!success && errors.contains("is not a file"), "{errors}");
}
