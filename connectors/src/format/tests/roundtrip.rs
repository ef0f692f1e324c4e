//! Properties: what is written reads back, JSON is read as serde_json reads it, and no input does harm to others.

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type, TimeUnit};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A type and a value for it, as JSON text.
fn value_of(data_type: &DataType) -> BoxedStrategy<String> {
    let text = prop_oneof!["[ -~]{0,12}", "\\PC{0,8}", "[a\"\\\\\n\r,;😀é]{0,8}"];
    let some = match data_type {
        DataType::Boolean => any::<bool>().prop_map(|v| v.to_string()).boxed(),
        DataType::Int16 => any::<i16>().prop_map(|v| v.to_string()).boxed(),
        DataType::Int64 => any::<i64>().prop_map(|v| v.to_string()).boxed(),
        DataType::UInt64 => any::<u64>().prop_map(|v| v.to_string()).boxed(),
        DataType::Float64 => (proptest::num::f64::NORMAL | proptest::num::f64::ZERO)
            .prop_map(|v| serde_json::to_string(&v).unwrap())
            .boxed(),
        DataType::Utf8 | DataType::Utf8View => text.prop_map(|v| serde_json::to_string(&v).unwrap()).boxed(),
        DataType::Decimal128(_, scale) => {
            let scale = *scale as usize;
            (any::<bool>(), "[0-9]{1,10}", "[0-9]{5}")
                .prop_map(move |(minus, whole, part)| {
                    let whole = whole.trim_start_matches('0');
                    let whole = if whole.is_empty() { "0" } else { whole };
                    format!("{}{whole}.{}", if minus { "-" } else { "" }, &part[..scale])
                })
                .boxed()
        }
        DataType::Binary => vec(any::<u8>(), 0..6)
            .prop_map(|v| format!("\"{}\"", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, v)))
            .boxed(),
        DataType::Date32 => (1900..2100, 1..13, 1..29).prop_map(|(y, m, d)| format!("\"{y}-{m:02}-{d:02}\"")).boxed(),
        DataType::Timestamp(_, _) => (0_i64..4_000_000_000, 0_u32..1_000_000)
            .prop_map(|(s, us)| {
                let time = chrono::DateTime::from_timestamp(s, us * 1000).unwrap();
                format!("\"{}\"", time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
            })
            .boxed(),
        DataType::List(item) => {
            vec(value_of(item.data_type()), 0..4).prop_map(|values| format!("[{}]", values.join(","))).boxed()
        }
        DataType::Struct(fields) => {
            let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
            let values: Vec<_> = fields.iter().map(|field| value_of(field.data_type())).collect();
            values
                .prop_map(move |values| {
                    let fields = names.iter().zip(values).map(|(name, value)| format!("{}:{value}", json!(name)));
                    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
                })
                .boxed()
        }
        other => unreachable!("{other}"),
    };
    prop_oneof![4 => some, 1 => Just("null".to_owned())].boxed()
}

fn any_type() -> BoxedStrategy<DataType> {
    let leaf = prop_oneof![
        Just(DataType::Boolean),
        Just(DataType::Int16),
        Just(DataType::Int64),
        Just(DataType::UInt64),
        Just(DataType::Float64),
        Just(DataType::Utf8),
        Just(DataType::Utf8View),
        Just(DataType::Decimal128(18, 3)),
        Just(DataType::Binary),
        Just(DataType::Date32),
        Just(DataType::Timestamp(TimeUnit::Microsecond, None)),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|item| DataType::List(Arc::new(Field::new("item", item, true)))),
            vec(inner, 1..4).prop_map(|types| {
                let fields = types.into_iter().enumerate().map(|(i, ty)| Field::new(format!("f\"{i}"), ty, true));
                DataType::Struct(fields.collect())
            }),
        ]
    })
    .boxed()
}

/// A schema and rows of it, as JSON texts.
pub(super) fn any_rows() -> BoxedStrategy<(SchemaRef, Vec<String>)> {
    vec(any_type(), 1..5)
        .prop_flat_map(|types| {
            let fields: Vec<_> =
                types.into_iter().enumerate().map(|(i, ty)| Field::new(format!("c{i}"), ty, true)).collect();
            let row = value_of(&DataType::Struct(fields.clone().into()))
                .prop_filter("a row is an object", |row| row != "null");
            (Just(Arc::new(Schema::new(fields))), vec(row, 0..8))
        })
        .boxed()
}

fn as_texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// A value of JSON with keys that the columns of `reference` have, too.
pub(super) fn any_json() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c\"\\\\é]{0,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec(("[a-e]", inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
    .boxed()
}

/// What serde_json's tree says about the columns a bigint, b double, c text: a row, or none where one does not fit.
fn reference(message: &Value) -> Option<(Option<i64>, Option<f64>, Option<String>)> {
    let object = message.as_object()?;
    let some = |name: &str| object.get(name).filter(|value| !value.is_null());
    let a = match some("a") {
        // A float that is whole is an integer too, where it is in range.
        Some(value) => match (value.as_i64(), value.as_f64()) {
            (Some(value), _) => Some(value),
            (None, Some(float)) if value.is_f64() && float.fract() == 0.0 && float.abs() < 9e18 => Some(float as i64),
            _ => return None,
        },
        None => None,
    };
    let b = match some("b") {
        Some(value) => Some(value.as_f64()?),
        None => None,
    };
    let c = match some("c") {
        Some(value) => Some(value.as_str()?.to_owned()),
        None => None,
    };
    Some((a, b, c))
}

proptest! {
    #[test]
    fn json_that_is_written_reads_back_the_same((columns, texts) in any_rows()) {
        let first = decode(json!("json"), &columns, &as_texts(&texts));
        prop_assert_eq!(&first.errors, &[]);
        let written = shown(&first.rows);
        let again = decode(json!("json"), &columns, &as_texts(&written));
        prop_assert_eq!(&again.errors, &[]);
        prop_assert_eq!(again.rows, first.rows);
    }

    #[test]
    fn csv_that_is_written_reads_back_the_same((columns, texts) in any_rows()) {
        // No text of these is this one, so NULL and the empty text stay apart.
        let config = json!({"csv": {"nulls": ["\\N!"]}});
        let first = decode(json!("json"), &columns, &as_texts(&texts));
        let mut encoder = format(config.clone()).encoder(columns.clone()).unwrap();
        let lines = encoder.encode(&first.rows).unwrap();
        let lines: Vec<_> = lines.messages().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        let again = decode(config, &columns, &as_texts(&lines));
        prop_assert_eq!(&again.errors, &[]);
        prop_assert_eq!(again.rows, first.rows);
    }

    #[test]
    fn json_is_read_as_serde_json_reads_it(messages in vec(any_json(), 0..8)) {
        let columns = schema(&[("a", DataType::Int64), ("b", DataType::Float64), ("c", DataType::Utf8)]);
        let texts: Vec<_> = messages.iter().map(Value::to_string).collect();
        let decoded = decode(json!("json"), &columns, &as_texts(&texts));
        let expected: Vec<_> = messages.iter().filter_map(reference).collect();
        let a = decoded.rows.column(0).as_primitive::<Int64Type>().iter();
        let b = decoded.rows.column(1).as_primitive::<Float64Type>().iter();
        let c = decoded.rows.column(2).as_string::<i32>().iter().map(|text| text.map(str::to_owned));
        let found: Vec<_> = a.zip(b).zip(c).map(|((a, b), c)| (a, b, c)).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(decoded.errors.len() + decoded.rows.num_rows(), messages.len());
    }

    #[test]
    fn random_bytes_hurt_nobody(
        noise in vec(any::<u8>(), 0..64), (columns, texts) in any_rows(), place in any::<prop::sample::Index>()
    ) {
        for config in [
            json!("json"), json!({"json": {"layout": "array"}}), json!({"json": {"layout": "lines"}}), json!("csv"),
            json!({"csv": {"header": true, "comment": "#", "escape": "\\"}}),
        ] {
            let _any = decoder(config, &columns).decode(&BinaryArray::from_iter_values([&noise]));
        }
        let mut messages: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        let at = place.index(messages.len() + 1);
        messages.insert(at, &noise);
        let mut decoder = decoder(json!("json"), &columns);
        let decoded = decoder.decode(&BinaryArray::from_iter_values(messages));
        let alone = decode(json!("json"), &columns, &as_texts(&texts));
        if decoded.errors.is_empty() {
            return Ok(()); // The noise was a row.
        }
        prop_assert_eq!(decoded.rows, alone.rows);
        prop_assert_eq!(decoded.errors.len(), 1);
        prop_assert_eq!(decoded.errors[0].message as usize, at);
    }

    #[test]
    fn a_row_that_is_cut_or_spoiled_anywhere_leaves_no_trace(
        (columns, texts) in any_rows(), cut in any::<prop::sample::Index>(), with in "[\"\\[\\]{}x0,:]{0,2}"
    ) {
        prop_assume!(!texts.is_empty());
        let spoiled: Vec<_> = texts.iter().map(|text| {
            let mut at = cut.index(text.len());
            while !text.is_char_boundary(at) { at -= 1; }
            format!("{}{with}", &text[..at])
        }).collect();
        let mixed: Vec<_> = texts.iter().zip(&spoiled).flat_map(|(good, bad)| [good.as_str(), bad.as_str()]).collect();
        let decoded = decode(json!("json"), &columns, &mixed);
        let origin = decoded.message_of_row.clone().unwrap_or_else(|| (0..decoded.rows.num_rows() as u32).collect());
        prop_assert_eq!(origin.len() + decoded.errors.len(), mixed.len());
        let good: Vec<usize> = (0..origin.len()).filter(|&row| origin[row].is_multiple_of(2)).collect();
        let shown = shown(&decoded.rows);
        let alone = self::shown(&decode(json!("json"), &columns, &as_texts(&texts)).rows);
        prop_assert_eq!(good.iter().map(|&row| shown[row].clone()).collect::<Vec<_>>(), alone);
    }
}
