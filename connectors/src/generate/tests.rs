//! The same seed gives the same rows, whatever happens on the way; and every option does what it says.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampNanosecondType};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::error::ErrorKind;
use crate::source::{ExpressionCompiler, RowExpression};
use crate::{Positions, SourceEvent};

/// Knows one expression: the name of a bigint column, doubled.
struct Doubler;

struct Doubled(usize);

impl ExpressionCompiler for Doubler {
    fn compile(&self, sql: &str, input: &SchemaRef) -> Result<Arc<dyn RowExpression>, String> {
        match input.index_of(sql) {
            Ok(index) => Ok(Arc::new(Doubled(index))),
            Err(_) => Err(format!("there is no column `{sql}`")),
        }
    }
}

impl RowExpression for Doubled {
    fn data_type(&self) -> DataType {
        DataType::Int64
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, String> {
        let values = rows.column(self.0).as_primitive::<Int64Type>();
        Ok(Arc::new(values.unary::<_, Int64Type>(|value| 2 * value)))
    }
}

fn config(value: serde_json::Value) -> GenerateConfig {
    serde_json::from_value(value).unwrap()
}

fn context(columns: SchemaRef, batch_rows_max: usize) -> SourceContext {
    SourceContext {
        pipeline: "p".into(),
        name: "s".into(),
        base_dir: ".".into(),
        metadata: Vec::new(),
        batch_rows_max,
        batch_bytes_max: 4 << 20,
        columns,
        routes: Arc::default(),
        expressions: Arc::new(Doubler),
    }
}

/// Takes rows from `from` on, at most `batches` batches, by partition; with the position after them.
async fn run(
    config: &GenerateConfig,
    rows_max: usize,
    from: Positions,
    batches: usize,
) -> (BTreeMap<String, Vec<RecordBatch>>, Positions, bool) {
    let mut source = config.build(&context(config.schema().unwrap(), rows_max)).unwrap();
    source.open(&from).await.unwrap();
    let (mut rows, mut position) = (BTreeMap::<String, Vec<RecordBatch>>::new(), from);
    for _ in 0..=batches {
        match source.next().await.unwrap() {
            SourceEvent::Partitions(names) => assert_eq!(names.len(), usize::from(config.partitions.get())),
            SourceEvent::Rows(batch) => {
                assert!(batch.rows.num_rows() > 0 && batch.rows.num_rows() <= rows_max.max(2));
                position.set(&batch.partition, batch.next_position);
                rows.entry(batch.partition.to_string()).or_default().push(batch.rows);
            }
            SourceEvent::End => return (rows, position, true),
            SourceEvent::Messages(_) | SourceEvent::Header(_) => panic!("a generator makes rows"),
        }
    }
    (rows, position, false)
}

fn joined(rows: &BTreeMap<String, Vec<RecordBatch>>) -> BTreeMap<String, RecordBatch> {
    rows.iter().map(|(name, rows)| (name.clone(), concat_batches(&rows[0].schema(), rows).unwrap())).collect()
}

/// All rows of a source with one partition and a count.
async fn all(config: &GenerateConfig) -> RecordBatch {
    let (rows, _, ended) = run(config, 1000, Positions::default(), 10_000).await;
    assert!(ended);
    joined(&rows).remove("0").unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Everything at once.
fn everything(seed: u64, count: u64, partitions: u16) -> GenerateConfig {
    config(json!({
        "columns": {
            "n": {"sequence": {"start": 5, "step": 3}},
            "u": {"uniform": {"min": -1, "max": 2.5}},
            "i": {"uniform": {"min": -3, "max": 3, "integer": true, "nulls": 0.2}},
            "g": {"normal": {"mean": 10, "stddev": 5, "min": 0}},
            "w": {"walk": {"start": 4, "step": 0.5, "min": -5, "max": 30, "nulls": 0.1}},
            "c": {"choice": {"values": ["a", "b", "c"], "weights": [8, 1, 1]}},
            "k": {"constant": 7},
            "ts": {"timestamp": {}},
            "device": {"key": {"prefix": "device-", "count": 12}},
            "b": {"bool": {"probability": 0.3}},
            "id": {"uuid": {}},
        },
        "rate": "unlimited", "count": count, "start": "2026-01-01T00:00:00Z", "interval": "10ms", "seed": seed,
        "disorder": {"max": "2s", "probability": 0.3}, "duplicates": {"probability": 0.1},
        "gaps": {"every": "10s", "length": "2s"}, "bursts": {"every": "5s", "length": "1s", "factor": 10},
        "partitions": partitions,
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn stopping_anywhere_and_going_on_gives_the_rows_of_one_run(
        seed: u64, count in 1..3000_u64, partitions in 1..4_u16, first in 1..700_usize, second in 1..700_usize, batches in 0..6_usize,
    ) {
        block_on(async {
            let config = everything(seed, count, partitions);
            let (whole, whole_end, _) = run(&config, 1000, Positions::default(), usize::MAX - 1).await;
            let (mut rows, position, _) = run(&config, first, Positions::default(), batches).await;
            let (rest, end, ended) = run(&config, second, position, usize::MAX - 1).await;
            assert!(ended);
            for (name, batches) in rest {
                rows.entry(name).or_default().extend(batches);
            }
            assert_eq!(joined(&rows), joined(&whole));
            assert_eq!(end, whole_end);
            assert_eq!(end.0.values().sum::<u64>(), count);
        });
    }

    #[test]
    fn partitions_share_the_rows_of_one(seed: u64, partitions in 2..5_u16) {
        block_on(async {
            let mut config = everything(seed, 500, 1);
            config.duplicates = None;
            let one = all(&config).await;
            config.partitions = NonZeroU16::new(partitions).unwrap();
            let several = joined(&run(&config, 64, Positions::default(), 10_000).await.0);
            for row in 0..500 {
                let part = &several[&(row % usize::from(partitions)).to_string()];
                assert_eq!(part.slice(row / usize::from(partitions), 1), one.slice(row, 1));
            }
        });
    }

    #[test]
    fn a_walk_keeps_to_its_bounds_and_its_step(
        seed: u64, min in -1e3..1e3_f64, range in 0.0..1e3_f64, at in 0.0..=1.0_f64, step in 1e-3..1e3_f64, keys in 1..20_u64,
    ) {
        let (max, start) = (min + range, (min + range * at).clamp(min, min + range));
        let config = config(json!({
            "columns": {"w": {"walk": {"start": start, "step": step, "min": min, "max": max}}, "k": {"key": {"count": keys}}},
            "rate": "unlimited", "count": 2000, "seed": seed,
        }));
        let rows = block_on(all(&config));
        let walk = rows["w"].as_primitive::<Float64Type>().values();
        for (row, value) in walk.iter().enumerate() {
            assert!((min..=max).contains(value));
            let before = if row < keys as usize { start } else { walk[row - keys as usize] };
            assert!((value - before).abs() <= step * (1.0 + 1e-9) + 1e-9, "row {row}: {before} to {value}");
        }
    }

    #[test]
    fn the_schedule_never_goes_back(
        rate in 0.01..1e6_f64, every in 2..100_u64, gap in 0..100_u64, burst in 0..100_u64, factor in 1.0..50_f64, from in 0..u64::MAX / 2,
    ) {
        let config = config(json!({
            "columns": {"n": {"sequence": {}}}, "rate": rate,
            "gaps": {"every": format!("{every}s"), "length": format!("{}s", gap % every)},
            "bursts": {"every": format!("{every}s"), "length": format!("{}s", burst % every), "factor": factor},
        }));
        config.build(&context(config.schema().unwrap(), 10)).unwrap();
        let schedule = schedule::Schedule::new(&config);
        let due: Vec<u128> = (from..from + 200).map(|n| schedule.due(n).unwrap()).collect();
        assert!(due.is_sorted());
    }
}

#[test]
fn other_seeds_give_other_rows() {
    let (one, other) = (block_on(all(&everything(1, 100, 1))), block_on(all(&everything(2, 100, 1))));
    assert_ne!(&one["u"], &other["u"]);
    assert_eq!(one, block_on(all(&everything(1, 100, 1))));
}

#[test]
fn rows_stay_as_they_are_over_releases() {
    // A changed hash would break what users compare with: recorded demonstrations, golden results.
    let mut config = everything(42, 3, 1);
    config.duplicates = None;
    let rows = block_on(all(&config));
    assert_eq!(rows["n"].as_primitive::<Int64Type>().values(), &[5, 8, 11]);
    let shown = arrow::util::display::array_value_to_string(&rows["id"], 1).unwrap();
    assert_eq!(shown, "b5aa28e2-7ad9-431f-ada1-2c440f5b686d");
}

#[test]
fn going_on_at_ten_billion_is_immediate() {
    let mut config = everything(3, u64::MAX, 1);
    config.duplicates = None;
    let mut from = Positions::default();
    from.set("0", 10_000_000_000);
    let (rows, position, _) = block_on(run(&config, 10, from, 1));
    assert_eq!(rows["0"][0]["n"].as_primitive::<Int64Type>().value(0), 30_000_000_005);
    assert_eq!(position.get("0"), Some(10_000_000_010));
}

#[test]
fn values_are_within_what_was_written() {
    let rows = block_on(all(&everything(7, 5000, 1)));
    let doubles = |name: &str| rows[name].as_primitive::<Float64Type>().iter().flatten().collect::<Vec<_>>();
    assert!(doubles("u").iter().all(|value| (-1.0..=2.5).contains(value)));
    assert!(doubles("g").iter().all(|value| *value >= 0.0));
    let mean = doubles("g").iter().sum::<f64>() / rows.num_rows() as f64;
    assert!((9.5..11.0).contains(&mean), "{mean}");
    let integers: Vec<i64> = rows["i"].as_primitive::<Int64Type>().iter().flatten().collect();
    for value in -3..=3 {
        assert!(integers.contains(&value));
    }
    assert!(integers.iter().all(|value| (-3..=3).contains(value)));
    let share = |count: usize| count as f64 / rows.num_rows() as f64;
    assert!((0.17..0.23).contains(&share(rows["i"].null_count())));
    assert!((0.25..0.35).contains(&share(rows["b"].as_boolean().true_count())));
    let texts = rows["c"].as_string_view();
    assert!((0.77..0.83).contains(&share(texts.iter().filter(|text| *text == Some("a")).count())));
    assert_eq!(rows["device"].as_string_view().value(0), "device-01");
    // A tenth comes twice, next to itself.
    assert!((5400..5600).contains(&rows.num_rows()), "{}", rows.num_rows());
    let n = rows["n"].as_primitive::<Int64Type>().values();
    assert!(n.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 3));
}

#[test]
fn disorder_stays_within_its_bound() {
    let mut config = everything(9, 5000, 1);
    (config.gaps, config.bursts, config.duplicates) = (None, None, None);
    let rows = block_on(all(&config));
    let times = rows["ts"].as_primitive::<TimestampNanosecondType>().values();
    let start = 1_767_225_600_000_000_000_i64;
    let mut disordered = 0;
    for (n, time) in times.iter().enumerate() {
        let early = start + n as i64 * 10_000_000 - time;
        assert!((0..=2_000_000_000).contains(&early), "row {n} is {early} ns early");
        disordered += usize::from(early > 0);
    }
    assert!((1350..1650).contains(&disordered), "{disordered}");
}

#[test]
fn gaps_are_silent_and_bursts_are_dense() {
    let due = |gaps, bursts| {
        let config = config(json!({"columns": {"n": {"sequence": {}}}, "rate": 10, "gaps": gaps, "bursts": bursts}));
        let schedule = schedule::Schedule::new(&config);
        (0..200).map(|n| schedule.due(n).unwrap() / 1_000_000).collect::<Vec<_>>()
    };
    let gaps = due(json!({"every": "5s", "length": "2s"}), json!(null));
    assert_eq!(gaps[29..32], [2900, 5000, 5100]);
    assert!(gaps.iter().all(|millis| millis % 5000 < 3000));
    let bursts = due(json!(null), json!({"every": "5s", "length": "1s", "factor": 10}));
    assert_eq!(bursts[38..43], [3800, 3900, 4000, 4010, 4020]);
    assert_eq!(bursts.iter().filter(|millis| (4000..5000).contains(*millis)).count(), 100);
    assert_eq!(bursts[140], 5000);
}

#[test]
fn event_times_that_start_now_follow_the_clock_also_after_a_restart() {
    let config = config(json!({"columns": {"ts": {"timestamp": {}}}, "rate": 1000, "count": 2_000_000}));
    let mut from = Positions::default();
    from.set("0", 1_000_000);
    let before = chrono::Utc::now().timestamp_nanos_opt().unwrap();
    let (rows, _, _) = block_on(run(&config, 10, from, 3));
    let after = chrono::Utc::now().timestamp_nanos_opt().unwrap();
    let rows = joined(&rows).remove("0").unwrap();
    let times = rows["ts"].as_primitive::<TimestampNanosecondType>().values();
    assert!(times[0] >= before && times[0] <= after);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000));
}

#[test]
fn a_low_rate_sends_single_rows_and_not_before_their_time() {
    let config = config(json!({"columns": {"n": {"sequence": {}}}, "rate": "50/s", "count": 4}));
    let started = std::time::Instant::now();
    let (rows, _, ended) = block_on(run(&config, 1000, Positions::default(), 100));
    assert!(ended && started.elapsed() >= std::time::Duration::from_millis(60));
    assert_eq!(joined(&rows)["0"].num_rows(), 4);
}

#[test]
fn a_dropped_wait_loses_no_row() {
    let config = config(json!({"columns": {"n": {"sequence": {}}}, "rate": "100/s", "count": 5}));
    let numbers = block_on(async {
        let mut source = config.build(&context(config.schema().unwrap(), 10)).unwrap();
        source.open(&Positions::default()).await.unwrap();
        let mut numbers: Vec<i64> = Vec::new();
        loop {
            match tokio::time::timeout(std::time::Duration::from_millis(1), source.next()).await {
                Err(_) => {}
                Ok(Ok(SourceEvent::Rows(batch))) => {
                    numbers.extend(batch.rows["n"].as_primitive::<Int64Type>().values())
                }
                Ok(Ok(SourceEvent::End)) => return numbers,
                Ok(other) => assert!(matches!(other, Ok(SourceEvent::Partitions(_)))),
            }
        }
    });
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
}

#[test]
fn sql_columns_read_the_others_and_columns_take_their_declared_order_and_types() {
    let config = config(json!({
        "columns": {"four": {"sql": "two"}, "n": {"sequence": {"start": 1}}, "two": {"sql": "n"}, "t": {"constant": "x"}},
        "rate": "unlimited", "count": 3,
    }));
    // `four` stands before `two`, so it cannot read it.
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("two", DataType::Int32, false),
        Field::new("t", DataType::Utf8, false),
        Field::new("n", DataType::Int64, false),
        Field::new("four", DataType::Int64, true),
    ]));
    let error = config.build(&context(Arc::clone(&schema), 10)).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "columns.four.sql: there is no column `two`");
    let mut config = config;
    config.columns.insert("four".into(), Generator::Sql("n".into()));
    let mut source = config.build(&context(schema, 10)).unwrap();
    let batch = block_on(async {
        source.open(&Positions::default()).await.unwrap();
        source.next().await.unwrap();
        source.next().await.unwrap()
    });
    let SourceEvent::Rows(batch) = batch else { panic!("{batch:?}") };
    let row: Vec<String> = batch
        .rows
        .columns()
        .iter()
        .map(|column| arrow::util::display::array_value_to_string(column, 2).unwrap())
        .collect();
    assert_eq!(row, ["6", "x", "3", "6"]);
}

#[test]
fn a_value_that_does_not_fit_its_column_is_an_error_and_not_null() {
    let config =
        config(json!({"columns": {"n": {"sequence": {"start": 2_147_483_647}}}, "rate": "unlimited", "count": 3}));
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true)]));
    let mut source = config.build(&context(schema, 10)).unwrap();
    let error = block_on(async {
        source.open(&Positions::default()).await.unwrap();
        source.next().await.unwrap();
        source.next().await.unwrap_err()
    });
    assert_eq!((error.kind, error.option.as_deref()), (ErrorKind::Configuration, Some("columns.n")));
}

#[test]
fn the_schema_is_derived_from_the_generators() {
    let schema = everything(0, 1, 1).schema().unwrap();
    let shown: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| format!("{} {}{}", field.name(), field.data_type(), if field.is_nullable() { "?" } else { "" }))
        .collect();
    assert_eq!(
        shown.join(", "),
        "n Int64, u Float64, i Int64?, g Float64, w Float64?, c Utf8View, k Int64, ts Timestamp(ns), device Utf8View, \
         b Boolean, id Utf8View"
    );
    assert_eq!(*schema.field(7).data_type(), DataType::Timestamp(TimeUnit::Nanosecond, None));
    let sql = config(json!({"columns": {"x": {"sql": "1"}}}));
    assert!(sql.schema().unwrap_err().message.contains("its type must be declared"));
}

#[test]
fn what_cannot_work_is_refused_at_its_option() {
    let columns = |generator: serde_json::Value| json!({"columns": {"x": generator}});
    let with = |option: &str, value: serde_json::Value| {
        let mut config = json!({"columns": {"x": {"timestamp": {}}}});
        config[option] = value;
        config
    };
    for (written, option) in [
        (json!({"columns": {}}), "columns"),
        (columns(json!({"uniform": {"min": 2, "max": 1}})), "columns.x.uniform.min"),
        (columns(json!({"uniform": {"min": 0.2, "max": 0.8, "integer": true}})), "columns.x.uniform.min"),
        (columns(json!({"uniform": {"min": 0, "max": 1, "nulls": 1.5}})), "columns.x.uniform.nulls"),
        (columns(json!({"normal": {"mean": 0, "stddev": -1}})), "columns.x.normal.stddev"),
        (columns(json!({"walk": {"start": 9, "step": 1, "min": 0, "max": 1}})), "columns.x.walk.start"),
        (columns(json!({"walk": {"start": 0, "step": 0, "min": 0, "max": 1}})), "columns.x.walk.step"),
        (columns(json!({"walk": {"start": 0, "step": 1, "min": 0, "max": 1, "by": "k"}})), "columns.x.walk.by"),
        (columns(json!({"choice": {"values": []}})), "columns.x.choice.values"),
        (columns(json!({"choice": {"values": ["a", 1]}})), "columns.x.choice.values"),
        (columns(json!({"choice": {"values": ["a"], "weights": [1, 2]}})), "columns.x.choice.weights"),
        (columns(json!({"choice": {"values": ["a"], "weights": [0]}})), "columns.x.choice.weights"),
        (columns(json!({"key": {"count": 1_000_000_000}})), "columns.x.key.count"),
        (columns(json!({"bool": {"probability": 2}})), "columns.x.bool.probability"),
        (with("rate", json!("unlimited")), "interval"),
        (with("interval", json!("0s")), "interval"),
        (with("partitions", json!(257)), "partitions"),
        (with("gaps", json!({"every": "1s", "length": "1s"})), "gaps.length"),
        (with("bursts", json!({"every": "2s", "length": "1s", "factor": 0.5})), "bursts.factor"),
        (with("duplicates", json!({"probability": -1})), "duplicates.probability"),
        (json!({"columns": {"x": {"sequence": {}}}, "disorder": {"max": "1s"}}), "disorder"),
    ] {
        let error = config(written.clone()).schema().expect_err(&written.to_string());
        assert_eq!(
            (error.kind, error.option.as_deref()),
            (ErrorKind::Configuration, Some(option)),
            "{written}: {error}"
        );
    }
    for wrong in [json!("fast"), json!("10/day"), json!(0), json!(-1), json!("2e9/s"), json!([1])] {
        assert!(serde_json::from_value::<GenerateConfig>(with("rate", wrong.clone())).is_err(), "{wrong}");
    }
    for wrong in [
        json!({"columns": {"x": {"walk": {}}}}),
        json!({"columns": {"x": {"sequnce": {}}}}),
        with("start", json!("soon")),
        with("sede", json!(1)),
    ] {
        assert!(serde_json::from_value::<GenerateConfig>(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn declared_columns_that_do_not_match_are_refused() {
    let config = config(json!({"columns": {"x": {"uniform": {"min": 0, "max": 1, "nulls": 0.5}}}, "rate": 1}));
    for (fields, says) in [
        (vec![Field::new("y", DataType::Int64, true)], "columns: declared, but nothing says how to make it: `y`"),
        (vec![], "columns.x: `x` is not among the source's declared columns"),
        (
            vec![Field::new("x", DataType::Int64, true)],
            "columns.x.uniform: `uniform` makes Float64, but the column is declared as Int64 (`integer: true` makes whole numbers)",
        ),
        (
            vec![Field::new("x", DataType::Utf8, true)],
            "columns.x.uniform: `uniform` makes Float64, but the column is declared as Utf8",
        ),
        (
            vec![Field::new("x", DataType::Float64, false)],
            "columns.x.uniform.nulls: the column is declared without NULL (`nullable: false`)",
        ),
    ] {
        let error = config.build(&context(Arc::new(Schema::new(fields)), 10)).map(drop).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
    assert!(config.build(&context(Arc::new(Schema::new(vec![Field::new("x", DataType::Float32, true)])), 10)).is_ok());
}

#[test]
fn what_is_read_is_written_back_the_same() {
    for rate in [json!(500), json!("10/min"), json!("0.5/h"), json!("unlimited"), json!("1e3/s")] {
        let mut written = serde_json::to_value(everything(1, 2, 3)).unwrap();
        written["rate"] = rate;
        let read = config(written);
        assert_eq!(config(serde_json::to_value(&read).unwrap()), read);
    }
}

#[test]
fn it_reads_as_part_of_a_source_and_its_schema_shows_defaults() {
    #[derive(serde::Deserialize)]
    struct Outer {
        #[serde(flatten)]
        connector: crate::config::SourceConfig,
    }

    let text =
        r#"{"generate": {"columns": {"w": {"walk": {"start": 1, "step": 0.5, "min": -1, "max": 2}}}, "rate": 5}}"#;
    let outer: Outer = serde_json::from_str(text).unwrap();
    assert!(!outer.connector.bounded());
    let schema = serde_json::to_value(schemars::schema_for!(GenerateConfig)).unwrap();
    let default = |option: &str| schema["properties"][option]["default"].clone();
    assert_eq!(
        [default("rate"), default("start"), default("seed"), default("partitions")],
        [json!("10/s"), json!("now"), json!(0), json!(1)]
    );
    for option in schema["properties"].as_object().unwrap().values() {
        assert!(option["description"].is_string(), "{option}");
    }
}
