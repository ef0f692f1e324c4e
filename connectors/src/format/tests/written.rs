//! The JSON encoder, which writes whole columns, writes what writing value by value gives.

use arrow::array::{Float32Array, Float64Array, Int64Array, PrimitiveArray, StringArray};
use arrow::datatypes::{
    ArrowTimestampType, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::roundtrip::any_rows;
use super::*;
use crate::format::json::{EncodeOptions, JsonConfig, NullStyle, TimestampStyle, encoders};

/// The rows, value by value.
fn reference(config: &JsonConfig, rows: &RecordBatch) -> Vec<String> {
    let options = EncodeOptions::new(config);
    let mut columns = encoders(rows, &options).unwrap();
    let schema = rows.schema();
    let row = |row| {
        let mut fields = Vec::new();
        for (field, column) in schema.fields().iter().zip(&mut columns) {
            let mut value = Vec::new();
            match column.is_null(row) {
                true if config.nulls == NullStyle::Omit => continue,
                true => value.extend_from_slice(b"null"),
                false => column.encode(row, &mut value),
            }
            fields.push(format!("{}:{}", json!(field.name()), String::from_utf8(value).unwrap()));
        }
        format!("{{{}}}", fields.join(","))
    };
    (0..rows.num_rows()).map(row).collect()
}

fn agree(config: &JsonConfig, rows: &RecordBatch) -> Result<(), TestCaseError> {
    let mut encoder = config.encoder(rows.schema()).unwrap();
    for rows in [rows.clone(), rows.slice(rows.num_rows() / 2, rows.num_rows() - rows.num_rows() / 2)] {
        let encoded = encoder.encode(&rows).unwrap();
        let found: Vec<_> = encoded.messages().map(|row| String::from_utf8(row.to_vec()).unwrap()).collect();
        prop_assert_eq!(found, reference(config, &rows));
    }
    Ok(())
}

fn any_config() -> impl Strategy<Value = JsonConfig> {
    let nulls = prop_oneof![Just(NullStyle::Write), Just(NullStyle::Omit)];
    let timestamps = prop_oneof![
        Just(TimestampStyle::Rfc3339),
        Just(TimestampStyle::EpochS),
        Just(TimestampStyle::EpochMs),
        Just(TimestampStyle::EpochUs),
        Just(TimestampStyle::EpochNs),
    ];
    (nulls, timestamps).prop_map(|(nulls, timestamps)| JsonConfig { nulls, timestamps, ..JsonConfig::default() })
}

fn timestamps<T: ArrowTimestampType>(values: &[Option<i64>], per_second: i64) -> ArrayRef {
    // chrono's calendar ends about the year 262,000.
    let limit = 8_000_000_000_000_i64.saturating_mul(per_second);
    Arc::new(values.iter().map(|value| value.map(|value| value % limit)).collect::<PrimitiveArray<T>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn rows_of_every_type_are_written_alike((columns, texts) in any_rows(), config in any_config()) {
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        agree(&config, &decode(json!("json"), &columns, &texts).rows)?;
    }

    #[test]
    fn values_at_the_edges_are_written_alike(
        integers in vec(any::<Option<i64>>(), 6), near in vec(0_i64..4_000_000_000_000, 6), config in any_config(),
        doubles in vec(any::<Option<f64>>(), 6), floats in vec(any::<Option<f32>>(), 6),
        texts in vec(prop::option::of("[ -~]{0,40}|\\PC{0,20}|[\u{0}-\u{7f}é\"\\\\]{0,40}"), 6),
    ) {
        let near: Vec<_> = near.into_iter().map(Some).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i", Arc::new(Int64Array::from(integers.clone()))),
            ("d\"\n", Arc::new(Float64Array::from(doubles))),
            ("f", Arc::new(Float32Array::from(floats))),
            ("s", Arc::new(StringArray::from(texts))),
            ("ts", timestamps::<TimestampSecondType>(&integers, 1)),
            ("tm", timestamps::<TimestampMillisecondType>(&integers, 1_000)),
            ("tu", timestamps::<TimestampMicrosecondType>(&integers, 1_000_000)),
            ("tn", timestamps::<TimestampNanosecondType>(&integers, 1_000_000_000)),
            ("nm", timestamps::<TimestampMillisecondType>(&near, 1_000)),
            ("nu", timestamps::<TimestampMicrosecondType>(&near, 1_000_000)),
        ];
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        agree(&config, &RecordBatch::try_from_iter_with_nullable(columns).unwrap())?;
    }
}
