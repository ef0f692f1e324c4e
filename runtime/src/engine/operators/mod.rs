//! One operator per file.

pub(crate) mod aggregate;
pub(crate) mod stateless;
pub(crate) mod window_assign;
