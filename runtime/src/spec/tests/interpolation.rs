//! `${…}`.

use insta::assert_snapshot;
use proptest::prelude::*;

use super::super::problem::{Part, Problem};
use super::{GOOD, load_with, shown};

/// The description after loading, with `NAME` set to `value`.
fn description(written: &str, env: &[(&str, &str)]) -> Result<String, String> {
    let quoted = serde_json::to_string(written).unwrap();
    let loaded = load_with(&format!("description: {quoted}\n{GOOD}"), env, None);
    match &loaded.spec {
        Some(spec) => Ok(spec.description.clone().unwrap_or_default()),
        None => Err(shown(&loaded)),
    }
}

#[test]
fn variables_defaults_and_literals() {
    let env = [("A", "1"), ("EMPTY", "")];
    for (written, expected) in [
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${B:-b}", "b"),
        ("${EMPTY:-b}", "b"),
        ("${EMPTY}", ""),
        ("${A:-b}", "1"),
        ("${A:?must be}", "1"),
        ("${B:-}", ""),
        ("${B:-{\"a\": {}}}", "{\"a\": {}}"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ $$ {A}", "$A $ $$ {A}"),
        ("${file:-x}", "x"),
    ] {
        assert_eq!(description(written, &env).as_deref(), Ok(expected), "{written}");
    }
}

#[test]
fn what_is_wrong_in_a_placeholder_is_shown_at_its_place() {
    let text = format!(
        "description: \"é \\\"q\\\" ${{NOPE}} and ${{A-b}} and ${{1}} and ${{B:?say which broker}} and ${{\"\n{GOOD}"
    );
    assert_snapshot!(shown(&load_with(&text, &[], None)), @r#"
    error: the variable NOPE is not set
     --> p.yaml:1:23
      |
    1 | description: "é \"q\" ${NOPE} and ${A-b} and ${1} and ${B:?say which broker} and ${"
      |                       ^^^^^^^
      = at description
      = help: set NOPE where millstream runs, or give a default: ${NOPE:-value}

    error: `${A-b}` cannot be read behind the name A
     --> p.yaml:1:35
      |
    1 | description: "é \"q\" ${NOPE} and ${A-b} and ${1} and ${B:?say which broker} and ${"
      |                                   ^^^^^^
      = at description
      = help: write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:/path}; `$${` is the text `${`

    error: `${1}` names no variable
     --> p.yaml:1:46
      |
    1 | description: "é \"q\" ${NOPE} and ${A-b} and ${1} and ${B:?say which broker} and ${"
      |                                              ^^^^
      = at description
      = help: write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:/path}; `$${` is the text `${`

    error: the variable B is not set: say which broker
     --> p.yaml:1:55
      |
    1 | description: "é \"q\" ${NOPE} and ${A-b} and ${1} and ${B:?say which broker} and ${"
      |                                                       ^^^^^^^^^^^^^^^^^^^^^^
      = at description
      = help: set B where millstream runs

    error: this `${` is not closed
     --> p.yaml:1:82
      |
    1 | description: "é \"q\" ${NOPE} and ${A-b} and ${1} and ${B:?say which broker} and ${"
      |                                                                                  ^^
      = at description
      = help: add the `}`, or write `$${` where the text itself is meant

    5 errors
    "#);
}

#[test]
fn a_whole_value_becomes_a_number_where_one_is_wanted() {
    let text =
        GOOD.to_owned() + "limits: {parallelism: \"${P}\", queue_rows_max: \"${Q:-5}\"}\nlabels: {n: \"${P}\"}\n";
    let spec = load_with(&text, &[("P", "4")], None).spec.unwrap();
    assert_eq!((spec.limits.parallelism, spec.limits.queue_rows_max), (4, 5));
    assert_eq!(spec.labels["n"], "4");
    let wrong = shown(&load_with(&text, &[("P", "four")], None));
    assert!(wrong.contains("a whole number from 0 to 256 is wanted here, not the text `four`"), "{wrong}");
    let wrong = shown(&load_with(&text, &[("P", "999")], None));
    assert!(wrong.contains("999 is too large"), "{wrong}");
}

#[test]
fn keys_are_never_filled_in() {
    let loaded = load_with(&format!("{GOOD}labels: {{\"${{A}}\": x}}\n"), &[("A", "1")], None);
    assert_eq!(loaded.spec.unwrap().labels["${A}"], "x");
}

#[test]
fn places_in_sql_stay_right_behind_what_was_filled_in() {
    let text = GOOD.replace("WHERE v > 1", "WHERE v > ${MIN} AND nope");
    let loaded = load_with(&text, &[("MIN", "-1234567\n + 1")], None);
    assert!(loaded.spec.as_ref().unwrap().steps["warm"].sql.contains("> -1234567\n + 1 AND nope"));
    let problem =
        Problem::new(["steps", "warm", "sql"], "there is no column `nope`").at(Part::Text { line: 4, column: 10 });
    assert_snapshot!(super::super::render::human(&loaded.located(&[problem]), false), @r#"
    error: there is no column `nope`
      --> p.yaml:11:28
       |
    11 |       WHERE v > ${MIN} AND nope
       |                            ^^^^
       = at steps.warm.sql

    1 error
    "#);
}

#[test]
fn secrets_are_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "tok-6f1\n").unwrap();
    let text = format!(
        "{}limits: {{parallelism: \"${{DB_PASSWORD}}\", stop_timeout: \"${{file:{}}}\"}}\ndelivery: \"x ${{API_TOKEN}}\"\nlabels: {{url: \"http://u:pa55w@h/\", hunter2: 5}}\n",
        GOOD,
        folder.path().join("token").display()
    );
    let loaded = load_with(&text, &[("DB_PASSWORD", "hunter2"), ("API_TOKEN", "t0k3n")], None);
    assert_eq!(loaded.files_read, [folder.path().join("token")]);
    let located = loaded.located(&[]);
    let all = format!("{:?} {} {}", loaded.problems, shown(&loaded), super::super::render::json(&located));
    for secret in ["hunter2", "t0k3n", "tok-6f1"] {
        let all = all.replace("labels.hunter2", "").replace("\"hunter2\"]", "").replace("labels: {url", "");
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    assert!(located.len() >= 4, "{all}");
    assert_eq!(loaded.secrets.redact("a pa55w, a hunter2 and tok-6f1"), "a ***, a *** and ***");
}

#[test]
fn files_are_bounded_and_must_be_files() {
    let error = description("${file:/}", &[]).unwrap_err();
    assert!(error.contains("is not a regular file"), "{error}");
    let error = description("${file:/dev/zero}", &[]).unwrap_err();
    assert!(error.contains("is not a regular file"), "{error}");
    let error = description("${file:/does/not/exist}", &[]).unwrap_err();
    assert!(error.contains("cannot be read"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("big"), vec![b'x'; 70_000]).unwrap();
    let error = description(&format!("${{file:{}/big}}", folder.path().display()), &[]).unwrap_err();
    assert!(error.contains("included_bytes_max"), "{error}");
}

proptest! {
    #[test]
    fn a_value_is_never_read_as_yaml(value in "\\PC{0,30}|[#:\n{}\\[\\]\"'&*!|>%@ -]{1,20}") {
        prop_assert_eq!(description("<${A}>", &[("A", &value)]), Ok(format!("<{value}>")));
    }

    #[test]
    fn text_without_placeholders_stays_as_it_is(text in "[a-z$ {}:?-]{0,30}") {
        prop_assume!(!text.contains("${"));
        prop_assert_eq!(description(&text, &[]), Ok(text));
    }

    #[test]
    fn an_escaped_placeholder_stands_for_itself(name in "[A-Z]{1,5}") {
        let text = format!("$${{{name}}}");
        prop_assert_eq!(description(&text, &[(&name, "no")]), Ok(format!("${{{name}}}")));
    }
}
