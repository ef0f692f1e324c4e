//! A numeric export as a function over Arrow columns: types and NULLs. The loop itself is in `rows`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type};
use wasmtime::ValType;

use super::FunctionError;
pub(super) use super::ScalarFunction;
use super::instance::Pool;
use super::rows::Column;

/// A WebAssembly number type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    I32,
    I64,
    F32,
    F64,
}

impl Kind {
    pub(super) fn of(ty: &ValType) -> Option<Self> {
        Some(match ty {
            ValType::I32 => Self::I32,
            ValType::I64 => Self::I64,
            ValType::F32 => Self::F32,
            ValType::F64 => Self::F64,
            ValType::V128 | ValType::Ref(_) => return None,
        })
    }

    /// Its name in WebAssembly.
    pub(super) fn wasm(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Its type in SQL where the YAML says nothing.
    pub(super) fn natural(self) -> DataType {
        match self {
            Self::I32 => DataType::Int32,
            Self::I64 => DataType::Int64,
            Self::F32 => DataType::Float32,
            Self::F64 => DataType::Float64,
        }
    }

    /// True where the YAML may call it that: a boolean is 0 or not 0, a date the days and a timestamp the units (of
    /// its type, nanoseconds for `timestamp`) since 1970-01-01 in UTC.
    pub(super) fn can_be(self, data_type: &DataType) -> bool {
        *data_type == self.natural()
            || match self {
                Self::I32 => matches!(data_type, DataType::Boolean | DataType::Date32),
                Self::I64 => matches!(data_type, DataType::Timestamp(_, _)),
                Self::F32 | Self::F64 => false,
            }
    }

    /// What it can be called in the YAML.
    pub(super) fn sql_types(self) -> &'static str {
        match self {
            Self::I32 => "int, boolean (0 is false), date (days since 1970-01-01)",
            Self::I64 => "bigint, timestamp (nanoseconds since 1970-01-01 in UTC)",
            Self::F32 => "real",
            Self::F64 => "double",
        }
    }
}

/// A function's names and types.
#[derive(Debug, Clone)]
pub(super) struct Signature {
    /// The export's name.
    pub(super) export: String,
    /// The name in SQL.
    pub(super) name: String,
    pub(super) arguments: Vec<Kind>,
    pub(super) argument_types: Vec<DataType>,
    pub(super) result: Kind,
    pub(super) returns: DataType,
}

/// An export that SQL can call.
pub(super) struct Scalar {
    pool: Arc<Pool>,
    /// Of the export among the pool's signatures.
    index: usize,
    signature: Signature,
}

impl Scalar {
    /// The function at `index` of the pool's signatures.
    pub(super) fn new(pool: &Arc<Pool>, index: usize) -> Option<Self> {
        let signature = pool.signatures().get(index)?.clone();
        Some(Self { pool: Arc::clone(pool), index, signature })
    }

    fn error(&self, row: Option<usize>, message: impl Into<String>) -> FunctionError {
        FunctionError { function: self.signature.name.clone(), row, message: message.into() }
    }

    /// The planner converts arguments to the announced types; anything else is its mistake, and must not be a panic.
    fn check(&self, arguments: &[ArrayRef], rows: usize) -> Result<(), FunctionError> {
        let found: Vec<&DataType> = arguments.iter().map(|array| array.data_type()).collect();
        if !found.iter().copied().eq(self.signature.argument_types.iter()) {
            let message = format!("called with {found:?}, but it takes {:?}", self.signature.argument_types);
            return Err(self.error(None, message));
        }
        match arguments.iter().find(|array| array.len() != rows) {
            Some(array) => Err(self.error(None, format!("called with {} values for {rows} rows", array.len()))),
            None => Ok(()),
        }
    }

    /// The values as WebAssembly sees them. Copies booleans; dates, timestamps and numbers are shared.
    fn column(&self, array: &ArrayRef, kind: Kind) -> Result<Column, FunctionError> {
        let array = cast(array, &kind.natural()).map_err(|error| self.error(None, error.to_string()))?;
        Ok(match kind {
            Kind::I32 => Column::I32(array.as_primitive::<Int32Type>().values().clone()),
            Kind::I64 => Column::I64(array.as_primitive::<Int64Type>().values().clone()),
            Kind::F32 => Column::F32(array.as_primitive::<Float32Type>().values().clone()),
            Kind::F64 => Column::F64(array.as_primitive::<Float64Type>().values().clone()),
        })
    }
}

impl ScalarFunction for Scalar {
    fn name(&self) -> &str {
        &self.signature.name
    }

    fn arguments(&self) -> &[DataType] {
        &self.signature.argument_types
    }

    fn returns(&self) -> &DataType {
        &self.signature.returns
    }

    fn call(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef, FunctionError> {
        self.check(arguments, rows)?;
        let mut nulls: Option<NullBuffer> = None;
        let mut columns = Vec::with_capacity(arguments.len());
        for (array, kind) in arguments.iter().zip(&self.signature.arguments) {
            nulls = NullBuffer::union(nulls.as_ref(), array.nulls());
            columns.push(self.column(array, *kind)?);
        }
        let result = self
            .pool
            .with_instance(|instance| match instance.functions.get(self.index) {
                Some(function) => function.run(&mut instance.store, &columns, nulls.as_ref(), rows),
                None => Err((0, wasmtime::Error::msg("the instance has fewer functions than its module"))),
            })
            .map_err(|(row, message)| self.error(row, message))?;
        let array = match result {
            Column::I32(values) => array::<Int32Type>(values, nulls),
            Column::I64(values) => array::<Int64Type>(values, nulls),
            Column::F32(values) => array::<Float32Type>(values, nulls),
            Column::F64(values) => array::<Float64Type>(values, nulls),
        };
        cast(&array, &self.signature.returns).map_err(|error| self.error(None, error.to_string()))
    }
}

fn array<T: ArrowPrimitiveType>(values: ScalarBuffer<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values, nulls))
}

impl std::fmt::Debug for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scalar").field("signature", &self.signature).field("pool", &self.pool).finish()
    }
}
