//! The JSON decoder reads every text as the reference does, valid or not, whatever stands around it.

use arrow::datatypes::{Fields, TimeUnit};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::roundtrip::{any_json, any_rows};
use super::*;
use crate::format::json::{JsonConfig, JsonLayout};
use crate::format::reference::Reference;

fn both(config: &JsonConfig, columns: &SchemaRef, messages: &BinaryArray) -> (Decoded, Decoded) {
    let decoded = config.decoder(options(columns)).unwrap().decode(messages);
    let expected = Reference::new(config, &options(columns)).unwrap().decode(messages);
    (decoded, expected)
}

/// An error without what the two may say differently: why a text is no JSON.
fn essence(error: &DecodeError) -> (u32, &str) {
    let vague = ["not valid JSON", "expected an array of objects"];
    let end = vague.iter().find_map(|text| error.reason.find(text)).unwrap_or(error.reason.len());
    (error.message, &error.reason[..end])
}

fn agree(config: &JsonConfig, columns: &SchemaRef, messages: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let array = BinaryArray::from_iter_values(messages);
    let (decoded, expected) = both(config, columns, &array);
    let shown: Vec<_> = messages.iter().map(|message| String::from_utf8_lossy(message)).collect();
    prop_assert_eq!(&decoded.rows, &expected.rows, "{:?}", shown);
    prop_assert_eq!(&decoded.message_of_row, &expected.message_of_row, "{:?}", shown);
    let essences = [&decoded, &expected].map(|decoded| decoded.errors.iter().map(essence).collect::<Vec<_>>());
    prop_assert_eq!(&essences[0], &essences[1], "{:?}", shown);
    Ok(())
}

/// One change of a text.
#[derive(Debug, Clone)]
enum Change {
    Cut(Index),
    Remove(Index),
    Insert(Index, Vec<u8>),
    Flip(Index, u8),
}

impl Change {
    fn apply(&self, text: &mut Vec<u8>) {
        match self {
            Self::Cut(at) => text.truncate(at.index(text.len() + 1)),
            Self::Remove(at) if !text.is_empty() => drop(text.remove(at.index(text.len()))),
            Self::Insert(at, bytes) => {
                let at = at.index(text.len() + 1);
                text.splice(at..at, bytes.iter().copied());
            }
            Self::Flip(at, bits) if !text.is_empty() => {
                let at = at.index(text.len());
                text[at] ^= bits;
            }
            _ => {}
        }
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let piece = prop_oneof![
        Just(" ".to_owned()),
        Just("\n".to_owned()),
        Just("\t \r".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        Just("\"".to_owned()),
        Just("\\".to_owned()),
        Just("\\u00e9".to_owned()),
        Just("\\ud83d\\ude00".to_owned()),
        Just("\\ud800".to_owned()),
        Just("\\udc00".to_owned()),
        Just("\\u12".to_owned()),
        Just("\\n".to_owned()),
        Just("é".to_owned()),
        Just("\u{1}".to_owned()),
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("0".to_owned()),
        Just("-".to_owned()),
        Just(".5".to_owned()),
        Just("e3".to_owned()),
        Just("E-7".to_owned()),
        Just("12345678901234567890".to_owned()),
        Just("\"a\":1,".to_owned()),
        Just(",\"c1\":\"x\"".to_owned()),
        Just("\"x\":[{}],".to_owned()),
        Just("[1,".to_owned()),
    ];
    prop_oneof![
        1 => any::<Index>().prop_map(Change::Cut),
        2 => any::<Index>().prop_map(Change::Remove),
        4 => (any::<Index>(), piece).prop_map(|(at, piece)| Change::Insert(at, piece.into_bytes())),
        1 => (any::<Index>(), vec(any::<u8>(), 1..3)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (any::<Index>(), 1..=255_u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
    ]
}

fn any_config() -> impl Strategy<Value = JsonConfig> {
    let layout = prop_oneof![4 => Just(JsonLayout::Object), 1 => Just(JsonLayout::Lines), 1 => Just(JsonLayout::Array)];
    (layout, any::<bool>()).prop_map(|(layout, coerce)| JsonConfig { layout, coerce, ..JsonConfig::default() })
}

/// Texts as they are, one after the other in a layout.
fn laid_out(layout: JsonLayout, texts: &[String]) -> Vec<Vec<u8>> {
    let texts = || texts.iter().map(String::as_str).collect::<Vec<_>>();
    match layout {
        JsonLayout::Object => texts().into_iter().map(|text| text.as_bytes().to_vec()).collect(),
        JsonLayout::Lines => vec![texts().join("\n").into_bytes()],
        JsonLayout::Array => vec![format!("[{}]", texts().join(" ,")).into_bytes()],
    }
}

fn subset(columns: &SchemaRef, wanted: &[Index]) -> SchemaRef {
    let mut places: Vec<_> =
        wanted.iter().filter(|_| !columns.fields().is_empty()).map(|i| i.index(columns.fields().len())).collect();
    places.sort_unstable();
    places.dedup();
    Arc::new(columns.project(&places).unwrap())
}

fn any_number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>().prop_filter("JSON has no others", |v| v.is_finite()).prop_map(|v| format!("{v:e}")),
        any::<f64>().prop_filter("JSON has no others", |v| v.is_finite()).prop_map(|v| format!("{v}")),
        any::<f32>().prop_filter("JSON has no others", |v| v.is_finite()).prop_map(|v| format!("{v}")),
        any::<i64>().prop_map(|v| v.to_string()),
        any::<i128>().prop_map(|v| v.to_string()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,22})?([eE][-+]?[0-9]{1,3})?",
        "-?(0|[1-9][0-9]{0,5})(\\.[0-9]{1,6})?",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn rows_of_every_type_are_read_alike(
        (columns, texts) in any_rows(), wanted in vec(any::<Index>(), 0..6), config in any_config()
    ) {
        let messages = laid_out(config.layout, &texts);
        agree(&config, &columns, &messages)?;
        agree(&config, &subset(&columns, &wanted), &messages)?;
    }

    #[test]
    fn spoiled_rows_of_every_type_are_read_or_refused_alike(
        (columns, texts) in any_rows(), changes in vec((any::<Index>(), any_change()), 1..5), config in any_config()
    ) {
        let mut messages = laid_out(config.layout, &texts);
        prop_assume!(!messages.is_empty());
        for (message, change) in &changes {
            let message = message.index(messages.len());
            change.apply(&mut messages[message]);
        }
        agree(&config, &columns, &messages)?;
        agree(&config, &Arc::new(columns.project(&[0]).unwrap()), &messages)?;
        agree(&config, &schema(&[]), &messages)?;
    }

    #[test]
    fn objects_of_any_shape_are_read_or_refused_alike(
        values in vec(any_json(), 0..8), changes in vec((any::<Index>(), any_change()), 0..4), config in any_config()
    ) {
        let inner = Fields::from(vec![Field::new("a", DataType::Utf8, true), Field::new("e", DataType::Int32, true)]);
        let columns = schema(&[
            ("a", DataType::Int64), ("b", DataType::Float64), ("c", DataType::Utf8), ("d", DataType::Struct(inner)),
        ]);
        let texts: Vec<_> = values.iter().map(Value::to_string).collect();
        let mut messages = laid_out(config.layout, &texts);
        for (message, change) in &changes {
            if !messages.is_empty() {
                let message = message.index(messages.len());
                change.apply(&mut messages[message]);
            }
        }
        agree(&config, &columns, &messages)?;
    }

    #[test]
    fn numbers_are_read_to_their_last_bit(numbers in vec(any_number(), 1..10), coerce in any::<bool>()) {
        let config = JsonConfig { coerce, ..JsonConfig::default() };
        for data_type in [
            DataType::Float64, DataType::Float32, DataType::Int64, DataType::UInt64, DataType::Int8,
            DataType::Decimal128(30, 6), DataType::Decimal64(18, 3), DataType::Decimal32(5, 2), DataType::Decimal256(60, 20),
            DataType::Decimal128(20, -2), DataType::Timestamp(TimeUnit::Millisecond, None),
            DataType::Timestamp(TimeUnit::Nanosecond, None), DataType::Utf8,
        ] {
            let messages: Vec<_> = numbers.iter().map(|number| format!("{{\"n\":{number}}}").into_bytes()).collect();
            agree(&config, &schema(&[("n", data_type)]), &messages)?;
        }
        agree(&config, &schema(&[]), &numbers.iter().map(|number| number.clone().into_bytes()).collect::<Vec<_>>())?;
    }
}
