//! What the formats promise, seen from outside: through [`FormatConfig`], decoders and encoders.

mod csv;
mod equal;
mod json;
mod roundtrip;
mod written;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Value, json};

use super::{DecodeError, DecodeOptions, Decoded, Decoder, FormatConfig};

fn format(config: Value) -> FormatConfig {
    serde_json::from_value(config).unwrap()
}

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(name, ty)| Field::new(*name, ty.clone(), true)).collect::<Vec<_>>()))
}

fn options(columns: &SchemaRef) -> DecodeOptions {
    DecodeOptions { columns: columns.clone(), declared: columns.clone(), timestamp_units: BTreeMap::new() }
}

fn decoder(config: Value, columns: &SchemaRef) -> Box<dyn Decoder> {
    format(config).decoder(options(columns)).unwrap()
}

fn payloads(messages: &[&str]) -> BinaryArray {
    BinaryArray::from_iter_values(messages.iter().map(|message| message.as_bytes()))
}

fn decode(config: Value, columns: &SchemaRef, messages: &[&str]) -> Decoded {
    decoder(config, columns).decode(&payloads(messages))
}

/// The rows as JSON, one text per row.
fn shown(rows: &RecordBatch) -> Vec<String> {
    let mut encoder = FormatConfig::default().encoder(rows.schema()).unwrap();
    let encoded = encoder.encode(rows).unwrap();
    encoded.messages().map(|message| String::from_utf8(message.to_vec()).unwrap()).collect()
}

fn encode(config: Value, columns: Vec<(&str, ArrayRef)>) -> Vec<String> {
    let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let rows = rows.unwrap();
    let mut encoder = format(config).encoder(rows.schema()).unwrap();
    let encoded = encoder.encode(&rows).unwrap();
    encoded.messages().map(|message| String::from_utf8(message.to_vec()).unwrap()).collect()
}

/// The reason of the only error.
fn reason(decoded: &Decoded) -> &str {
    assert_eq!(decoded.errors.len(), 1, "{:?}", decoded.errors);
    &decoded.errors[0].reason
}

#[test]
fn a_format_is_its_name_alone_or_its_name_with_options() {
    assert_eq!(format(json!("json")), FormatConfig::default());
    assert_eq!(format(json!({"json": {}})), FormatConfig::default());
    assert_eq!(format(json!("csv")), format(json!({"csv": null})));
    for config in [json!("text"), json!("bytes"), json!({"csv": {"delimiter": ";"}})] {
        let config = format(config);
        assert_eq!(format(serde_json::to_value(&config).unwrap()), config, "what is written reads back");
    }
    let error = |config: Value| serde_json::from_value::<FormatConfig>(config).unwrap_err().to_string();
    assert!(error(json!("jsn")).contains("unknown variant `jsn`, expected one of `json`"));
    assert!(error(json!({"json": {"layuot": "lines"}})).contains("unknown field `layuot`"));
    assert!(error(json!({"json": {}, "csv": {}})).contains("exactly one format"));
}

#[test]
fn the_schema_knows_both_forms() {
    let schema = serde_json::to_value(schemars::schema_for!(FormatConfig)).unwrap();
    let forms = schema["oneOf"].as_array().unwrap();
    assert_eq!(forms[0]["enum"], json!(["json", "csv", "text", "bytes"]));
    assert_eq!(forms.len(), 5);
    assert_eq!(forms[2]["properties"].as_object().unwrap().keys().collect::<Vec<_>>(), ["csv"]);
}

#[test]
fn text_is_one_column_of_checked_utf8() {
    let columns = schema(&[("line", DataType::Utf8View)]);
    let messages = BinaryArray::from_opt_vec(vec![Some(b"a,b"), Some(b"\xff\xfe"), None, Some(b"")]);
    let decoded = decoder(json!("text"), &columns).decode(&messages);
    assert_eq!(shown(&decoded.rows), [r#"{"line":"a,b"}"#, r#"{"line":null}"#, r#"{"line":""}"#]);
    assert_eq!(decoded.message_of_row, Some(vec![0, 2, 3]));
    assert_eq!(reason(&decoded), "not valid UTF-8 from byte 0");
    let two = schema(&[("a", DataType::Utf8), ("b", DataType::Utf8)]);
    let error = format(json!("text")).decoder(options(&two)).err().unwrap();
    assert_eq!(error.to_string(), "format: the format text holds exactly one column, but there are 2");
}

#[test]
fn bytes_are_one_column_whatever_they_are() {
    let columns = schema(&[("raw", DataType::Binary)]);
    let messages = BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None]);
    let decoded = decoder(json!("bytes"), &columns).decode(&messages);
    assert_eq!(shown(&decoded.rows), [r#"{"raw":"AP8="}"#, r#"{"raw":null}"#]);
    assert!(decoded.message_of_row.is_none() && decoded.errors.is_empty());
    let mut encoder = format(json!("bytes")).encoder(columns).unwrap();
    let encoded = encoder.encode(&decoded.rows).unwrap();
    assert_eq!(encoded.messages().map(|m| m.to_vec()).collect::<Vec<_>>(), [b"\x00\xff".to_vec(), vec![]]);
}
