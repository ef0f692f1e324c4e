//! Which files are pipelines.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::load::Loaded;
use super::problem::{Part, Problem};

/// The pipelines' files: files as given, and `*.yaml` and `*.yml` directly in folders, sorted. Hidden entries (also the
/// `..data` of a mounted ConfigMap) are left out; symbolic links are followed.
pub fn find(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<Problem>) {
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        let found = if path.is_dir() { in_folder(path) } else { path.metadata().map(|_| vec![path.clone()]) };
        match found {
            Ok(found) => files.extend(found),
            Err(error) => {
                let message = format!("{} cannot be read: {error}", path.display());
                problems.push(Problem::new([""; 0], message).at(Part::Bytes { start: 0, end: 0 }).in_file(path));
            }
        }
    }
    files.sort();
    files.dedup();
    (files, problems)
}

fn in_folder(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        // A dangling link is kept: loading it says what is wrong, instead of the pipeline silently being gone.
        if !hidden && yaml && !path.is_dir() {
            files.push(path);
        }
    }
    Ok(files)
}

/// Pipelines of the same name: for each one that may not have it, its index in `loaded` and the mistake (its path is in
/// that file). A name belongs to the file that runs by it (`running`, by name) as long as that file keeps it, or is too
/// broken to say; else to the first file.
pub fn name_clashes(loaded: &[&Loaded], running: &BTreeMap<String, PathBuf>) -> Vec<(usize, Problem)> {
    // Names become folders of the state, which some file systems do not tell apart by case.
    let mut owners: HashMap<String, &Path> = HashMap::new();
    for (name, file) in running {
        let keeps = |one: &&&Loaded| one.file == *file && (one.name() == *name || one.spec.is_none());
        if let Some(owner) = loaded.iter().find(keeps) {
            owners.insert(name.to_lowercase(), &owner.file);
        }
    }
    let mut clashes = Vec::new();
    for (index, one) in loaded.iter().enumerate() {
        match owners.get(&one.name().to_lowercase()) {
            Some(owner) if **owner == one.file => {}
            Some(other) => {
                let message =
                    format!("two pipelines are named `{}`: {} and {}", one.name(), other.display(), one.file.display());
                let problem = Problem::new(["name"], message).hint("give one of them another `name:`, or remove it");
                clashes.push((index, problem));
            }
            None => {
                owners.insert(one.name().to_lowercase(), &one.file);
            }
        }
    }
    clashes
}
