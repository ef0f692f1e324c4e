//! CSV in and out.

use arrow::array::{Float64Array, Int64Array, ListArray, StringArray};
use arrow::datatypes::{Int64Type, TimeUnit};

use super::*;

fn columns() -> SchemaRef {
    schema(&[("id", DataType::Utf8), ("n", DataType::Int64), ("ok", DataType::Boolean)])
}

#[test]
fn messages_have_their_fields_in_the_order_of_the_columns() {
    let decoded = decode(json!("csv"), &columns(), &["a,1,true", "\"b,\"\"c\"\"\",2,f\r\n", ",,"]);
    assert_eq!(decoded.errors, []);
    assert_eq!(
        shown(&decoded.rows),
        [r#"{"id":"a","n":1,"ok":true}"#, r#"{"id":"b,\"c\"","n":2,"ok":false}"#, r#"{"id":null,"n":null,"ok":null}"#]
    );
}

#[test]
fn each_bad_line_is_an_error_and_the_others_survive() {
    let message = "a,1,true\nb,x,true\nc,3\n\nd,4,true";
    let decoded = decode(json!("csv"), &columns(), &[message, "e,5,maybe", "f,\"6", "", "g,7,no"]);
    assert_eq!(
        shown(&decoded.rows),
        [r#"{"id":"a","n":1,"ok":true}"#, r#"{"id":"d","n":4,"ok":true}"#, r#"{"id":"g","n":7,"ok":false}"#]
    );
    assert_eq!(decoded.message_of_row, Some(vec![0, 0, 4]));
    let errors: Vec<_> = decoded.errors.iter().map(|error| (error.message, error.reason.as_str())).collect();
    assert_eq!(
        errors,
        [
            (0, "line 2: column `n`: expected bigint, found the text \"x\""),
            (0, "line 3: expected 3 fields, found 2"),
            (1, "column `ok`: expected boolean, found the text \"maybe\""),
            (2, "a quoted field is not closed (a line break within quotes splits lines)"),
            (3, "the message is empty; expected a line of CSV"),
        ]
    );
}

#[test]
fn a_file_is_read_by_its_header_from_wherever_reading_goes_on() {
    let projected = schema(&[("ok", DataType::Boolean), ("id", DataType::Utf8)]);
    let options = DecodeOptions { columns: projected, declared: columns(), timestamp_units: BTreeMap::new() };
    let mut decoder = format(json!("csv")).decoder(options.clone()).unwrap();
    let header = "\u{feff}ok, extra ,id\r";
    decoder.header(header.as_bytes());
    let decoded = decoder.decode(&payloads(&[header, "true,9,a"]));
    assert_eq!(shown(&decoded.rows), [r#"{"ok":true,"id":"a"}"#]);
    assert_eq!(decoded.message_of_row, Some(vec![1]));
    assert_eq!(decoded.errors, []);
    decoder.header(b"id,ok");
    assert_eq!(shown(&decoder.decode(&payloads(&["b,false"])).rows), [r#"{"ok":false,"id":"b"}"#]);
    decoder.header(b"id,okay");
    let decoded = decoder.decode(&payloads(&["b,false"]));
    assert!(reason(&decoded).starts_with("the header has no column `ok`, it has: id, okay; where the first line"));
    let mut headless = format(json!({"csv": {"header": false}})).decoder(options).unwrap();
    headless.header(b"a,1,true");
    assert_eq!(shown(&headless.decode(&payloads(&["a,1,true"])).rows), [r#"{"ok":true,"id":"a"}"#]);
}

#[test]
fn what_no_column_wants_need_not_fit_its_type() {
    let options = DecodeOptions {
        columns: schema(&[("ok", DataType::Boolean)]),
        declared: columns(),
        timestamp_units: BTreeMap::new(),
    };
    let mut decoder = format(json!("csv")).decoder(options).unwrap();
    let mut decode = |messages: &[&[u8]]| decoder.decode(&BinaryArray::from_iter_values(messages));
    let decoded = decode(&[b"a,no number,true", b",,f", b"\xff,1,t", b"\"a,\"\"b\",\"x\ny\",no"]);
    assert_eq!(decoded.errors, []);
    let expected = [true, false, true, false].map(|ok| format!(r#"{{"ok":{ok}}}"#));
    assert_eq!(shown(&decoded.rows), expected);
    assert!(decoded.message_of_row.is_none());

    // How many fields there are is not skipped, nor is whether quotes are closed.
    let decoded = decode(&[b"a,true", b"a,1,true,", b"true", b"a,\"1,true", b"a,1,true"]);
    assert_eq!(shown(&decoded.rows), [r#"{"ok":true}"#]);
    assert_eq!(decoded.message_of_row, Some(vec![4]));
    let errors: Vec<_> = decoded.errors.iter().map(|error| (error.message, error.reason.as_str())).collect();
    assert_eq!(
        errors,
        [
            (0, "expected 3 fields, found 2"),
            (1, "expected 3 fields, found 4"),
            (2, "expected 3 fields, found 1"),
            (3, "a quoted field is not closed (a line break within quotes splits lines)"),
        ]
    );
}

#[test]
fn a_narrowed_file_counts_the_fields_of_its_header() {
    let narrowed = schema(&[("n", DataType::Int64)]);
    let options = DecodeOptions { columns: narrowed, declared: columns(), timestamp_units: BTreeMap::new() };
    let mut decoder = format(json!("csv")).decoder(options).unwrap();
    decoder.header(b"n,id,ok,extra");
    let decoded = decoder.decode(&payloads(&["1,a,maybe,x", "2,b,t", "3,c,t,x"]));
    assert_eq!(shown(&decoded.rows), [r#"{"n":1}"#, r#"{"n":3}"#]);
    assert_eq!(reason(&decoded), "expected 4 fields, found 3");
}

#[test]
fn messages_may_carry_their_own_headers() {
    let config = json!({"csv": {"header": true, "delimiter": ";", "comment": "#", "nulls": ["NA", ""]}});
    let first = "n;id;ok\n# nothing\n1;a;true\n2;NA;\n";
    let decoded = decode(config, &columns(), &[first, "id;n;ok\nb;3;t", "id;nn;ok\nb;3;t"]);
    assert_eq!(
        shown(&decoded.rows),
        [r#"{"id":"a","n":1,"ok":true}"#, r#"{"id":null,"n":2,"ok":null}"#, r#"{"id":"b","n":3,"ok":true}"#]
    );
    assert_eq!(decoded.message_of_row, Some(vec![0, 0, 1]));
    assert!(reason(&decoded).starts_with("line 1: the header has no column `n`, it has: id, nn, ok"));
}

#[test]
fn line_numbers_count_line_breaks_in_quotes() {
    let decoded = decode(json!("csv"), &columns(), &["\"a\nb\",1,t\n\n\nc,x,t\n\"d\ne\",y,t\nf,2,t"]);
    assert_eq!(shown(&decoded.rows).len(), 2);
    let reasons: Vec<_> = decoded.errors.iter().map(|error| &error.reason[..7]).collect();
    assert_eq!(reasons, ["line 5:", "line 6:"]);
}

#[test]
fn nested_columns_are_json_within_their_field() {
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]));
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("say \"hi\"\n"), Some(" padded")]));
    let float: ArrayRef = Arc::new(Float64Array::from(vec![f64::INFINITY, 0.5]));
    let fields = vec![("l", list.clone()), ("t", text), ("f", float)];
    let lines = encode(json!("csv"), fields);
    assert_eq!(lines, ["\"[1,null]\",\"say \"\"hi\"\"\n\",", ",\" padded\",0.5"]);
    let columns = schema(&[("l", list.data_type().clone()), ("t", DataType::Utf8), ("f", DataType::Float64)]);
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let decoded = decode(json!("csv"), &columns, &lines);
    assert_eq!(
        shown(&decoded.rows),
        [r#"{"l":[1,null],"t":"say \"hi\"\n","f":null}"#, r#"{"l":null,"t":" padded","f":0.5}"#]
    );
    let wrong = decode(json!("csv"), &columns, &["\"[1,\",x,1", "\"{}\",x,1"]);
    assert!(wrong.errors[0].reason.starts_with("not valid JSON: EOF"), "{wrong:?}");
    assert_eq!(wrong.errors[1].reason, "column `l`: expected array of bigint, found an object");
}

#[test]
fn a_file_starts_with_the_names_of_the_columns() {
    let columns = schema(&[("a", DataType::Int64), ("b;c", DataType::Timestamp(TimeUnit::Second, None))]);
    let header = |config| format(config).encoder(columns.clone()).unwrap().file_header();
    assert_eq!(header(json!("csv")).as_deref(), Some(b"a,b;c".as_slice()));
    assert_eq!(header(json!({"csv": {"delimiter": ";"}})).as_deref(), Some(b"a;\"b;c\"".as_slice()));
    assert_eq!(header(json!({"csv": {"header": false}})), None);
}

#[test]
fn a_lone_null_is_still_a_record() {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(1)]));
    assert_eq!(encode(json!("csv"), vec![("n", column)]), ["\"\"", "1"]);
    let columns = schema(&[("n", DataType::Int64)]);
    assert_eq!(shown(&decode(json!("csv"), &columns, &["\"\"", "1"]).rows), [r#"{"n":null}"#, r#"{"n":1}"#]);
}

#[test]
fn characters_that_cannot_work_are_refused_at_load() {
    for (config, option) in [
        (json!({"csv": {"delimiter": ""}}), "format.csv.delimiter: "),
        (json!({"csv": {"delimiter": "||"}}), "format.csv.delimiter: "),
        (json!({"csv": {"quote": "\n"}}), "format.csv.quote: "),
        (json!({"csv": {"quote": ","}}), "format.csv: "),
    ] {
        let error = format(config).decoder(options(&columns())).err().unwrap();
        assert!(error.to_string().starts_with(option), "{error}");
    }
}
