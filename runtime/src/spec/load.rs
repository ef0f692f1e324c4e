//! From a file to a [`PipelineSpec`], or to all mistakes in it.
//!
//! The order: parse, lay the profile over, fill in `${…}`, bring in contracts, check against the schema, check what the
//! schema cannot say, deserialise. Each step works on the tree, so that a mistake in one does not hide those in others.

use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use super::check;
use super::contract;
use super::deserialise;
use super::draft::{self, Draft};
use super::interpolate::Filler;
use super::limits::{PROBLEMS_MAX, YamlLimits};
use super::model::PipelineSpec;
use super::node::{Entry, Kind, Node};
use super::overlay;
use super::parse::parse;
use super::problem::{Part, Path, Problem, Severity};
use super::schema;
use super::secrets::Secrets;
use super::source_map::{Located, SourceMap};
use super::validate::Validator;

/// Where `${NAME}` is looked up.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// How a file is loaded.
#[derive(Clone)]
pub struct LoadOptions {
    /// The profile that is laid over the file.
    pub profile: Option<String>,
    /// Where `${NAME}` is looked up; the process's environment by default.
    pub env: Environment,
    /// How much is read.
    pub limits: YamlLimits,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let env = Arc::new(|name: &str| std::env::var(name).ok());
        Self { profile: None, env, limits: YamlLimits::default() }
    }
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("profile", &self.profile)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A file that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file.
    pub file: PathBuf,
    /// Its text.
    pub text: Arc<str>,
    /// What it says, where nothing in `problems` is an error. `name` is always set, and the columns of contracts are in
    /// the sources' `columns`.
    pub spec: Option<PipelineSpec>,
    /// What can still be judged where something is an error: the spec with gaps. `None` where nothing could be read.
    pub draft: Option<Draft>,
    /// Every mistake.
    pub problems: Vec<Problem>,
    /// From problems to places.
    pub map: SourceMap,
    /// What must never be shown. The texts in `problems` are without them already.
    pub secrets: Secrets,
    /// The other files that were read, or looked for: contracts, and what `${file:…}` names. A change in one of them
    /// changes the pipeline.
    pub files_read: Vec<PathBuf>,
}

impl Loaded {
    /// True where something in `problems` is an error.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// The pipeline's name: as written, or the file's name without its ending.
    pub fn name(&self) -> String {
        let written = self.map.root().and_then(|root| root.get("name")).and_then(Node::as_text);
        written.map_or_else(|| file_stem(&self.file), str::to_owned)
    }

    /// All problems with their places, and further ones that were found later (by the planner). A place has one warning:
    /// what was said of the file alone is not said again.
    pub fn located(&self, further: &[Problem]) -> Vec<Located> {
        let warned = |problem: &&Problem| {
            problem.severity == Severity::Warning
                && self.problems.iter().any(|known| known.severity == Severity::Warning && known.path == problem.path)
        };
        self.map.located_all(self.problems.iter().chain(further.iter().filter(|problem| !warned(problem))))
    }
}

fn file_stem(file: &FilePath) -> String {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Loads a file.
pub fn load(file: &FilePath, options: &LoadOptions) -> Loaded {
    match read(file, &options.limits) {
        Ok(text) => load_text(file, &text, options),
        Err(problem) => {
            let mut map = SourceMap::default();
            map.add(file, "".into());
            Loaded {
                file: file.to_owned(),
                text: "".into(),
                spec: None,
                draft: None,
                problems: vec![*problem],
                map,
                secrets: Secrets::default(),
                files_read: Vec::new(),
            }
        }
    }
}

/// The text of a file, at most as much as may be read (and one byte more, which the parser then refuses).
fn read(file: &FilePath, limits: &YamlLimits) -> Result<String, Box<Problem>> {
    use std::io::Read;
    let wrong = |message: String| Box::new(Problem::new([""; 0], message).at(Part::Bytes { start: 0, end: 0 }));
    let cannot = |error: std::io::Error| wrong(format!("the file cannot be read: {error}"));
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(wrong("this is not a regular file".into()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(file).map_err(cannot)?;
    file.take(limits.file_bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > limits.file_bytes_max {
        return Err(wrong(format!("the file has more than {} bytes (file_bytes_max)", limits.file_bytes_max)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        let problem = *wrong(format!("the file is not UTF-8: line {line} holds other bytes"));
        Box::new(problem.hint("save it as UTF-8"))
    })
}

/// Loads a text as if it stood in `file`.
pub fn load_text(file: &FilePath, text: &str, options: &LoadOptions) -> Loaded {
    let text: Arc<str> = text.into();
    let mut loading = Loading {
        file: file.to_owned(),
        folder: file.parent().unwrap_or(FilePath::new("")).to_owned(),
        options,
        map: SourceMap::default(),
        secrets: Secrets::default(),
        problems: Vec::new(),
        files_read: Vec::new(),
        filled_bytes: 0,
    };
    let (spec, draft) = match loading.run(&text) {
        Some(Outcome::Right(spec)) => (Some(*spec), None),
        Some(Outcome::Wrong(draft)) => (None, Some(*draft)),
        None => (None, None),
    };
    loading.finish(text, spec, draft)
}

/// What a tree says.
enum Outcome {
    Right(Box<PipelineSpec>),
    Wrong(Box<Draft>),
}

struct Loading<'a> {
    file: PathBuf,
    folder: PathBuf,
    options: &'a LoadOptions,
    map: SourceMap,
    secrets: Secrets,
    problems: Vec<Problem>,
    files_read: Vec<PathBuf>,
    filled_bytes: usize,
}

impl Loading<'_> {
    fn run(&mut self, text: &Arc<str>) -> Option<Outcome> {
        let id = self.map.add(&self.file, Arc::clone(text));
        let parsed = parse(text, id, &self.options.limits);
        self.problems.extend(parsed.problems);
        let mut root = parsed.root?;
        // For the places of what follows, should there be no more.
        self.map.set_root(id, root.clone());
        if let Some(profile) = &self.options.profile
            && let Err(problem) = overlay::apply(&mut root, profile)
        {
            self.problems.push(problem);
        }
        self.check_profiles(&root);
        self.fill(&mut root, text, &["profiles"], None);
        let both = self.bring_contracts(&mut root);
        self.validate(&mut root);
        check::check(&root, &both, &file_stem(&self.file), &mut self.problems);
        self.map.set_root(id, root);
        // Nothing more would be shown.
        if self.problems.len() > PROBLEMS_MAX {
            return None;
        }
        let root = self.map.root()?;
        if self.problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Some(Outcome::Wrong(Box::new(draft::draft(root, file_stem(&self.file), &mut self.problems))));
        }
        match deserialise::pipeline(root) {
            Ok(mut spec) => {
                spec.name.get_or_insert_with(|| file_stem(&self.file));
                Some(Outcome::Right(Box::new(spec)))
            }
            Err(problems) => {
                self.problems.extend(problems);
                Some(Outcome::Wrong(Box::new(draft::draft(root, file_stem(&self.file), &mut self.problems))))
            }
        }
    }

    /// Checks the profiles that are not chosen, as far as that goes without filling them in.
    fn check_profiles(&mut self, root: &Node) {
        let Some(profiles) = root.get("profiles") else { return };
        let mut profiles = profiles.clone();
        if let (Kind::Map(map), Some(chosen)) = (&mut profiles.kind, &self.options.profile) {
            map.shift_remove(chosen);
        }
        let schema = schema::pipeline();
        let mut validator = Validator::new(schema);
        validator.unfilled = true;
        validator.check(&mut profiles, &schema["properties"]["profiles"], &mut vec!["profiles".to_owned()]);
        self.problems.append(&mut validator.problems);
        self.secrets.merge(&validator.secrets);
    }

    fn validate(&mut self, root: &mut Node) {
        let schema = schema::pipeline();
        let mut validator = Validator::new(schema);
        let profiles = match &mut root.kind {
            Kind::Map(map) => map.shift_remove_full("profiles"),
            _ => None,
        };
        validator.check(root, schema, &mut Path::new());
        if let (Kind::Map(map), Some((_, key, entry))) = (&mut root.kind, profiles) {
            map.insert(key, entry);
        }
        self.problems.append(&mut validator.problems);
        self.secrets.merge(&validator.secrets);
    }

    /// Fills in `${…}`. Returns true where nothing was wrong.
    fn fill(&mut self, root: &mut Node, text: &str, except: &[&str], contract: Option<&FilePath>) -> bool {
        let mut filler = Filler {
            env: &*self.options.env,
            limits: &self.options.limits,
            base_dir: contract.and_then(FilePath::parent).unwrap_or(&self.folder),
            text,
            problems: Vec::new(),
            secrets: &mut self.secrets,
            files_read: &mut self.files_read,
            filled_bytes: self.filled_bytes,
        };
        filler.fill(root, &mut Path::new(), except);
        self.filled_bytes = filler.filled_bytes;
        let problems = filler.problems;
        let right = problems.is_empty();
        self.add(problems, contract);
        right
    }

    fn add(&mut self, problems: Vec<Problem>, contract: Option<&FilePath>) {
        self.problems.extend(problems.into_iter().map(|problem| match contract {
            Some(file) => problem.in_file(file),
            None => problem,
        }));
    }

    /// Brings the columns of contracts into the tree. Returns the sources that have both a contract and columns.
    fn bring_contracts(&mut self, root: &mut Node) -> Vec<String> {
        let mut both = Vec::new();
        let mut read: Vec<(PathBuf, Option<Entry>)> = Vec::new();
        for (path, written) in contract::named(root) {
            let source = path[1].clone();
            if root.get("sources").and_then(|sources| sources.get(&source)?.get("columns")).is_some() {
                both.push(source);
                continue;
            }
            let file = match contract::find(&written, &self.folder, &path) {
                Ok(file) => file,
                Err(problem) => {
                    self.files_read.extend(contract::candidates(&written, &self.folder));
                    self.problems.push(*problem);
                    continue;
                }
            };
            let columns = match read.iter().find(|(known, _)| *known == file) {
                Some((_, columns)) => columns.clone(),
                None => {
                    let columns = self.read_contract(&file, &path);
                    read.push((file.clone(), columns.clone()));
                    columns
                }
            };
            if let Some(columns) = columns {
                contract::put_columns(root, &source, columns);
            }
        }
        both
    }

    /// The entry `columns` of a contract, where nothing in the contract is wrong.
    fn read_contract(&mut self, file: &FilePath, path: &Path) -> Option<Entry> {
        self.files_read.push(file.to_owned());
        let text: Arc<str> = match read(file, &self.options.limits) {
            Ok(text) => text.into(),
            Err(problem) => {
                let message = format!("the contract {}: {}", file.display(), problem.message);
                self.problems.push(Problem::new(path.clone(), message));
                return None;
            }
        };
        let id = self.map.add(file, Arc::clone(&text));
        let parsed = parse(&text, id, &self.options.limits);
        let mut right = parsed.problems.is_empty();
        self.add(parsed.problems, Some(file));
        let mut root = parsed.root?;
        self.map.set_root(id, root.clone());
        right &= self.fill(&mut root, &text, &[], Some(file));
        let mut validator = Validator::new(schema::contract());
        validator.check(&mut root, schema::contract(), &mut Path::new());
        right &= validator.problems.is_empty();
        self.add(validator.problems, Some(file));
        self.map.set_root(id, root.clone());
        match root.kind {
            Kind::Map(mut map) if right => map.shift_remove("columns"),
            _ => None,
        }
    }

    fn finish(mut self, text: Arc<str>, spec: Option<PipelineSpec>, draft: Option<Draft>) -> Loaded {
        if self.problems.len() > PROBLEMS_MAX {
            let more = self.problems.len() - PROBLEMS_MAX;
            self.problems.truncate(PROBLEMS_MAX);
            let message = format!("there are at least {more} more mistakes, which are not shown");
            self.problems.push(Problem::new([""; 0], message).at(Part::Key).warning());
        }
        for problem in &mut self.problems {
            problem.message = self.secrets.redact(&problem.message);
            problem.hint = problem.hint.take().map(|hint| self.secrets.redact(&hint));
        }
        self.map.secrets = self.secrets.clone();
        self.files_read.sort();
        self.files_read.dedup();
        Loaded {
            file: self.file,
            text,
            spec,
            draft,
            problems: self.problems,
            map: self.map,
            secrets: self.secrets,
            files_read: self.files_read,
        }
    }
}
