//! Where the queries are: `tests/nexmark/q*.yaml`, which the tests compare with batch SQL.

use std::path::{Path, PathBuf};

/// Those that are measured where none is named.
pub(crate) const MEASURED: &[&str] = &["q0", "q1", "q2", "q5", "q7", "q8", "q9", "q11", "q18"];

/// The folder of the queries, in the sources of this program.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/nexmark")
}

/// The file of the query `name`.
pub(crate) fn file(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let file = folder.join(format!("{name}.yaml"));
    if file.is_file() { Ok(file) } else { Err(format!("there is no query {name} ({})", file.display())) }
}
