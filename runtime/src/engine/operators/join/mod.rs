//! Joins of two streams on time: [`interval`] joins rows whose times are near each other, [`as_of`] joins a row with
//! the newest version of its key. Both keep the rows of either side in Arrow batches ([`store`]) and find them by key
//! and time ([`index`]).

pub(crate) mod as_of;
mod index;
pub(crate) mod interval;
pub(crate) mod residual;
pub(crate) mod side;
mod state;
mod store;
