//! What is compared: a daemon's binary with settings for its pipelines and its environment.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::args::Args;
use crate::failure::{Result, failed};

/// A daemon and its settings.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// For the table; empty where there is only one.
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    set: Vec<Setting>,
    pub(crate) environment: Vec<(String, String)>,
}

/// A value for a place in every pipeline.
#[derive(Debug, Clone, PartialEq)]
struct Setting {
    path: Vec<String>,
    value: Value,
}

impl Setting {
    fn parse(text: &str) -> Result<Self> {
        let parsed = text.strip_prefix('/').and_then(|text| text.split_once('='));
        let Some((path, value)) = parsed.filter(|(path, _)| !path.is_empty()) else {
            return failed(format!("`{text}` is not /PATH=VALUE"));
        };
        let path = path.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        // What is no JSON (`20ms`) is a text.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { path, value })
    }

    /// Puts the value in its place; maps on the way are made.
    fn apply(&self, pipeline: &mut Value) {
        let mut place = pipeline;
        for name in &self.path {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[name.as_str()];
        }
        *place = self.value.clone();
    }
}

fn variable(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => failed(format!("`{text}` is not NAME=VALUE")),
    }
}

impl Variant {
    /// Every daemon with the plain settings and with those of every `--variant`.
    pub(crate) fn all(args: &Args) -> Result<Vec<Self>> {
        let binaries = if args.daemon.is_empty() { vec![beside_this_program()?] } else { args.daemon.clone() };
        let mut variants = Vec::new();
        for binary in &binaries {
            let Ok(path) = binary.canonicalize() else {
                return failed(format!("there is no daemon at {}", binary.display()));
            };
            for settings in std::iter::once("").chain(args.variant.iter().map(String::as_str)) {
                let mut variant = Self {
                    name: name(binary, settings, binaries.len() > 1, !args.variant.is_empty()),
                    binary: path.clone(),
                    set: Vec::new(),
                    environment: Vec::new(),
                };
                let all = args.set.iter().chain(&args.env).map(String::as_str).chain(settings.split_whitespace());
                for setting in all {
                    variant.add(setting)?;
                }
                variants.push(variant);
            }
        }
        Ok(variants)
    }

    fn add(&mut self, setting: &str) -> Result<()> {
        if setting.starts_with('/') {
            self.set.push(Setting::parse(setting)?);
        } else {
            self.environment.push(variable(setting)?);
        }
        Ok(())
    }

    /// The text of a file with `pipeline` and this variant's settings: JSON, which is YAML as well. What a setting names
    /// and the pipeline does not have (`/sources/readings/mqtt/…` where there is Kafka) is the daemon's to refuse.
    pub(crate) fn yaml(&self, pipeline: &Value) -> Result<String> {
        let mut pipeline = pipeline.clone();
        for setting in &self.set {
            setting.apply(&mut pipeline);
        }
        Ok(serde_json::to_string_pretty(&pipeline)?)
    }
}

fn name(binary: &std::path::Path, settings: &str, several_daemons: bool, several_settings: bool) -> String {
    let settings = if settings.is_empty() { "plain" } else { settings };
    match (several_daemons, several_settings) {
        (false, false) => String::new(),
        (true, false) => binary.display().to_string(),
        (false, true) => settings.to_owned(),
        (true, true) => format!("{} {settings}", binary.display()),
    }
}

fn beside_this_program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let daemon = own.with_file_name("millstream");
    if daemon.is_file() {
        return Ok(daemon);
    }
    failed(format!(
        "there is no daemon at {}: build it (cargo build --release -p millstream), or name one with --daemon",
        daemon.display()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain() -> Variant {
        Variant { name: String::new(), binary: PathBuf::new(), set: Vec::new(), environment: Vec::new() }
    }

    #[test]
    fn settings_reach_their_places() {
        let mut variant = plain();
        for setting in ["/limits/parallelism=2", "/sinks/out/kafka/librdkafka/linger.ms=20ms", "MALLOC=x=y"] {
            variant.add(setting).unwrap();
        }
        let yaml = variant.yaml(&json!({"name": "p", "limits": {"batch_rows_max": 1}})).unwrap();
        let made: Value = serde_json::from_str(&yaml).unwrap();
        assert_eq!(made["limits"], json!({"batch_rows_max": 1, "parallelism": 2}));
        assert_eq!(made["sinks"]["out"]["kafka"]["librdkafka"], json!({"linger.ms": "20ms"}));
        assert_eq!(variant.environment, [("MALLOC".to_owned(), "x=y".to_owned())]);
    }

    #[test]
    fn settings_without_a_place_or_a_value_are_refused() {
        for wrong in ["/limits", "/=1", "NAME", "=1"] {
            assert!(plain().add(wrong).is_err(), "{wrong}");
        }
    }
}
