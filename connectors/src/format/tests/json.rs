//! JSON in and out.

use arrow::array::{Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{Fields, TimeUnit};

use super::*;

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, true))
}

#[test]
fn every_type_is_read_and_written_exactly() {
    let struct_type = DataType::Struct(Fields::from(vec![
        Field::new("lat", DataType::Float64, true),
        Field::new("tags", DataType::List(item(DataType::Utf8View)), true),
    ]));
    let columns = schema(&[
        ("b", DataType::Boolean),
        ("i8", DataType::Int8),
        ("u64", DataType::UInt64),
        ("i64", DataType::Int64),
        ("f32", DataType::Float32),
        ("f64", DataType::Float64),
        ("text", DataType::Utf8View),
        ("bin", DataType::Binary),
        ("dec", DataType::Decimal128(38, 10)),
        ("day", DataType::Date32),
        ("time", DataType::Time64(TimeUnit::Nanosecond)),
        ("ts", DataType::Timestamp(TimeUnit::Nanosecond, None)),
        ("tz", DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()))),
        ("at", struct_type),
        ("pair", DataType::FixedSizeList(item(DataType::Int32), 2)),
        ("deep", DataType::LargeList(item(DataType::List(item(DataType::Int16))))),
    ]);
    let full = concat!(
        r#"{"b":true,"i8":-128,"u64":18446744073709551615,"i64":-9223372036854775808,"f32":0.1,"f64":1.7976931348623157e308,"#,
        r#""text":"zażółć \"\n😀","bin":"AAEC/w==","dec":1234567890123456789012345678.0123456789,"day":"2024-02-29","#,
        r#""time":"23:59:59.123456789","ts":"2026-01-31T12:00:00.123456789Z","tz":"1969-12-31T23:59:59.999Z","#,
        r#""at":{"lat":52.25,"tags":["a",null,""]},"pair":[1,2],"deep":[[1,2],[],null,[3]]}"#,
    );
    let empty = concat!(
        r#"{"b":null,"i8":null,"u64":null,"i64":null,"f32":null,"f64":null,"text":null,"bin":null,"dec":null,"day":null,"#,
        r#""time":null,"ts":null,"tz":null,"at":null,"pair":null,"deep":null}"#,
    );
    let decoded = decode(json!("json"), &columns, &[full, empty, "{}"]);
    assert_eq!(decoded.errors, []);
    assert!(decoded.message_of_row.is_none());
    let again: Vec<Value> = shown(&decoded.rows).iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(again[0], serde_json::from_str::<Value>(full).unwrap());
    assert_eq!(shown(&decoded.rows)[1], empty);
    assert_eq!(shown(&decoded.rows)[2], empty);
    assert!(shown(&decoded.rows)[0].contains(r#""dec":1234567890123456789012345678.0123456789,"#));
}

#[test]
fn what_does_not_fit_is_named_with_its_column_and_what_was_found() {
    let lat = Field::new("lat", DataType::Float64, true);
    let columns = schema(&[
        ("n", DataType::Int32),
        ("d", DataType::Decimal128(6, 2)),
        ("s", DataType::Utf8),
        ("at", DataType::Struct(vec![lat].into())),
        ("l", DataType::List(item(DataType::Int64))),
        ("ts", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("bin", DataType::Binary),
    ]);
    for (message, expected) in [
        (r#"{"n": "7"}"#, r#"column `n`: expected int, found the text "7""#),
        (r#"{"n": 2147483648}"#, "column `n`: the number 2147483648 is out of range for int"),
        (r#"{"n": 1.5}"#, "column `n`: the number 1.5 has digits that int cannot hold"),
        (r#"{"n": {"a": [1, {}]}, "s": "x"}"#, "column `n`: expected int, found an object"),
        (r#"{"d": 1.005}"#, "column `d`: the number 1.005 has digits that decimal(6, 2) cannot hold"),
        (r#"{"s": 5}"#, "column `s`: expected text, found the number 5"),
        (r#"{"at": [1]}"#, "column `at`: expected object, found an array"),
        (r#"{"at": {"lat": true}}"#, "column `at.lat`: expected double, found the boolean true"),
        (r#"{"l": [1, "x"]}"#, r#"column `l[]`: expected bigint, found the text "x""#),
        (r#"{"l": {"a": 1}}"#, "column `l`: expected array of bigint, found an object"),
        (
            r#"{"ts": "soon"}"#,
            r#"column `ts`: expected timestamp (RFC 3339 text or an epoch number), found the text "soon""#,
        ),
        (
            "[1]",
            "expected an object, found an array; where a message is an array of objects, set `format: {json: {layout: array}}`",
        ),
        ("17", "expected an object, found the number 17"),
        ("null", "expected an object, found null"),
        ("", "the message is empty; expected a JSON object"),
        (r#"{"n": 1} x"#, "not valid JSON: trailing characters at line 1 column 10"),
        (r#"{"n": NaN}"#, "not valid JSON: expected value at line 1 column 7"),
        (r#"{"n": 01}"#, "not valid JSON: invalid number at line 1 column 8"),
    ] {
        let decoded = decode(json!("json"), &columns, &[r#"{"n": 1}"#, message, r#"{"n": 2}"#]);
        assert_eq!(reason(&decoded), expected, "{message}");
        assert_eq!(decoded.errors[0].message, 1);
        assert_eq!(decoded.message_of_row, Some(vec![0, 2]));
        assert_eq!(decoded.rows.num_rows(), 2);
    }
    let long = format!(r#"{{"n": "{}"}}"#, "é".repeat(1000));
    assert!(reason(&decode(json!("json"), &columns, &[&long])).len() < 200);
    let base64 = decode(json!("json"), &columns, &[r#"{"bin": "?"}"#]);
    assert!(reason(&base64).starts_with(r#"column `bin`: the text "?" is no binary (base64 text): "#), "{base64:?}");
}

#[test]
fn null_and_a_missing_field_are_errors_of_a_column_that_takes_none() {
    let columns = Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, false)]));
    for (message, found) in [("{}", "nothing"), (r#"{"id": null}"#, "null")] {
        let decoded = decode(json!("json"), &columns, &[message, r#"{"id": "x"}"#]);
        assert_eq!(reason(&decoded), format!("column `id`: expected text, found {found}; the column takes no null"));
        assert_eq!(shown(&decoded.rows), [r#"{"id":"x"}"#]);
    }
}

#[test]
fn of_a_key_that_comes_twice_the_last_one_wins() {
    let inner = DataType::Struct(vec![Field::new("x", DataType::Int64, true)].into());
    let columns = schema(&[("n", DataType::Int64), ("o", inner), ("l", DataType::List(item(DataType::Int64)))]);
    let message = r#"{"n":1,"o":{"x":1,"x":2},"l":[1,2],"n":5,"o":{"x":3,"x":null,"x":4},"l":[7]}"#;
    let decoded = decode(json!("json"), &columns, &[message]);
    assert_eq!(shown(&decoded.rows), [r#"{"n":5,"o":{"x":4},"l":[7]}"#]);
}

#[test]
fn columns_that_nobody_wants_are_skipped_however_deep_they_are() {
    let columns = schema(&[("n", DataType::Int64)]);
    let depth = 200_000;
    let deep = format!(r#"{{"x": {}{}, "n": 3}}"#, "[".repeat(depth), "]".repeat(depth));
    let wanted = format!(r#"{{"n": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let torn = format!(r#"{{"x": {}"#, "{\"a\":".repeat(depth));
    let decoded = decode(json!("json"), &columns, &[&deep, &wanted, &torn]);
    assert_eq!(shown(&decoded.rows), [r#"{"n":3}"#]);
    assert_eq!(decoded.errors[0].reason, "column `n`: expected bigint, found an array");
    assert!(decoded.errors[1].reason.starts_with("not valid JSON: EOF"));
    let none = schema(&[]);
    assert_eq!(decode(json!("json"), &none, &[r#"{"a": 1}"#, "{}"]).rows.num_rows(), 2, "rows without columns count");
}

#[test]
fn numbers_as_text_need_to_be_asked_for() {
    let columns = schema(&[("d", DataType::Float64), ("b", DataType::Boolean), ("s", DataType::Utf8)]);
    let message = r#"{"d": "12.5", "b": "true", "s": 1.50}"#;
    let strict = decode(json!("json"), &columns, &[message]);
    assert_eq!(reason(&strict), r#"column `d`: expected double, found the text "12.5""#);
    let coerced = decode(json!({"json": {"coerce": true}}), &columns, &[message]);
    assert_eq!(shown(&coerced.rows), [r#"{"d":12.5,"b":true,"s":"1.50"}"#]);
    let wrong = decode(json!({"json": {"coerce": true}}), &columns, &[r#"{"d": "NaN"}"#]);
    assert_eq!(reason(&wrong), r#"column `d`: expected double, found the text "NaN""#);
}

#[test]
fn a_bad_line_does_not_hurt_the_lines_around_it() {
    let columns = schema(&[("n", DataType::Int64)]);
    let message = "{\"n\":1}\r\n\n{\"n\":}\n{\"n\":\"x\"}\n{\"n\":4}\n";
    let decoded = decode(json!({"json": {"layout": "lines"}}), &columns, &[message, "{\"n\":5}"]);
    assert_eq!(shown(&decoded.rows), [r#"{"n":1}"#, r#"{"n":4}"#, r#"{"n":5}"#]);
    assert_eq!(decoded.message_of_row, Some(vec![0, 0, 1]));
    let reasons: Vec<_> = decoded.errors.iter().map(|error| error.reason.as_str()).collect();
    assert_eq!(reasons[0], "line 3: not valid JSON: expected value at line 1 column 6");
    assert_eq!(reasons[1], "line 4: column `n`: expected bigint, found the text \"x\"");
}

#[test]
fn an_array_loses_its_bad_elements_only_and_all_of_itself_where_it_is_torn() {
    let columns = schema(&[("n", DataType::Int64)]);
    let config = json!({"json": {"layout": "array"}});
    let messages = [r#"[{"n":1},{"n":"x"},7,{"n":4}]"#, r#"[{"n":5},{"n":6}"#, "[]", r#"[{"n":7}]"#, r#"{"n":8}"#];
    let decoded = decode(config, &columns, &messages);
    assert_eq!(shown(&decoded.rows), [r#"{"n":1}"#, r#"{"n":4}"#, r#"{"n":7}"#]);
    assert_eq!(decoded.message_of_row, Some(vec![0, 0, 3]));
    let errors: Vec<_> = decoded.errors.iter().map(|error| (error.message, error.reason.as_str())).collect();
    assert_eq!(errors[0], (0, "element 2: column `n`: expected bigint, found the text \"x\""));
    assert_eq!(errors[1], (0, "element 3: expected an object, found the number 7"));
    assert_eq!(errors[2].0, 1);
    assert_eq!(errors[3].0, 4);
    assert!(errors[3].1.contains("expected an array of objects"), "{errors:?}");
}

#[test]
fn a_declared_unit_reaches_the_column() {
    let columns = schema(&[("ts", DataType::Timestamp(TimeUnit::Nanosecond, None))]);
    let mut options = options(&columns);
    options.timestamp_units.insert("ts".into(), TimeUnit::Microsecond);
    let mut decoder = format(json!("json")).decoder(options).unwrap();
    let decoded = decoder.decode(&payloads(&[r#"{"ts": 1700000000}"#]));
    assert_eq!(shown(&decoded.rows), [r#"{"ts":"1970-01-01T00:28:20Z"}"#]);
}

#[test]
fn a_type_that_json_cannot_hold_is_refused_at_load() {
    let columns = schema(&[("i", DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano))]);
    let error = format(json!("json")).decoder(options(&columns)).err().unwrap();
    assert_eq!(error.kind, crate::ErrorKind::Configuration);
    assert!(error.to_string().contains("the column `i` is of type Interval"), "{error}");
}

#[test]
fn timestamps_and_nulls_are_written_as_asked_for() {
    let columns = || -> Vec<(&str, ArrayRef)> {
        vec![
            ("ts", Arc::new(TimestampMillisecondArray::from(vec![Some(1_700_000_000_250), Some(-1)]))),
            ("s", Arc::new(StringArray::from(vec![Some("x"), None]))),
            ("f", Arc::new(Float64Array::from(vec![f64::NAN, 2.0]))),
        ]
    };
    assert_eq!(
        encode(json!("json"), columns()),
        [
            r#"{"ts":"2023-11-14T22:13:20.250Z","s":"x","f":null}"#,
            r#"{"ts":"1969-12-31T23:59:59.999Z","s":null,"f":2.0}"#
        ]
    );
    assert_eq!(
        encode(json!({"json": {"timestamps": "epoch_s", "nulls": "omit"}}), columns()),
        [r#"{"ts":1700000000,"s":"x","f":null}"#, r#"{"ts":-1,"f":2.0}"#]
    );
    assert_eq!(
        encode(json!({"json": {"timestamps": "epoch_ns"}}), vec![columns().remove(0)]),
        [r#"{"ts":1700000000250000000}"#, r#"{"ts":-1000000}"#]
    );
}

#[test]
fn a_timestamp_beyond_the_calendar_is_an_error_and_not_a_guess() {
    let rows = RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("ts", Arc::new(TimestampMillisecondArray::from(vec![i64::MAX])) as ArrayRef),
    ]);
    let rows = rows.unwrap();
    let error = format(json!("json")).encoder(rows.schema()).unwrap().encode(&rows).unwrap_err();
    assert!(error.to_string().contains("in the column `ts` is beyond what can be written"), "{error}");
}
