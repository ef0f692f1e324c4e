//! Values that must never be shown, and their removal from texts.

use std::collections::BTreeSet;
use std::fmt;

/// Shorter values are not looked for: they would blot out unrelated text. (They are not shown by the loader either,
/// which knows the places that hold them.)
const SECRET_CHARS_MIN: usize = 3;
/// Lines of a secret of several lines (a key in PEM) are looked for one by one too, if they are at least so long.
const SECRET_LINE_CHARS_MIN: usize = 8;

/// The secret values of a pipeline.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    values: BTreeSet<String>,
}

impl Secrets {
    /// Adds a value.
    pub fn add(&mut self, value: &str) {
        let value = value.trim();
        if value.chars().count() >= SECRET_CHARS_MIN {
            self.values.insert(value.to_owned());
        }
        if value.contains('\n') {
            let lines = value.lines().map(str::trim).filter(|line| line.chars().count() >= SECRET_LINE_CHARS_MIN);
            // The armour of a PEM file is no secret, and would blot out certificates.
            self.values.extend(lines.filter(|line| !line.starts_with("-----")).map(str::to_owned));
        }
    }

    /// Adds those of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.values.extend(other.values.iter().cloned());
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// `text` with every secret in it replaced by `***`.
    pub fn redact(&self, text: &str) -> String {
        self.replace(text, |_| "***".to_owned())
    }

    /// `text` with every character of a secret in it replaced by `*`: columns stay where they are.
    pub fn mask(&self, text: &str) -> String {
        self.replace(text, |secret| "*".repeat(secret.chars().count()))
    }

    fn replace(&self, text: &str, with: impl Fn(&str) -> String) -> String {
        let mut found: Vec<&String> = self.values.iter().filter(|value| text.contains(value.as_str())).collect();
        // A secret that is part of another one must not break that one up.
        found.sort_by_key(|value| std::cmp::Reverse(value.len()));
        found.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), &with(secret)))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} values)", self.values.len())
    }
}

/// True where a variable of that name holds a secret, by its name.
pub(super) fn name_is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let anywhere = ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "APIKEY"];
    anywhere.iter().any(|word| name.contains(word))
        || name.split('_').any(|word| matches!(word, "KEY" | "KEYS" | "PASS" | "PWD" | "PW" | "AUTH" | "PRIVATE"))
}

/// The password in `scheme://user:password@host`.
pub(super) fn url_password(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#', ' ', '\n']).next()?;
    let (user_info, _) = authority.rsplit_once('@')?;
    user_info.split_once(':').map(|(_, password)| password).filter(|password| !password.is_empty())
}
