//! From files to plans: what is there, what of it has changed, what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::plan::{Environment, Plan};
use crate::redact::SharedSecrets;
use crate::spec::problem::{Problem, Severity};
use crate::spec::{LoadOptions, Loaded, Located, find, load, name_clashes};

/// The files that say what is to run.
pub(crate) struct Folder {
    paths: Vec<PathBuf>,
    load: LoadOptions,
    environment: Environment,
    secrets: SharedSecrets,
    /// All files that were read for the last scan, beside those in `paths`.
    files: Vec<PathBuf>,
    /// By YAML file, the modules of its last plan.
    modules: BTreeMap<PathBuf, Vec<PathBuf>>,
}

/// A pipeline as its file says it.
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    /// Of everything that the plan depends on.
    pub(crate) hash: String,
    pub(crate) problems: Vec<Located>,
    pub(crate) change: Change,
}

/// A pipeline as it was taken from its file.
pub(crate) struct Known {
    pub(crate) file: PathBuf,
    pub(crate) hash: String,
}

/// What is to be done about it.
pub(crate) enum Change {
    /// It is as it was.
    None,
    /// It has mistakes.
    Broken,
    /// Its name belongs to another file.
    Clash,
    /// It is new or has changed.
    New(Box<Plan>),
}

impl Change {
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken | Self::Clash)
    }
}

impl Folder {
    pub(crate) fn new(
        paths: Vec<PathBuf>,
        load: LoadOptions,
        environment: Environment,
        secrets: SharedSecrets,
    ) -> Self {
        Self { paths, load, environment, secrets, files: Vec::new(), modules: BTreeMap::new() }
    }

    /// The folders in which a change may matter.
    pub(crate) fn watched(&self) -> Vec<PathBuf> {
        let parent = |path: &Path| match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => path.to_owned(),
        };
        let given = self.paths.iter().map(|path| if path.is_dir() { path.clone() } else { parent(path) });
        let read = self.files.iter().chain(self.modules.values().flatten()).map(|file| parent(file));
        let mut folders: Vec<PathBuf> = given.chain(read).filter(|folder| folder.is_dir()).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// Reads all files and plans what is not as in `known` (by name).
    pub(crate) async fn scan(&mut self, known: &BTreeMap<String, Known>, bounded: bool) -> Vec<Candidate> {
        let (files, unreadable) = find(&self.paths);
        let loaded: Vec<Loaded> = files.iter().map(|file| load(file, &self.load)).collect();
        loaded.iter().for_each(|loaded| self.secrets.merge(&loaded.secrets));
        let running = known.iter().map(|(name, known)| (name.clone(), known.file.clone())).collect();
        let mut clashes = name_clashes(&loaded.iter().collect::<Vec<_>>(), &running);
        self.files = loaded.iter().flat_map(|loaded| loaded.files_read.clone()).collect();
        for problem in unreadable {
            tracing::error!("{}", problem.message);
        }
        let mut candidates = Vec::new();
        for (index, loaded) in loaded.iter().enumerate() {
            let clash = clashes.iter().position(|(clashing, _)| *clashing == index);
            let further: Vec<Problem> = clash.map(|clash| clashes.swap_remove(clash).1).into_iter().collect();
            candidates.push(self.candidate(loaded, further, known, bounded).await);
        }
        candidates
    }

    async fn candidate(
        &mut self,
        loaded: &Loaded,
        further: Vec<Problem>,
        known: &BTreeMap<String, Known>,
        bounded: bool,
    ) -> Candidate {
        let (name, file) = (loaded.name(), loaded.file.clone());
        let hash = self.hash(loaded);
        let candidate = |problems, change| Candidate {
            name: name.clone(),
            file: file.clone(),
            hash: hash.clone(),
            problems,
            change,
        };
        let Some(spec) = loaded.spec.as_ref().filter(|_| further.is_empty()) else {
            let more = match (&loaded.spec, &loaded.draft) {
                (Some(spec), _) => Plan::build(&file, spec, &self.environment).await.1,
                (None, Some(draft)) => Plan::judge(&file, draft, &self.environment).await,
                (None, None) => Vec::new(),
            };
            let change = if further.is_empty() { Change::Broken } else { Change::Clash };
            return candidate(loaded.located(&[further, more].concat()), change);
        };
        if known.get(&name).is_some_and(|known| known.hash == hash) {
            return candidate(loaded.located(&[]), Change::None);
        }
        let (plan, mut problems) = Plan::build(&file, spec, &self.environment).await;
        if let Some(plan) = plan.as_ref().filter(|plan| bounded && !plan.bounded()) {
            problems.extend(plan.unbounded_sources().into_iter().map(|source| {
                Problem::new(["sources", source.as_str()], "this source has no end, so a bounded run would not end")
                    .hint(
                        "run without --bounded, or with a --profile whose sources end (a file, generate with a count)",
                    )
            }));
        }
        let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
        match plan.filter(|_| !failed) {
            Some(plan) => {
                self.modules.insert(file.clone(), plan.files.clone());
                // The modules are known only now.
                let hash = self.hash(loaded);
                Candidate { hash, ..candidate(loaded.located(&problems), Change::New(Box::new(plan))) }
            }
            None => {
                let modules = spec.functions.iter().map(|function| sibling(&file, &function.wasm));
                self.modules.insert(file.clone(), modules.collect());
                candidate(loaded.located(&problems), Change::Broken)
            }
        }
    }

    /// Of the resolved tree (secrets too, but not comments) and the content of the modules.
    fn hash(&self, loaded: &Loaded) -> String {
        let mut hasher = blake3::Hasher::new();
        let tree = loaded.map.root().map(|root| root.to_json().to_string()).unwrap_or_default();
        hasher.update(tree.as_bytes());
        for module in self.modules.get(&loaded.file).into_iter().flatten() {
            hasher.update(&std::fs::read(module).unwrap_or_default());
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn sibling(file: &Path, name: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(name)
}
