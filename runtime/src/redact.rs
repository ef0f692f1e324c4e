//! Secrets never reach the log: every line goes through here on its way to stderr.

use std::io::{self, Write};
use std::sync::{Arc, PoisonError, RwLock};

use tracing_subscriber::fmt::MakeWriter;

use crate::spec::Secrets;

/// The secrets of all files that were read so far. They only grow: a secret that was replaced is still one.
#[derive(Debug, Clone, Default)]
pub struct SharedSecrets(Arc<RwLock<Secrets>>);

impl SharedSecrets {
    /// Adds the secrets of a file.
    pub fn merge(&self, secrets: &Secrets) {
        if !secrets.is_empty() {
            self.0.write().unwrap_or_else(PoisonError::into_inner).merge(secrets);
        }
    }

    /// `text` with secrets as `***`.
    pub fn redact(&self, text: &str) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).redact(text)
    }
}

/// Writes lines to stderr, without secrets. (The log's formatter writes whole lines.)
#[derive(Debug)]
pub struct RedactedStderr(SharedSecrets);

impl Write for RedactedStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = self.0.redact(&String::from_utf8_lossy(bytes));
        io::stderr().lock().write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl<'a> MakeWriter<'a> for SharedSecrets {
    type Writer = RedactedStderr;

    fn make_writer(&'a self) -> Self::Writer {
        RedactedStderr(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_a_secret_stays_one() {
        let shared = SharedSecrets::default();
        for secret in ["hunter22", "s3cret-token"] {
            let mut secrets = Secrets::default();
            secrets.add(secret);
            shared.merge(&secrets);
        }
        assert_eq!(shared.redact("hunter22 and s3cret-token and more"), "*** and *** and more");
    }
}
