//! What the schema cannot say: names, references between the parts, and what does not go together.
//!
//! It works on the tree, so that it also finds mistakes in a file that has others. SQL is not parsed here: whether a
//! name is used in SQL is told by the words in it.

use std::collections::{HashMap, HashSet};

use millstream_connectors::config::SINKS;

use super::limits::PROBLEMS_MAX;
use super::node::{Entry, Kind, Map, Node};
use super::problem::{Part, Problem, Severity, nearest};
use super::wording::shown;

/// The longest name.
const NAME_CHARS_MAX: usize = 100;
/// Names that mean something in `late: {to: …}`.
const RESERVED: &[&str] = &["dead_letter", "drop"];
/// Words that SQL would not read as a name.
const SQL_WORDS: &[&str] = &[
    "all",
    "and",
    "as",
    "between",
    "by",
    "case",
    "cast",
    "create",
    "cross",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "false",
    "from",
    "full",
    "group",
    "having",
    "in",
    "inner",
    "intersect",
    "into",
    "is",
    "join",
    "left",
    "like",
    "limit",
    "not",
    "null",
    "offset",
    "on",
    "or",
    "order",
    "outer",
    "over",
    "right",
    "select",
    "set",
    "table",
    "then",
    "true",
    "tumble",
    "hop",
    "cumulate",
    "session",
    "union",
    "using",
    "values",
    "when",
    "where",
    "window",
    "with",
];

/// Checks `root`. `both` are the sources with a contract and columns of their own.
pub(super) fn check(root: &Node, both: &[String], file_stem: &str, problems: &mut Vec<Problem>) {
    let empty = Map::new();
    let map = |key: &str| root.get(key).and_then(Node::as_map).unwrap_or(&empty);
    let (sources, steps, sinks) = (map("sources"), map("steps"), map("sinks"));
    let mut check = Check { root, sources, steps, sinks, problems };
    check.pipeline_name(file_stem);
    check.names();
    for source in both {
        let hint = "remove one: the contract says the columns, or `columns` does";
        let problem = Problem::new(["sources", source, "columns"], "`schema` and `columns` are both given");
        check.problems.push(problem.at(Part::Key).hint(hint));
    }
    for (name, source) in sources {
        if check.full() {
            break;
        }
        check.source(name, &source.value);
    }
    let late = check.late_routes();
    check.sinks(&late);
    check.delivery();
    check.dead_letter();
    // In a file with mistakes, what seems unused is mostly what a mistake hides.
    if check.problems.iter().all(|problem| problem.severity == Severity::Warning) {
        check.unused();
    }
}

struct Check<'a> {
    root: &'a Node,
    sources: &'a Map,
    steps: &'a Map,
    sinks: &'a Map,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    /// Enough mistakes: further ones would only cost time (comparing every name with every other).
    fn full(&self) -> bool {
        self.problems.len() > PROBLEMS_MAX
    }

    fn pipeline_name(&mut self, file_stem: &str) {
        let hint = "use letters, digits, `_`, `.` and `-`, and start with a letter or digit";
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let right = |name: &str| {
            name.len() <= NAME_CHARS_MAX
                && name.chars().all(allowed)
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        match self.root.get("name").map(|node| (node, node.as_text())) {
            Some((node, Some(name))) if !right(name) => {
                let message = format!("`{}` cannot be a pipeline's name", shown(node));
                self.problems.push(Problem::new(["name"], message).hint(hint));
            }
            None | Some((Node { kind: Kind::Null, .. }, _)) if !right(file_stem) => {
                let message = format!("the file's name `{}` cannot be a pipeline's name", short(file_stem));
                let hint = format!("write `name:`, or rename the file: {hint}");
                self.problems.push(Problem::new(["name"], message).hint(hint));
            }
            _ => {}
        }
    }

    fn names(&mut self) {
        let groups =
            [("sources", self.sources, "source"), ("steps", self.steps, "step"), ("sinks", self.sinks, "sink")];
        let mut tables: HashMap<String, &str> = HashMap::new();
        for (group, map, what) in groups {
            for name in map.keys() {
                let path = [group, name.as_str()];
                let mut refuse = |message: String, hint: String| {
                    self.problems.push(Problem::new(path, message).at(Part::Key).hint(hint));
                };
                let lower = name.to_ascii_lowercase();
                let first_right = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                if !first_right
                    || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                    || name.len() > NAME_CHARS_MAX
                {
                    let message = format!("`{}` cannot be a {what}'s name", short(name));
                    refuse(
                        message,
                        "use letters, digits and `_`, and start with a letter: SQL must be able to read it".into(),
                    );
                } else if RESERVED.contains(&lower.as_str()) {
                    refuse(
                        format!("`{name}` means something else in `late: {{to: …}}`"),
                        "give it another name".into(),
                    );
                } else if group != "sinks" && SQL_WORDS.contains(&lower.as_str()) {
                    refuse(format!("`{name}` is a word of SQL"), format!("give it another name: `{name}_{what}`"));
                }
                if group != "sinks"
                    && let Some(other) = tables.insert(lower, what)
                {
                    let message = format!("`{name}` is a {other} already; SQL could not tell them apart");
                    refuse(message, format!("give the {what} another name"));
                }
            }
        }
    }

    fn source(&mut self, name: &str, source: &Node) {
        let path = |rest: &[&str]| -> Vec<String> {
            ["sources", name].iter().chain(rest).map(|part| (*part).to_owned()).collect()
        };
        let table = source.get("table");
        if table.is_some_and(|table| table.kind == Kind::Null) {
            let problem = Problem::new(path(&["table"]), "nothing stands here: a stream or a table?").at(Part::Key);
            self.problems.push(problem.hint("write `table: {key: column}` or `table: {}`, or remove it"));
        } else if table.is_some() {
            for key in ["event_time", "metadata", "linger"].into_iter().filter(|key| source.get(key).is_some()) {
                let message = format!("`{key}` is of streams, and this source is a table");
                self.problems
                    .push(Problem::new(path(&[key]), message).at(Part::Key).hint("remove it, or remove `table`"));
            }
        }
        let columns = source.get("columns").and_then(Node::as_map);
        let metadata = source.get("metadata").and_then(Node::as_map);
        if columns.is_some_and(Map::is_empty) {
            self.problems.push(Problem::new(path(&["columns"]), "no column is named").hint("write `name: type`"));
        }
        for key in metadata.into_iter().flat_map(Map::keys).filter(|key| columns.is_some_and(|c| c.contains_key(*key)))
        {
            let message = format!("`{key}` is a column of the message already");
            self.problems
                .push(Problem::new(path(&["metadata", key]), message).at(Part::Key).hint("give it another name"));
        }
        let Some(columns) = columns else { return };
        let known: Vec<&str> =
            columns.keys().chain(metadata.into_iter().flat_map(Map::keys)).map(String::as_str).collect();
        for at in [["event_time", "column"], ["table", "key"]] {
            let Some(node) = source.get(at[0]).and_then(|node| node.get(at[1])) else { continue };
            if let Some(column) = node.as_text().filter(|column| !known.contains(column)) {
                let message = format!("`{}` is no column of `{name}`", shown(node));
                self.problems.push(with_near(Problem::new(path(&at), message), column, &known));
            }
        }
    }

    /// The sinks that late rows go to.
    fn late_routes(&mut self) -> HashSet<String> {
        let mut named = HashSet::new();
        let known: Vec<&str> = self.sinks.keys().map(String::as_str).chain(RESERVED.iter().copied()).collect();
        for (step, entry) in self.steps {
            let Some(node) = entry.value.get("late").and_then(|late| late.get("to")) else { continue };
            let Some(to) = node.as_text() else { continue };
            if self.sinks.contains_key(to) {
                named.insert(to.to_owned());
            } else if !RESERVED.contains(&to) && !self.full() {
                let problem =
                    Problem::new(["steps", step, "late", "to"], format!("there is no sink `{}`", shown(node)));
                self.problems.push(with_near(problem, to, &known));
            }
        }
        named
    }

    fn sinks(&mut self, late: &HashSet<String>) {
        for (group, map) in [("sources", self.sources), ("sinks", self.sinks)] {
            let present = self.root.get(group).is_some_and(|node| matches!(node.kind, Kind::Map(_)));
            if present && map.is_empty() {
                let what = if group == "sinks" { "its rows go nowhere" } else { "it has nothing to read" };
                let problem = Problem::new([group], format!("the pipeline has no {group}: {what}")).at(Part::Key);
                self.problems.push(problem.hint(format!("add one under `{group}:`")));
            }
        }
        for (name, entry) in self.sinks {
            if !matches!(entry.value.kind, Kind::Map(_)) {
                continue;
            }
            let names = from(&entry.value);
            if names.is_empty() && !late.contains(name) {
                let problem = Problem::new(["sinks", name], format!("no rows go to `{name}`")).at(Part::Key);
                let hint = "add `from: STEP`, or name it in the `late: {to: …}` of a step";
                self.problems.push(problem.hint(hint));
            }
            for (index, node) in names {
                self.reference(name, index, node);
            }
        }
    }

    /// What a sink takes its rows from.
    fn reference(&mut self, sink: &str, index: Option<usize>, node: &Node) {
        let written = node.as_text().unwrap_or_default();
        let mut path = vec!["sinks".to_owned(), sink.to_owned(), "from".to_owned()];
        path.extend(index.map(|index| index.to_string()));
        let table = self.sources.get(written).is_some_and(|source| source.value.get("table").is_some());
        if table {
            let problem =
                Problem::new(path, format!("`{written}` is a table; a sink takes rows of a step or a stream"));
            return self.problems.push(problem.hint("read the table in a step, and write the step here"));
        }
        if self.full() || self.steps.contains_key(written) || self.sources.contains_key(written) {
            return;
        }
        let streams = self.sources.iter().filter(|(_, source)| source.value.get("table").is_none());
        let known: Vec<&str> = self.steps.keys().chain(streams.map(|(name, _)| name)).map(String::as_str).collect();
        let problem = Problem::new(path, format!("there is no step or stream `{}`", shown(node)));
        self.problems.push(with_near(problem, written, &known));
    }

    /// Warns of what nobody reads.
    fn unused(&mut self) {
        let mut used: HashMap<String, HashSet<&str>> = HashMap::new();
        for (name, entry) in self.steps {
            let sql = entry.value.get("sql").and_then(Node::as_text).unwrap_or_default();
            for word in sql.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()) {
                used.entry(word.to_ascii_lowercase()).or_default().insert(name);
            }
        }
        let taken: HashSet<&str> =
            self.sinks.values().flat_map(|sink| from(&sink.value)).filter_map(|(_, node)| node.as_text()).collect();
        for (group, map, what) in [("sources", self.sources, "source"), ("steps", self.steps, "step")] {
            for name in map.keys().filter(|name| !taken.contains(name.as_str())) {
                let readers = used.get(&name.to_ascii_lowercase());
                // A step that names itself does not use itself.
                let read = readers.is_some_and(|steps| steps.iter().any(|step| group == "sources" || step != name));
                if !read {
                    let problem =
                        Problem::new([group, name], format!("no step and no sink reads the {what} `{}`", short(name)));
                    let hint = "remove it, read it in a step's SQL, or name it in a sink's `from`";
                    self.problems.push(problem.at(Part::Key).warning().hint(hint));
                }
            }
        }
    }

    /// No sink can take part in exactly-once delivery yet.
    fn delivery(&mut self) {
        if self.root.get("delivery").and_then(Node::as_text) != Some("exactly_once") {
            return;
        }
        let cannot: Vec<String> = self
            .sinks
            .iter()
            .map(|(name, sink)| format!("{} ({})", short(name), connector(sink).unwrap_or("no connector")))
            .collect();
        let message = format!("exactly_once needs sinks that can take part; {} cannot yet", cannot.join(", "));
        let hint = "write `at_least_once`: no row is lost, and after a crash some may come again";
        self.problems.push(Problem::new(["delivery"], message).hint(hint));
    }

    fn dead_letter(&mut self) {
        if let Some(letter) = self.root.get("dead_letter")
            && letter.get("sse").is_some()
        {
            let message = "`sse` keeps nothing: a letter would be lost when nobody looks";
            let hint = "write the letters to: file, kafka, mqtt, http or stdout";
            self.problems.push(Problem::new(["dead_letter", "sse"], message).at(Part::Key).hint(hint));
        }
    }
}

/// The names in a sink's `from`, with their indices where it is a list.
fn from(sink: &Node) -> Vec<(Option<usize>, &Node)> {
    match sink.get("from").map(|node| (node, &node.kind)) {
        Some((_, Kind::List(items))) => items
            .iter()
            .enumerate()
            .filter(|(_, item)| item.as_text().is_some())
            .map(|(index, item)| (Some(index), item))
            .collect(),
        Some((node, _)) => node.as_text().map(|_| (None, node)).into_iter().collect(),
        None => Vec::new(),
    }
}

fn connector(sink: &Entry) -> Option<&'static str> {
    SINKS.iter().copied().find(|key| sink.value.get(key).is_some())
}

fn with_near(problem: Problem, written: &str, known: &[&str]) -> Problem {
    const LISTED_MAX: usize = 20;
    match nearest(written, known.iter().copied()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => problem.hint("there are none yet"),
        None if known.len() > LISTED_MAX => problem.hint(format!("there are: {}, …", known[..LISTED_MAX].join(", "))),
        None => problem.hint(format!("there are: {}", known.join(", "))),
    }
}

fn short(name: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    match name.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name.to_owned(),
    }
}
