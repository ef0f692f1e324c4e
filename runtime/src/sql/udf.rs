//! A user function of a WebAssembly module, as DataFusion sees it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::functions::ScalarFunction;

/// Wraps a [`ScalarFunction`].
#[derive(Debug)]
pub(crate) struct WasmFunction {
    function: Arc<dyn ScalarFunction>,
    signature: Signature,
}

impl WasmFunction {
    /// The function, ready to be registered.
    pub(crate) fn create(function: Arc<dyn ScalarFunction>) -> ScalarUDF {
        // Volatile: a module may keep counters in its memory, and constants must not be folded by calling it at load.
        let signature = match function.arguments() {
            [] => Signature::nullary(Volatility::Volatile),
            arguments => Signature::exact(arguments.to_vec(), Volatility::Volatile),
        };
        ScalarUDF::new_from_impl(Self { function, signature })
    }
}

impl PartialEq for WasmFunction {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.function, &other.function)
    }
}

impl Eq for WasmFunction {}

impl Hash for WasmFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.name().hash(state);
    }
}

impl ScalarUDFImpl for WasmFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.function.returns().clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let arrays = arguments.args.into_iter().map(|value| value.into_array(rows)).collect::<Result<Vec<_>>>()?;
        let result = self.function.call(&arrays, rows).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(ColumnarValue::Array(result))
    }
}
