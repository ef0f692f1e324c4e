//! The loops over rows: slices of numbers in, a vector of numbers out, nothing allocated per row.
//!
//! Functions whose one to four arguments have all the same type (and those without arguments) are called through
//! wasmtime's typed path, about 20 ns a call; other mixtures go through [`Val`], about three times that. They know
//! neither Arrow's types nor names; that is `scalar`.

use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::ArrowNativeType;
use wasmtime::{Error, Func, Store, TypedFunc, Val, WasmTy};

use super::instance::Host;
use super::scalar::{Kind, Signature};

/// The values of a column as WebAssembly sees them.
#[derive(Debug, Clone)]
pub(super) enum Column {
    I32(ScalarBuffer<i32>),
    I64(ScalarBuffer<i64>),
    F32(ScalarBuffer<f32>),
    F64(ScalarBuffer<f64>),
}

/// An exported function, called for every row.
pub(super) trait RowLoop: Send {
    /// Calls it for every row that `nulls` does not mask; the other results are 0. The error names its row.
    fn run(
        &self,
        store: &mut Store<Host>,
        arguments: &[Column],
        nulls: Option<&NullBuffer>,
        rows: usize,
    ) -> Result<Column, (usize, Error)>;
}

/// A Rust number that is a WebAssembly number.
trait Number: WasmTy + ArrowNativeType + Default {
    fn values(column: &Column) -> Option<&[Self]>;
    fn column(values: Vec<Self>) -> Column;
}

macro_rules! number {
    ($type:ty, $variant:ident) => {
        impl Number for $type {
            fn values(column: &Column) -> Option<&[Self]> {
                if let Column::$variant(values) = column { Some(values) } else { None }
            }

            fn column(values: Vec<Self>) -> Column {
                Column::$variant(values.into())
            }
        }
    };
}

number!(i32, I32);
number!(i64, I64);
number!(f32, F32);
number!(f64, F64);

impl Column {
    fn value(&self, row: usize) -> Option<Val> {
        Some(match self {
            Self::I32(values) => Val::I32(*values.get(row)?),
            Self::I64(values) => Val::I64(*values.get(row)?),
            Self::F32(values) => Val::F32(values.get(row)?.to_bits()),
            Self::F64(values) => Val::F64(values.get(row)?.to_bits()),
        })
    }
}

/// Runs `call` for every row that counts.
fn for_each<R: Number>(
    nulls: Option<&NullBuffer>,
    rows: usize,
    mut call: impl FnMut(usize) -> Result<R, Error>,
) -> Result<Column, (usize, Error)> {
    let mut results = vec![R::default(); rows];
    match nulls {
        None => {
            for (row, result) in results.iter_mut().enumerate() {
                *result = call(row).map_err(|error| (row, error))?;
            }
        }
        Some(nulls) => {
            for row in nulls.valid_indices() {
                results[row] = call(row).map_err(|error| (row, error))?;
            }
        }
    }
    Ok(R::column(results))
}

/// The slice of an argument, cut to `rows` so that the loop needs no bounds but one.
fn values<A: Number>(arguments: &[Column], index: usize, rows: usize) -> Result<&[A], (usize, Error)> {
    arguments.get(index).and_then(A::values).and_then(|values| values.get(..rows)).ok_or_else(|| {
        // `scalar` has checked types and lengths.
        (0, Error::msg(format!("argument {index} is not the column that was announced")))
    })
}

macro_rules! fixed {
    ($name:ident, $params:ty, $($values:ident $index:literal),*) => {
        /// A function of so many arguments of one type.
        struct $name<A, R>(TypedFunc<$params, R>, std::marker::PhantomData<A>);

        impl<A: Number, R: Number> RowLoop for $name<A, R> {
            fn run(
                &self,
                store: &mut Store<Host>,
                arguments: &[Column],
                nulls: Option<&NullBuffer>,
                rows: usize,
            ) -> Result<Column, (usize, Error)> {
                $(let $values: &[A] = values(arguments, $index, rows)?;)*
                for_each(nulls, rows, |row| self.0.call(&mut *store, ($($values[row],)*)))
            }
        }
    };
}

fixed!(One, (A,), a 0);
fixed!(Two, (A, A), a 0, b 1);
fixed!(Three, (A, A, A), a 0, b 1, c 2);
fixed!(Four, (A, A, A, A), a 0, b 1, c 2, d 3);

/// A function without arguments.
struct Zero<R>(TypedFunc<(), R>);

impl<R: Number> RowLoop for Zero<R> {
    fn run(
        &self,
        store: &mut Store<Host>,
        _: &[Column],
        nulls: Option<&NullBuffer>,
        rows: usize,
    ) -> Result<Column, (usize, Error)> {
        for_each(nulls, rows, |_| self.0.call(&mut *store, ()))
    }
}

/// A function of any arguments.
struct Mixed {
    function: Func,
    result: Kind,
}

impl Mixed {
    fn each<R: Number>(
        &self,
        store: &mut Store<Host>,
        arguments: &[Column],
        nulls: Option<&NullBuffer>,
        rows: usize,
        number: impl Fn(&Val) -> Option<R>,
    ) -> Result<Column, (usize, Error)> {
        let mut parameters = vec![Val::I32(0); arguments.len()];
        let mut results = [Val::I32(0)];
        for_each(nulls, rows, |row| {
            for (parameter, column) in parameters.iter_mut().zip(arguments) {
                *parameter = column.value(row).ok_or_else(|| Error::msg("a column is shorter than its batch"))?;
            }
            self.function.call(&mut *store, &parameters, &mut results)?;
            number(&results[0]).ok_or_else(|| Error::msg("the result has another type than announced"))
        })
    }
}

impl RowLoop for Mixed {
    fn run(
        &self,
        store: &mut Store<Host>,
        arguments: &[Column],
        nulls: Option<&NullBuffer>,
        rows: usize,
    ) -> Result<Column, (usize, Error)> {
        match self.result {
            Kind::I32 => self.each(store, arguments, nulls, rows, Val::i32),
            Kind::I64 => self.each(store, arguments, nulls, rows, Val::i64),
            Kind::F32 => self.each(store, arguments, nulls, rows, Val::f32),
            Kind::F64 => self.each(store, arguments, nulls, rows, Val::f64),
        }
    }
}

/// The fastest loop for a function of this signature.
pub(super) fn row_loop(function: Func, store: &Store<Host>, signature: &Signature) -> Result<Box<dyn RowLoop>, Error> {
    let result = signature.result;
    let Some((first, others)) = signature.arguments.split_first() else {
        return match result {
            Kind::I32 => Ok(Box::new(Zero(function.typed::<(), i32>(store)?))),
            Kind::I64 => Ok(Box::new(Zero(function.typed::<(), i64>(store)?))),
            Kind::F32 => Ok(Box::new(Zero(function.typed::<(), f32>(store)?))),
            Kind::F64 => Ok(Box::new(Zero(function.typed::<(), f64>(store)?))),
        };
    };
    if others.len() > 3 || others.iter().any(|kind| kind != first) {
        return Ok(Box::new(Mixed { function, result }));
    }
    match first {
        Kind::I32 => with_result::<i32>(function, store, signature),
        Kind::I64 => with_result::<i64>(function, store, signature),
        Kind::F32 => with_result::<f32>(function, store, signature),
        Kind::F64 => with_result::<f64>(function, store, signature),
    }
}

fn with_result<A: Number>(
    function: Func,
    store: &Store<Host>,
    signature: &Signature,
) -> Result<Box<dyn RowLoop>, Error> {
    match signature.result {
        Kind::I32 => with_both::<A, i32>(function, store, signature.arguments.len()),
        Kind::I64 => with_both::<A, i64>(function, store, signature.arguments.len()),
        Kind::F32 => with_both::<A, f32>(function, store, signature.arguments.len()),
        Kind::F64 => with_both::<A, f64>(function, store, signature.arguments.len()),
    }
}

fn with_both<A: Number, R: Number>(
    function: Func,
    store: &Store<Host>,
    count: usize,
) -> Result<Box<dyn RowLoop>, Error> {
    use std::marker::PhantomData;
    Ok(match count {
        1 => Box::new(One::<A, R>(function.typed(store)?, PhantomData)),
        2 => Box::new(Two::<A, R>(function.typed(store)?, PhantomData)),
        3 => Box::new(Three::<A, R>(function.typed(store)?, PhantomData)),
        _ => Box::new(Four::<A, R>(function.typed(store)?, PhantomData)),
    })
}
