//! Topic names and topic filters: what is valid, and what matches what.

/// The most bytes of a topic (its length has 16 bits).
pub(super) const TOPIC_BYTES_MAX: usize = 65_535;

/// Why `topic` cannot be published to, if it cannot.
pub(super) fn check_topic(topic: &str) -> Result<(), String> {
    if topic.is_empty() {
        return Err("an empty topic cannot be published to".into());
    }
    if topic.len() > TOPIC_BYTES_MAX {
        return Err(format!("a topic of {} bytes is too long; MQTT allows {TOPIC_BYTES_MAX}", topic.len()));
    }
    match topic.chars().find(|c| matches!(c, '+' | '#' | '\0')) {
        Some(wrong) => {
            Err(format!("the topic `{}` cannot be published to: it contains {wrong:?}", topic.escape_debug()))
        }
        None => Ok(()),
    }
}

/// Why `filter` cannot be subscribed to, if it cannot.
pub(super) fn check_filter(filter: &str) -> Result<(), String> {
    if filter.len() > TOPIC_BYTES_MAX || filter.contains('\0') {
        return Err("a topic filter has at most 65,535 bytes and no NUL".into());
    }
    let plain = match filter.strip_prefix("$share/") {
        None => filter,
        Some(rest) => match rest.split_once('/') {
            Some((group, filter)) if !group.is_empty() && !group.contains(['+', '#']) => filter,
            _ => return Err(format!("`{filter}` is no shared subscription; write $share/GROUP/FILTER")),
        },
    };
    if plain.is_empty() {
        return Err("an empty topic filter matches nothing; write # for all topics".into());
    }
    let last = plain.split('/').count() - 1;
    for (index, level) in plain.split('/').enumerate() {
        if level.contains('+') && level != "+" {
            return Err(format!("in `{filter}` the + must stand alone between slashes"));
        }
        if level.contains('#') && (level != "#" || index != last) {
            return Err(format!("in `{filter}` the # must stand alone at the end"));
        }
    }
    Ok(())
}

/// Whether a message for `topic` comes by a subscription to `filter` (shared or not).
pub(super) fn matches(topic: &str, filter: &str) -> bool {
    let filter = match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((_, filter)) => filter,
        None => filter,
    };
    // Wildcards at the front do not see the broker's own topics ($SYS).
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            // `a/#` matches `a` as well.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        for (topic, filter) in [
            ("a/b", "a/b"),
            ("a/b", "a/+"),
            ("a/b", "#"),
            ("a", "a/#"),
            ("a/b/c", "a/#"),
            ("é/ü", "+/ü"),
            ("/a", "+/a"),
            ("a/b", "$share/g/a/+"),
            ("$SYS/x", "$SYS/#"),
        ] {
            assert!(matches(topic, filter), "{topic} {filter}");
        }
        for (topic, filter) in [("a/b", "a"), ("a", "a/b"), ("a/b", "+"), ("$SYS/x", "#"), ("$SYS/x", "+/x"), ("", "a")]
        {
            assert!(!matches(topic, filter), "{topic} {filter}");
        }
    }

    #[test]
    fn wrong_filters_and_topics_say_what_is_wrong() {
        for filter in ["a/b", "+/a/#", "#", "$share/g/a", "/"] {
            check_filter(filter).unwrap();
        }
        for filter in ["", "a+/b", "a/#/b", "a#", "$share/g", "$share//a", "$share/g/", "a\0"] {
            check_filter(filter).unwrap_err();
        }
        check_topic("a/é").unwrap();
        for topic in ["", "a/+", "#", "a\0b", &"x".repeat(70_000)] {
            check_topic(topic).unwrap_err();
        }
    }
}
