//! What the oracle once found, in small.
