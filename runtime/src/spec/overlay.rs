//! Profiles: one tree laid over another. Every node keeps its own position.

use millstream_connectors::config::{SINKS, SOURCES, TABLES};

use super::node::{Entry, Kind, Map, Node};
use super::problem::{Problem, nearest};

/// Lays the profile `name` over `root`. Profiles stay where they are.
pub(super) fn apply(root: &mut Node, name: &str) -> Result<(), Problem> {
    let profiles = root.get("profiles").and_then(Node::as_map);
    let Some(profile) = profiles.and_then(|profiles| profiles.get(name)) else {
        let known: Vec<&str> = profiles.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let path: &[&str] = if profiles.is_some() { &["profiles"] } else { &[] };
        let problem = Problem::new(path.iter().copied(), format!("there is no profile `{name}`"));
        return Err(match (nearest(name, known.iter().copied()), known.is_empty()) {
            (_, true) => problem.hint(format!("add it under `profiles: {{{name}: …}}`, or run without --profile")),
            (Some(near), _) => problem.hint(format!("did you mean `{near}`?")),
            (None, _) => problem.hint(format!("there are: {}", known.join(", "))),
        });
    };
    let profile = profile.value.clone();
    if matches!(profile.kind, Kind::Map(_)) {
        lay(root, &profile, &mut Vec::new());
    }
    Ok(())
}

/// Lays `over` over `base`: maps are joined, everything else is replaced, null removes.
fn lay<'a>(base: &mut Node, over: &'a Node, path: &mut Vec<&'a str>) {
    let (Kind::Map(below), Kind::Map(above)) = (&mut base.kind, &over.kind) else {
        base.kind = over.kind.clone();
        base.span = over.span;
        return;
    };
    let connectors = connectors_at(path);
    replace_connector(below, above, &connectors);
    for (key, entry) in above {
        if entry.value.kind == Kind::Null {
            below.shift_remove(key);
            continue;
        }
        // A format is one thing with its options, as a connector is.
        let whole = !connectors.is_empty() && (key == "format" || connectors.contains(&key.as_str()));
        path.push(key);
        match below.get_mut(key) {
            Some(there) if !whole => {
                if !matches!((&there.value.kind, &entry.value.kind), (Kind::Map(_), Kind::Map(_))) {
                    there.key_span = entry.key_span;
                }
                lay(&mut there.value, &entry.value, path);
            }
            _ => {
                let mut value = entry.value.clone();
                if !whole && let Kind::Map(_) = value.kind {
                    // Laid over nothing, so that nulls in it remove nothing but do not stay.
                    value.kind = Kind::Map(Map::new());
                    lay(&mut value, &entry.value, path);
                }
                below.insert(key.clone(), Entry { key_span: entry.key_span, value });
            }
        }
        path.pop();
    }
}

/// The keys that name connectors in the map at `path`; none where it is no source, sink or dead letter.
pub(super) fn connectors_at(path: &[&str]) -> Vec<&'static str> {
    match path {
        ["sources", _] => SOURCES.iter().chain(TABLES.iter().filter(|name| !SOURCES.contains(name))).copied().collect(),
        ["sinks", _] | ["dead_letter"] => SINKS.to_vec(),
        _ => Vec::new(),
    }
}

/// Where the profile names a connector, the one below goes.
fn replace_connector(below: &mut Map, above: &Map, connectors: &[&str]) {
    let named =
        |key: &str| connectors.contains(&key) && above.get(key).is_some_and(|entry| entry.value.kind != Kind::Null);
    if !above.keys().any(|key| named(key)) {
        return;
    }
    below.retain(|key, _| !connectors.contains(&key.as_str()));
    if named("generate") {
        below.shift_remove("format");
    }
}
