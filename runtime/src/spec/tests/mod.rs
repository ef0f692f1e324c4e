//! Tests of the YAML language as a user sees it: text in, rendered mistakes out.

mod errors;
mod event_time;
mod files;
mod interpolation;
mod limits;
mod positions;
mod profiles;
mod schemas;
mod syntax;
mod validation;

use std::path::Path;
use std::sync::Arc;

use super::{LoadOptions, Loaded, load_text, render};

/// Loads with an environment of its own.
fn load_with(text: &str, env: &[(&str, &str)], profile: Option<&str>) -> Loaded {
    let env: Vec<(String, String)> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let lookup = move |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let options = LoadOptions { profile: profile.map(str::to_owned), env: Arc::new(lookup), ..LoadOptions::default() };
    load_text(Path::new("p.yaml"), text, &options)
}

fn load_plain(text: &str) -> Loaded {
    load_with(text, &[], None)
}

/// What a user sees.
fn shown(loaded: &Loaded) -> String {
    render::human(&loaded.located(&[]), false)
}

fn errors(text: &str) -> String {
    shown(&load_plain(text))
}

/// A pipeline without mistakes.
const GOOD: &str = "\
sources:
  readings:
    http: {}
    columns: {ts: timestamp, v: double}
    event_time: {column: ts, watermark: 5s}
steps:
  warm:
    sql: |
      SELECT ts, v
      FROM readings
      WHERE v > 1
sinks:
  out:
    from: warm
    stdout: {}
";
