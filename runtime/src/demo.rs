//! `millstream demo` (to be written).

use std::process::ExitCode;

use crate::cli::{DemoArguments, fail};

/// Runs the demo.
pub(crate) async fn run(_: DemoArguments) -> ExitCode {
    fail("not yet")
}
