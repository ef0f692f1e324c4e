//! Syntax errors, as they are shown.

use insta::assert_snapshot;

use super::errors;

/// Only the place, the message and the hint.
fn said(text: &str) -> String {
    let shown = errors(text);
    let keep = |line: &&str| line.starts_with("error") || line.contains("-->") || line.contains("help:");
    shown.lines().filter(keep).map(str::trim).collect::<Vec<_>>().join("\n")
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of texts and messages")]
fn syntax_errors_say_what_was_most_likely_meant() {
    assert_snapshot!(said("a:\n\tb: 1\n"), @r#"
    error: a tab cannot indent in YAML
    --> p.yaml:2:2
    = help: use spaces (two per level)
    "#);
    assert_snapshot!(said("a:b\nc: 1\n"), @r#"
    error: a `:` stands here, but the line above is no `key: value`
    --> p.yaml:2:2
    = help: a space may be missing after a `:` above: write `a: b`
    "#);
    assert_snapshot!(said("name: x\nsources\n  a: 1\n"), @r#"
    error: this line is no `key: value`
    --> p.yaml:2:1
    = help: a `:` may be missing: write `sources:`
    "#);
    assert_snapshot!(said("a: 'x\nb: 1\n"), @r#"
    error: a quote that was opened above is not closed before this line
    --> p.yaml:2:1
    = help: close it; inside '…' write '' for a quote, inside "…" write \"
    "#);
    assert_snapshot!(said("a: \"x\n"), @r#"
    error: a quote that was opened above is not closed before this line
    --> p.yaml:2:1
    = help: close it; inside '…' write '' for a quote, inside "…" write \"
    "#);
    assert_snapshot!(said("a: [1, 2\nb: 3\n"), @r#"
    error: a `,` or `]` is missing here
    --> p.yaml:2:2
    = help: separate items by `, ` and close the `[`
    "#);
    assert_snapshot!(said("a: {x: ${A}}\n"), @r#"
    error: `${…}` inside {…} or […] must be quoted
    --> p.yaml:1:9
    = help: write "${NAME}" with double quotes
    "#);
    assert_snapshot!(said("a: x: y\n"), @r#"
    error: a second `: ` on this line cannot be read
    --> p.yaml:1:5
    = help: quote the value if the `:` belongs to it
    "#);
    assert_snapshot!(said("a: @x\n"), @r#"
    error: a value cannot start with `@`
    --> p.yaml:1:4
    = help: quote the value
    "#);
    assert_snapshot!(said("a: {b: 1]\n"), @r#"
    error: `{` is closed by `]`
    --> p.yaml:1:4
    = help: write `}`
    "#);
    assert_snapshot!(said("a: 1\n b: 2\n"), @r#"
    error: a key cannot stand here
    --> p.yaml:2:3
    = help: indent it like the other keys of its map, or put the value above it on a line of its own
    "#);
    assert_snapshot!(said("a:\n  b: 1\n c: 2\n"), @r#"
    error: this line does not fit the indentation of the lines above it
    --> p.yaml:3:2
    = help: indent keys of the same map by the same number of spaces
    "#);
    assert_snapshot!(said("a: - b\n"), @r#"
    error: a list cannot start on the line of its key
    --> p.yaml:1:4
    = help: put `- …` on the next line, or write [a, b]
    "#);
    assert_snapshot!(said("a: \"x\" y\n"), @r#"
    error: something stands behind the closing quote
    --> p.yaml:1:8
    = help: quote the whole value, or escape the quote inside it
    "#);
    assert_snapshot!(said("a: \"\\q\"\n"), @r#"
    error: this is no escape that YAML knows in "…"
    --> p.yaml:1:4
    = help: write \\ for a backslash, or use '…' quotes
    "#);
    assert_snapshot!(said(""), @r#"
    error: the file is empty
    --> p.yaml:1:1
    = help: a pipeline needs at least `sources:` and `sinks:`
    "#);
    assert_snapshot!(said("a: 1\n---\nb: 1\n"), @r#"
    error: a second YAML document starts here; a file holds one
    --> p.yaml:2:1
    = help: put it into a file of its own, or remove the `---`
    "#);
    assert_snapshot!(said("a: *nope\n"), @r#"
    error: `*nope` names an anchor that does not exist above
    --> p.yaml:1:4
    = help: write `&nope` at the value meant, or quote the text
    "#);
    assert_snapshot!(said("a: &x [*x]\n"), @r#"
    error: this alias stands inside the value that it repeats
    --> p.yaml:1:8
    "#);
    assert_snapshot!(said("<<: {a: 1}\n"), @r#"
    error: merge keys (`<<`) are not part of YAML 1.2 and are not read
    --> p.yaml:1:1
    = help: write the keys out, repeat a whole value by an alias, or use `profiles`
    "#);
    assert_snapshot!(said("? [a]\n: 1\n"), @r#"
    error: a list or map cannot be a key
    --> p.yaml:1:3
    = help: write a text before the `:`; quote a `{` or `[`
    "#);
}

#[test]
fn a_key_written_twice_is_reported_at_the_second_one_and_does_not_hide_others() {
    let text =
        "name: x\nname: y\nsources: {a: {http: {}, linger: 1s, linger: 2s}}\nsinks: {o: {from: b, stdout: {}}}\n";
    assert_snapshot!(errors(text), @r#"
    error: `name` is written twice; the first one is in line 1
     --> p.yaml:2:1
      |
    2 | name: y
      | ^^^^
      = help: remove one, or give it another name

    error: `linger` is written twice; the first one is in line 3
     --> p.yaml:3:37
      |
    3 | sources: {a: {http: {}, linger: 1s, linger: 2s}}
      |                                     ^^^^^^
      = help: remove one, or give it another name

    error: there is no step or stream `b`
     --> p.yaml:4:19
      |
    4 | sinks: {o: {from: b, stdout: {}}}
      |                   ^
      = at sinks.o.from
      = help: there are: a

    3 errors
    "#);
}

#[test]
fn tags_are_refused_and_core_tags_are_followed() {
    let text = "name: !!str 5\nsources: {a: {http: {}}}\nsinks: {o: {from: a, stdout: {}, description: !secret x}}\n";
    assert_snapshot!(errors(text), @r#"
    error: the tag `!secret` means nothing here
     --> p.yaml:3:55
      |
    3 | sinks: {o: {from: a, stdout: {}, description: !secret x}}
      |                                                       ^
      = help: remove it

    1 error
    "#);
}

#[test]
fn aliases_repeat_values_with_their_places() {
    let text = "sources:\n  a: &a\n    http: {}\n    lingr: 1s\n  b: *a\nsinks: {o: {from: [a, b], stdout: {}}}\n";
    assert_snapshot!(errors(text), @r#"
    error: `lingr` is not a key here
     --> p.yaml:4:5
      |
    4 |     lingr: 1s
      |     ^^^^^
      = at sources.a.lingr
      = help: did you mean `linger`?

    error: `lingr` is not a key here
     --> p.yaml:4:5
      |
    4 |     lingr: 1s
      |     ^^^^^
      = at sources.b.lingr
      = help: did you mean `linger`?

    2 errors
    "#);
}
