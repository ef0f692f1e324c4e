//! SQL expressions over a row's columns, for the generator.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::SessionContext;
use millstream_connectors::source::{ExpressionCompiler, RowExpression};

/// Compiles expressions with the functions of a pipeline's session.
pub(crate) struct SqlExpressions(pub(crate) SessionContext);

struct Compiled {
    expression: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

impl ExpressionCompiler for SqlExpressions {
    fn compile(&self, sql: &str, input: &SchemaRef) -> Result<Arc<dyn RowExpression>, String> {
        let text = |error: datafusion::common::DataFusionError| error.strip_backtrace();
        let schema = DFSchema::try_from(input.as_ref().clone()).map_err(text)?;
        let logical = self.0.parse_sql_expr(sql, &schema).map_err(text)?;
        let expression = self.0.create_physical_expr(logical, &schema).map_err(text)?;
        let data_type = expression.data_type(input).map_err(text)?;
        Ok(Arc::new(Compiled { expression, data_type }))
    }
}

impl RowExpression for Compiled {
    fn data_type(&self) -> DataType {
        self.data_type.clone()
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, String> {
        let value = self.expression.evaluate(rows).map_err(|error| error.strip_backtrace())?;
        value.into_array(rows.num_rows()).map_err(|error| error.strip_backtrace())
    }
}
