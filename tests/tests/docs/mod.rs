//! The documentation says what is so: every whole pipeline in it can be planned, its tables of options are those of the
//! types, its links lead somewhere.
//!
//! Tables stand between `<!-- generated: … -->` and `<!-- end -->`. `MILLSTREAM_UPDATE_DOCS=1 cargo test -p
//! millstream-tests --test e2e docs` writes them anew. No service is needed.

mod reference;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream::functions::Engine;
use millstream::plan::{Environment, Plan};
use millstream::spec::problem::Severity;
use millstream::spec::{self, LoadOptions, Loaded, render};
use millstream_connectors::config::{SINKS, SOURCES, TABLES};
use millstream_connectors::routes::Routes;

const UPDATE: &str = "MILLSTREAM_UPDATE_DOCS";
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end -->";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The pages for people, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = repository();
    let mut files: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "udf-sdk/README.md"].map(|name| root.join(name)).into();
    for folder in ["docs", "docs/sql"] {
        let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|file| file.extension().is_some_and(|ending| ending == "md") && file.is_file());
    files.sort();
    files.into_iter().map(|file| (file.clone(), std::fs::read_to_string(&file).unwrap())).collect()
}

/// The blocks of a page in `language`: the line of the first line, and the text.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let begin = format!("```{language}");
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim_end() == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line.trim_end() == begin => open = Some((index + 2, String::new())),
            None => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// A block is a whole pipeline where its first key is one of a pipeline.
fn is_pipeline(block: &str) -> bool {
    let first = block.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    block.starts_with("# pipeline") || first.is_some_and(|line| line.starts_with("name:"))
}

/// Loads and plans a pipeline, with each of its profiles; fails the test where something in it is wrong.
async fn can_run(shown: &str, load: impl Fn(LoadOptions) -> Loaded) {
    // Nothing of this machine's environment; what shipped pipelines ask their tests for is there.
    let env: spec::Environment = Arc::new(|name: &str| (name == "OUTPUT").then(|| "out".to_owned()));
    let options = |profile: Option<String>| LoadOptions { profile, env: env.clone(), ..LoadOptions::default() };
    let plain = load(options(None));
    let mut profiles: Vec<Option<String>> = vec![None];
    profiles.extend(plain.spec.iter().flat_map(|spec| spec.profiles.keys().cloned().map(Some)));
    for profile in profiles {
        let data = tempfile::tempdir().unwrap();
        let environment = Environment {
            functions: Engine::new(None).unwrap(),
            routes: Arc::new(Routes::default()),
            data_dir: data.path().to_owned(),
        };
        let loaded = load(options(profile.clone()));
        let further = match &loaded.spec {
            Some(spec) => Box::pin(Plan::build(&loaded.file, spec, &environment)).await.1,
            None => Vec::new(),
        };
        let problems = loaded.located(&further);
        let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
        assert!(!failed, "{shown} (profile {profile:?}) has mistakes:\n{}", render::human(&problems, false));
    }
}

/// A folder with what the pipelines of the documentation read while they are planned.
fn beside_the_documentation() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["data", "pipelines/data", "pipelines/udf"] {
        std::fs::create_dir_all(path(name)).unwrap();
    }
    std::fs::copy(repository().join("pipelines/udf/thermal.wasm"), path("pipelines/udf/thermal.wasm")).unwrap();
    std::fs::write(path("data/depots.csv"), "depot,city,floors\nD1,Ghent,2\n").unwrap();
    std::fs::write(path("pipelines/data/devices.csv"), "device,site\nd1,Ghent\n").unwrap();
    folder
}

#[tokio::test]
async fn every_whole_pipeline_in_the_documentation_can_run() {
    let folder = beside_the_documentation();
    let file = folder.path().join("pipelines/from-the-documentation.yaml");
    let mut checked = 0;
    for (page, text) in pages() {
        for (line, block) in blocks(&text, "yaml").into_iter().filter(|(_, block)| is_pipeline(block)) {
            // ARCHITECTURE.md shows one whose files are not there.
            if page.ends_with("ARCHITECTURE.md") {
                continue;
            }
            let shown = format!("{}:{line}", page.display());
            can_run(&shown, |options| spec::load_text(&file, &block, &options)).await;
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} pipelines were found in the documentation");
}

#[tokio::test]
async fn every_pipeline_that_ships_can_run() {
    let (files, unreadable) = spec::find(&[repository().join("pipelines")]);
    assert!(unreadable.is_empty());
    for file in files {
        can_run(&file.display().to_string(), |options| spec::load(&file, &options)).await;
    }
}

/// The SQL of all steps of the golden folder `name`, or of the shipped pipeline of that name.
fn golden_sql(name: &str) -> Vec<String> {
    let pipelines = repository().join("pipelines");
    let own = pipelines.join("tests").join(name).join("pipeline.yaml");
    let file = if own.exists() { own } else { pipelines.join(format!("{name}.yaml")) };
    assert!(file.exists(), "there is no golden folder {name}");
    let env: spec::Environment = Arc::new(|name: &str| (name == "OUTPUT").then(|| "out".to_owned()));
    let loaded = spec::load(&file, &LoadOptions { env, ..LoadOptions::default() });
    let spec = loaded.spec.unwrap_or_else(|| panic!("{}: {:?}", file.display(), loaded.problems));
    spec.steps.values().map(|step| level(&step.sql)).collect()
}

/// `text` without the white space around it and before all of its lines.
fn level(text: &str) -> String {
    let lines = text.lines().map(str::trim_end).skip_while(|line| line.is_empty());
    let lines: Vec<&str> = lines.collect();
    let indents = lines.iter().filter(|line| !line.is_empty()).map(|line| line.len() - line.trim_start().len());
    let indent = indents.min().unwrap_or(0);
    let lines: Vec<&str> = lines.iter().map(|line| line.get(indent..).unwrap_or_default()).collect();
    lines.join("\n").trim_end().to_owned()
}

/// The folder that `<!-- golden: FOLDER -->` names in the line above the block that starts in line `line`.
fn golden_above(text: &str, line: usize) -> Option<&str> {
    // Line numbers count from 1; the line above the block's first is its fence.
    let above = text.lines().nth(line.checked_sub(3)?)?;
    above.trim().strip_prefix("<!-- golden: ")?.strip_suffix(" -->")
}

#[test]
fn every_query_in_the_sql_pages_is_one_that_a_golden_test_runs() {
    let root = repository().join("docs");
    let mut checked = 0;
    for (page, text) in pages() {
        if page != root.join("sql.md") && !page.starts_with(root.join("sql")) {
            continue;
        }
        for (line, block) in blocks(&text, "sql") {
            let shown = format!("{}:{line}", page.display());
            let folder = golden_above(&text, line).unwrap_or_else(|| {
                panic!("{shown}: the line above the block must be <!-- golden: FOLDER -->, with a folder of pipelines/tests")
            });
            let steps = golden_sql(folder);
            let found = steps.contains(&level(&block));
            assert!(found, "{shown}: no step of {folder} has this SQL; its steps are:\n\n{}", steps.join("\n\n"));
            checked += 1;
        }
    }
    assert!(checked >= 4, "only {checked} queries were found in the SQL pages");
}

/// `text` with everything between the marks made anew.
fn renewed(page: &Path, text: &str) -> String {
    let mut parts = text.split(BEGIN);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (what, rest) = part.split_once(" -->").unwrap_or_else(|| panic!("{}: a mark is cut", page.display()));
        let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("{}: `{what}` has no {END}", page.display()));
        out.push_str(&format!("{BEGIN}{what} -->\n\n{}\n{END}{after}", reference::generate(what)));
    }
    out
}

#[test]
fn the_tables_of_the_documentation_are_up_to_date() {
    for (page, text) in pages() {
        let wanted = renewed(&page, &text);
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(&page, &wanted).unwrap();
            continue;
        }
        assert!(
            text == wanted,
            "{} is stale: options or metrics have changed. Write it anew by\n\n    \
             {UPDATE}=1 cargo test -p millstream-tests --test e2e docs\n",
            page.display()
        );
    }
}

#[test]
fn every_connector_is_documented() {
    let text = std::fs::read_to_string(repository().join("docs/connectors.md")).unwrap();
    for (kind, names) in [("source", SOURCES), ("sink", SINKS), ("table", TABLES)] {
        for name in names {
            assert!(
                text.contains(&format!("{BEGIN}{kind} {name} -->")),
                "docs/connectors.md says nothing of the {kind} {name}"
            );
        }
    }
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut links = 0;
    for (page, text) in pages() {
        for part in text.split("](").skip(1) {
            let Some((target, _)) = part.split_once(')') else { continue };
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.contains(' ') {
                continue;
            }
            assert!(
                page.parent().unwrap().join(file).exists(),
                "{} links to {file}, which is not there",
                page.display()
            );
            links += 1;
        }
    }
    assert!(links > 5, "only {links} links were found");
}

#[test]
fn the_developers_script_has_every_command_that_the_documentation_names() {
    let root = repository();
    let output = std::process::Command::new(root.join("dev")).arg("help").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for (page, text) in pages() {
        for part in text.split("./dev ").skip(1) {
            let name: String = part.chars().take_while(char::is_ascii_lowercase).collect();
            assert!(name.is_empty() || help.contains(&format!("./dev {name} ")), "{}: ./dev {name}", page.display());
        }
    }
}
