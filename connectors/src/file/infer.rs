//! The columns of a table whose file alone says them: found once, when the pipeline is loaded, from all of the file.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::reader::{infer_json_schema, infer_json_schema_from_iterator};

use crate::error::ConnectorError;
use crate::format::FormatConfig;
use crate::format::json::JsonLayout;

/// The columns that the file's `content` has.
pub(super) fn columns(path: &Path, content: &[u8], format: &FormatConfig) -> Result<SchemaRef, ConnectorError> {
    let declare = "; declare `columns` for this table";
    let wrong = |error: ArrowError| {
        ConnectorError::configuration(
            "path",
            format!("the columns of {} cannot be found: {error}{declare}", path.display()),
        )
    };
    let schema = match format {
        FormatConfig::Csv(csv) => {
            if csv.header == Some(false) {
                return Err(ConnectorError::configuration(
                    "format.csv.header",
                    format!("no header, no names{declare}"),
                ));
            }
            let format = Format::default().with_header(true).with_delimiter(csv.delimiter_byte()?);
            format.infer_schema(Cursor::new(content), None).map_err(wrong)?.0
        }
        FormatConfig::Json(json) if json.layout == JsonLayout::Array => {
            let rows: Vec<serde_json::Value> =
                serde_json::from_slice(content).map_err(|error| wrong(ArrowError::JsonError(error.to_string())))?;
            infer_json_schema_from_iterator(rows.into_iter().map(Ok::<_, ArrowError>)).map_err(wrong)?
        }
        FormatConfig::Json(_) => infer_json_schema(Cursor::new(content), None).map_err(wrong)?.0,
        FormatConfig::Text(_) | FormatConfig::Bytes(_) => {
            return Err(ConnectorError::configuration(
                "format",
                format!("this format does not say any columns{declare}"),
            ));
        }
    };
    if schema.fields().is_empty() {
        return Err(ConnectorError::configuration("path", format!("{} has no columns{declare}", path.display())));
    }
    Ok(Arc::new(Schema::new(schema.fields().iter().map(known).collect::<Vec<_>>())))
}

/// The field with text where nothing but nulls was seen, and nullable throughout.
fn known(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => DataType::List(known(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(known).collect()),
        other => other.clone(),
    };
    Arc::new(Field::new(field.name().trim(), data_type, true))
}
