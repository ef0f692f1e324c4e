//! How much YAML is read. What is above is refused with a text that names the limit.

/// How much YAML is read from one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlLimits {
    /// The most bytes of one file (1 MiB).
    pub file_bytes_max: usize,
    /// The most values in one file, with aliases written out (50,000).
    pub nodes_max: usize,
    /// The most bytes of text and keys, with aliases written out (4 MiB).
    pub expanded_bytes_max: usize,
    /// The most levels of lists and maps (64).
    pub depth_max: usize,
    /// The most bytes of a file named by `${file:…}` (64 KiB).
    pub included_bytes_max: usize,
    /// The most bytes of one text after its `${…}` were filled in (1 MiB).
    pub filled_bytes_max: usize,
}

impl Default for YamlLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: 1 << 20,
            nodes_max: 50_000,
            expanded_bytes_max: 4 << 20,
            depth_max: 64,
            included_bytes_max: 64 << 10,
            filled_bytes_max: 1 << 20,
        }
    }
}

/// The most mistakes that one load reports; further ones are only counted.
pub const PROBLEMS_MAX: usize = 200;
