//! `schema: telemetry` → the columns of `schemas/telemetry.yaml`.

use std::path::{Path as FilePath, PathBuf};

use super::node::{Entry, Node};
use super::problem::{Path, Problem, nearest};

/// The endings of contract files that are read.
const READ: &[&str] = &["yaml", "yml"];
/// The endings of contract files that are known but not read yet.
const NOT_READ: &[&str] = &["avsc", "proto", "json"];

/// The contract that the source at `path` names: its path in the YAML tree, and what is written.
pub(super) fn named(root: &Node) -> Vec<(Path, String)> {
    let sources = root.get("sources").and_then(Node::as_map).into_iter().flatten();
    sources
        .filter_map(|(name, source)| {
            let written = source.value.get("schema")?.as_text()?;
            Some((vec!["sources".to_owned(), name.clone(), "schema".to_owned()], written.to_owned()))
        })
        .collect()
}

/// The file of the contract `written`, looked for beside the pipeline's file in `folder`.
pub(super) fn find(written: &str, folder: &FilePath, path: &Path) -> Result<PathBuf, Box<Problem>> {
    let problem = |message: String| Problem::new(path.clone(), message);
    let ending = FilePath::new(written).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let refused = |ending: &str| {
        let hint = "write the columns in YAML: schemas/NAME.yaml with `columns:`, or `columns:` in the source";
        Err(Box::new(problem(format!("contracts in .{ending} are not read yet")).hint(hint)))
    };
    if written.trim().is_empty() {
        return Err(Box::new(problem("no contract is named".into()).hint("write its name, or remove the key")));
    }
    let folders = [folder.join("schemas"), folder.join("../schemas")];
    if written.contains(['/', '\\']) || READ.contains(&ending) || NOT_READ.contains(&ending) {
        if NOT_READ.contains(&ending) {
            return refused(ending);
        }
        let beside = folder.join(written);
        let mut places = vec![beside.clone()];
        if !written.contains(['/', '\\']) {
            places.extend(folders.iter().map(|folder| folder.join(written)));
        }
        return places.into_iter().find(|file| file.is_file()).ok_or_else(|| {
            let hint = "the path starts at the folder of this YAML file";
            Box::new(problem(format!("the contract {} does not exist", beside.display())).hint(hint))
        });
    }
    for folder in &folders {
        if let Some(file) = READ.iter().map(|ending| folder.join(format!("{written}.{ending}"))).find(|f| f.is_file()) {
            return Ok(file);
        }
        if let Some(ending) = NOT_READ.iter().find(|ending| folder.join(format!("{written}.{ending}")).is_file()) {
            return refused(ending);
        }
    }
    let looked = folders.iter().map(|folder| folder.join(format!("{written}.yaml")).display().to_string());
    let message = format!("there is no contract `{written}`: looked for {}", looked.collect::<Vec<_>>().join(" and "));
    let known = names(&folders);
    Err(Box::new(match nearest(written, known.iter().map(String::as_str)) {
        Some(near) => problem(message).hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => problem(message).hint("write the columns there, or as `columns:` in the source"),
        None => problem(message).hint(format!("there are: {}", known.join(", "))),
    }))
}

/// The files that would be the contract if they existed: should one of them appear, the pipeline is loaded again.
pub(super) fn candidates(written: &str, folder: &FilePath) -> Vec<PathBuf> {
    if written.contains(['/', '\\']) || FilePath::new(written).extension().is_some() {
        return vec![
            folder.join(written),
            folder.join("schemas").join(written),
            folder.join("../schemas").join(written),
        ];
    }
    let folders = [folder.join("schemas"), folder.join("../schemas")];
    folders.iter().flat_map(|folder| READ.iter().map(|ending| folder.join(format!("{written}.{ending}")))).collect()
}

/// The contracts in some folders.
fn names(folders: &[PathBuf]) -> Vec<String> {
    const LISTED_MAX: usize = 100;
    let files = folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
    let yaml = files.map(|file| file.path()).filter(|file| file.extension().is_some_and(|e| e == "yaml" || e == "yml"));
    let mut names: Vec<String> =
        yaml.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned())).take(LISTED_MAX).collect();
    names.sort();
    names.dedup();
    names
}

/// Puts the columns of a contract into the source that names it; their positions stay those of the contract's file.
pub(super) fn put_columns(root: &mut Node, source: &str, columns: Entry) {
    use super::node::Kind;
    let Kind::Map(top) = &mut root.kind else { return };
    let Some(Kind::Map(sources)) = top.get_mut("sources").map(|entry| &mut entry.value.kind) else { return };
    let Some(Kind::Map(source)) = sources.get_mut(source).map(|entry| &mut entry.value.kind) else { return };
    source.insert("columns".into(), columns);
}
