//! Every character of a text maps to the place in the file where it stands.

use proptest::prelude::*;

use super::super::limits::YamlLimits;
use super::super::node::Node;
use super::super::parse::parse;
use super::super::text_map;

/// Checks that each character of the value of `sql` that is not white space is found at its place.
fn every_character_is_found(file: &str) -> usize {
    let parsed = parse(file, 0, &YamlLimits::default());
    let root: Node = parsed.root.unwrap_or_else(|| panic!("{:?}\n{file}", parsed.problems));
    let node = root.get("steps").unwrap().get("s").unwrap().get("sql").unwrap();
    let text = node.as_text().unwrap();
    let positions = text_map::positions(file, node);
    assert_eq!(positions.len(), text.chars().count() + 1);
    let (mut line, mut column, mut found) = (1, 1, 0);
    for (index, c) in text.chars().enumerate() {
        assert_eq!(text_map::locate(file, node, line, column), positions[index], "{line}:{column}");
        if !c.is_whitespace() {
            let rest = &file[positions[index]..];
            assert!(
                rest.starts_with(c) || rest.starts_with('\\'),
                "{c:?} at {line}:{column} of {text:?} in {file:?}: {rest:?}"
            );
            found += 1;
        }
        (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
    }
    found
}

#[test]
fn every_character_of_a_block_is_found_in_every_style() {
    let bodies = [
        "|\n      SELECT a,\n        b -- é 温度\n\n      FROM c\n",
        "|-\n      SELECT a\n      FROM c\n\n\n",
        "|+2\n      SELECT a\n        FROM c\n\n",
        "|8\n            SELECT a\n            FROM c\n",
        "\n\n      SELECT a\n      FROM c\n        WHERE x\n",
        "|\n\n\n      SELECT a\n      FROM c\n",
        ">\n      SELECT a,\n      b\n\n      FROM c\n        indented 1\n        indented 2\n      WHERE d\n",
        ">-\n\n      SELECT a,\n      b\n\n\n      FROM c\n",
        "'SELECT ''a'', b\n      FROM c\n\n      WHERE d = ''x'''\n",
        "\"SELECT \\\"a\\\", \\u0041\\x42 \\\n      b\n      FROM c\\n\\n  WHERE d\"\n",
        "SELECT a\n      FROM c\n\n      WHERE d\n",
        "&anchor |\n      SELECT a\n      FROM c\n",
        "| # comment\n      SELECT a\n      FROM c\n",
    ];
    for body in bodies {
        let file = format!("steps:\n  s:\n    sql: {body}  t:\n    sql: x\n");
        assert!(every_character_is_found(&file) >= 12, "{file}");
        every_character_is_found(&file.replace('\n', "\r\n"));
        every_character_is_found(&format!("\u{feff}{file}"));
    }
}

proptest! {
    #[test]
    fn every_character_of_any_block_is_found(
        lines in proptest::collection::vec("[a-zé温] {0,3}[a-z,é(]{0,8}( [a-z]{1,4}){0,2}|", 1..8),
        more in proptest::collection::vec(0usize..4, 8),
        header in prop_oneof![Just("|"), Just("|-"), Just("|+"), Just(">"), Just(">-"), Just(">+")],
        indent in 5usize..9,
    ) {
        let mut file = format!("steps:\n  s:\n    sql: {header}\n");
        let mut first = true;
        for (line, more) in lines.iter().zip(more) {
            // The first line with text says the indentation.
            let more = if first { 0 } else { more };
            first &= line.is_empty();
            let indentation = if line.is_empty() { 0 } else { indent + more };
            file.push_str(&format!("{}{line}\n", " ".repeat(indentation)));
        }
        every_character_is_found(&file);
    }

    #[test]
    fn every_character_of_any_quoted_text_is_found(text in "[a-z'\"\\\\ é\n\t:#]{0,40}") {
        let json = serde_json::to_string(&text).unwrap();
        every_character_is_found(&format!("steps: {{s: {{sql: {json}}}}}\n"));
        let single = text.replace('\'', "''").replace(['\n', '\t'], " ");
        every_character_is_found(&format!("steps: {{s: {{sql: '{single}'}}}}\n"));
    }
}
