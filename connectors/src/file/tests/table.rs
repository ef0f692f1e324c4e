//! Files as tables.

use std::fs;

use arrow::datatypes::{DataType, Field};
use serde_json::json;
use tempfile::tempdir;

use super::super::FileTableConfig;
use super::*;
use crate::format::FormatConfig;
use crate::{ErrorKind, Table};

fn table(
    folder: &Path,
    path: &str,
    columns: Option<SchemaRef>,
    format: Option<&str>,
) -> Result<Box<dyn Table>, ConnectorError> {
    let format: Option<FormatConfig> = format.map(|format| serde_json::from_value(json!(format)).unwrap());
    let config: FileTableConfig = serde_json::from_value(json!({"path": path, "refresh": "1m"})).unwrap();
    config.build(folder, columns, format.as_ref())
}

fn shown(schema: &SchemaRef) -> String {
    let columns: Vec<_> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    columns.join(", ")
}

#[tokio::test]
async fn columns_are_found_in_all_of_the_file_and_then_stay() {
    let folder = tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "v.csv",
        "\u{feff}vehicle,cold,limit,since,note\nv1,true,4,2024-01-31,\nv2,false,5.5,2024-02-01,\"two\nlines\"\n",
    );
    write(
        "v.json",
        r#"[{"vehicle": "v1", "limit": 4}, {"vehicle": "v2", "limit": 4.5, "at": {"lat": 1.5}, "tags": ["a"]}]"#,
    );
    write("v.jsonl", "\u{feff}{\"vehicle\": \"v1\", \"none\": null}\n\n{\"vehicle\": \"v2\", \"n\": 1}\n");
    for (name, columns, count) in [
        ("v.csv", "vehicle Utf8, cold Boolean, limit Float64, since Date32, note Utf8", 2),
        ("v.json", "at Struct(\"lat\": Float64), limit Float64, tags List(Utf8), vehicle Utf8", 2),
        ("v.jsonl", "n Int64, none Utf8, vehicle Utf8", 2),
    ] {
        let table = table(folder.path(), name, None, None).unwrap();
        let mut found: Vec<_> = shown(&table.schema()).split(", ").map(str::to_owned).collect();
        if name != "v.csv" {
            found.sort();
        }
        assert_eq!(found.join(", "), columns);
        let rows = table.load().await.unwrap();
        assert_eq!((rows.num_rows(), rows.schema()), (count, table.schema()));
        assert_eq!(table.refresh(), Some(Duration::from_secs(60)));
    }
    let table = table(folder.path(), "v.csv", None, None).unwrap();
    write("v.csv", "vehicle,cold,limit,since,note\nv1,true,4,2024-01-31,\nv2,maybe,5,2024-02-01,\nv3,true\n");
    let error = table.load().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(
        error.message.ends_with("v.csv cannot be read: line 3: column `cold`: expected boolean, found the text \"maybe\"; line 4: expected 5 fields, found 2"),
        "{error}"
    );
}

#[tokio::test]
async fn declared_columns_are_those_of_the_table() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("v.tsv"), "limit\tvehicle\tmore\n4\tv1\tx\n").unwrap();
    let columns = Arc::new(Schema::new(vec![
        Field::new("vehicle", DataType::Utf8View, false),
        Field::new("limit", DataType::Float32, true),
    ]));
    let table = table(folder.path(), "v.tsv", Some(columns.clone()), None).unwrap();
    let rows = table.load().await.unwrap();
    assert_eq!((rows.schema(), rows.num_rows()), (columns, 1));
}

#[test]
fn what_cannot_work_is_said_at_load() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("v.dat"), "a\n1\n").unwrap();
    fs::write(folder.path().join("empty.csv"), "").unwrap();
    fs::write(folder.path().join("bad.json"), "{\"a\": ").unwrap();
    for (path, format, option, text) in [
        ("none.csv", None, "path", "none.csv: No such file"),
        ("v.dat", None, "path", "does not say its format"),
        ("v.dat", Some("text"), "format", "csv or json"),
        ("empty.csv", None, "path", "has no columns"),
        ("bad.json", None, "path", "the columns of"),
    ] {
        let error = table(folder.path(), path, None, format).err().unwrap();
        assert_eq!((error.kind, error.option.as_deref()), (ErrorKind::Configuration, Some(option)), "{error}");
        assert!(error.message.contains(text), "{error}");
    }
    assert!(table(folder.path(), "v.dat", None, Some("csv")).is_ok());
}
