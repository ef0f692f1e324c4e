//! The golden tests: each folder of pipelines/tests is a pipeline with known rows in and known rows out.
//!
//! The pipeline is `pipeline.yaml`, or the shipped one of the folder's name with its profile `golden`. It is run by the
//! built `millstream run --bounded` with `OUTPUT` set to a folder; `expected.jsonl` says what `OUTPUT/output.jsonl` must
//! hold, `expected-NAME.jsonl` the same of `OUTPUT/NAME.jsonl`. The order of rows does not count. Of a dead letter
//! (`expected-dead-letter.jsonl`) what is written must be there, and the reason must contain the one that is written.

use std::path::{Path, PathBuf};

use millstream_tests::daemon;
use serde_json::Value;

/// Fewer folders would mean that they were not found.
const FOLDERS_MIN: usize = 9;

pub(crate) fn pipelines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines").canonicalize().unwrap()
}

#[test]
fn every_golden_pipeline_gives_the_rows_that_were_computed_without_it() {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(pipelines().join("tests")).unwrap().map(|f| f.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    assert!(folders.len() >= FOLDERS_MIN, "{folders:?}");
    let wrong: Vec<String> = folders.iter().filter_map(|folder| run(folder).err()).collect();
    assert!(wrong.is_empty(), "{} of {} are wrong:\n\n{}", wrong.len(), folders.len(), wrong.join("\n\n"));
}

#[test]
fn the_shipped_pipelines_pass_the_check() {
    let (status, stdout, stderr) = daemon::run(pipelines().parent().unwrap(), ["check", "pipelines"]);
    assert!(status.success(), "{stdout}{stderr}");
    assert!(!stdout.contains("warning"), "{stdout}");
}

/// Runs the folder's pipeline and compares.
pub(crate) fn run(folder: &Path) -> Result<(), String> {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let output = tempfile::tempdir().unwrap();
    let own = folder.join("pipeline.yaml");
    let (file, profile) =
        if own.exists() { (own, None) } else { (pipelines().join(format!("{name}.yaml")), Some("golden")) };
    let mut command = std::process::Command::new(daemon::binary());
    command.args(["run", "--bounded", "--listen", "127.0.0.1:0", "--data-dir"]).arg(output.path().join("data"));
    command.arg(file).args(profile.iter().flat_map(|profile| ["--profile", profile])).env("OUTPUT", output.path());
    let ended = command.output().unwrap();
    if !ended.status.success() {
        return Err(format!("{name}: {}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr)));
    }
    let mut compared = 0;
    for expected in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let file = expected.file_name().unwrap().to_string_lossy().into_owned();
        let Some(rest) = file.strip_prefix("expected") else { continue };
        let actual = match rest.strip_prefix('-') {
            Some(name) => name.to_owned(),
            None => format!("output{rest}"),
        };
        compare(&expected, &output.path().join(&actual)).map_err(|error| format!("{name}, {actual}: {error}"))?;
        compared += 1;
    }
    if compared == 0 { Err(format!("{name}: nothing is expected")) } else { Ok(()) }
}

fn compare(expected: &Path, actual: &Path) -> Result<(), String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let (wanted, found) = (read(expected)?, read(actual)?);
    if actual.ends_with("dead-letter.jsonl") {
        return compare_letters(&parse(&wanted)?, &parse(&found)?);
    }
    let rows = |text: &str| -> Result<Vec<String>, String> {
        let mut rows = match expected.extension().is_some_and(|extension| extension == "jsonl") {
            true => parse(text)?.iter().map(canonical).collect(),
            false => text.lines().map(str::to_owned).collect::<Vec<_>>(),
        };
        rows.sort();
        Ok(rows)
    };
    let (wanted, found) = (rows(&wanted)?, rows(&found)?);
    let missing: Vec<&String> = wanted.iter().filter(|row| !found.contains(row)).collect();
    let unexpected: Vec<&String> = found.iter().filter(|row| !wanted.contains(row)).collect();
    if wanted == found {
        return Ok(());
    }
    Err(format!(
        "{} rows instead of {}\n  missing: {missing:#?}\n  unexpected: {unexpected:#?}",
        found.len(),
        wanted.len()
    ))
}

/// Each expected letter is there, and no other.
fn compare_letters(wanted: &[Value], found: &[Value]) -> Result<(), String> {
    let fits = |wanted: &Value, letter: &Value| {
        let row = || serde_json::from_str::<Value>(letter["row"].as_str().unwrap_or("{}")).unwrap_or_default();
        wanted.as_object().unwrap().iter().all(|(key, value)| match key.as_str() {
            "reason" => letter["reason"].as_str().unwrap_or_default().contains(value.as_str().unwrap()),
            "row" => {
                value.as_object().unwrap().iter().all(|(column, value)| canonical(&row()[column]) == canonical(value))
            }
            _ => letter[key] == *value,
        })
    };
    let missing: Vec<&Value> =
        wanted.iter().filter(|wanted| !found.iter().any(|letter| fits(wanted, letter))).collect();
    if missing.is_empty() && wanted.len() == found.len() {
        return Ok(());
    }
    Err(format!("{} letters instead of {}; missing: {missing:#?}\nfound: {found:#?}", found.len(), wanted.len()))
}

fn parse(text: &str) -> Result<Vec<Value>, String> {
    text.lines().map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))).collect()
}

/// The same text for what is the same: keys in order, numbers to 12 digits, times without the zone and zeros that may or
/// may not be written.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}: {}", canonical(value))).collect();
            fields.sort();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(", ")),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        Value::Number(number) => {
            // Sums of floats depend on their order in the last digits; 12 of them are compared.
            let number: f64 = format!("{:.11e}", number.as_f64().unwrap()).parse().unwrap();
            if number.fract() == 0.0 && number.abs() < 1e15 { format!("{number:.0}") } else { format!("{number:.11e}") }
        }
        Value::String(text) => {
            let text = text.strip_suffix('Z').unwrap_or(text);
            let time = text.len() >= 19 && text.as_bytes()[4] == b'-' && text.as_bytes()[10] == b'T';
            match time && text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text.to_owned(),
            }
        }
        other => other.to_string(),
    }
}
