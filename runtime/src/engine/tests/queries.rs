//! Queries for the oracle: put together from parts that all mean something, so that shrinking ends in a query that a
//! reader understands.

use proptest::prelude::*;

/// What the pipeline computes.
#[derive(Debug, Clone)]
pub(super) struct Query {
    /// Steps before the last ones, each with its SQL. They all have the source's columns.
    pub(super) steps: Vec<(String, String)>,
    /// What the window or the last step reads: a source or one of the steps.
    pub(super) relation: String,
    /// It reads the source `s2` too.
    pub(super) two_sources: bool,
    /// All rows come to the window by one way, so that which rows are late is known.
    pub(super) one_way: bool,
    pub(super) last: Last,
}

/// How the pipeline ends.
#[derive(Debug, Clone)]
pub(super) enum Last {
    /// SQL without state.
    Stateless(String),
    /// A window aggregate; `{FROM}` stands for the windowed relation.
    Window {
        /// In ticks.
        size: i64,
        offset: i64,
        sql: String,
        /// A step that reads the aggregate's, `q`.
        post: Option<String>,
    },
}

pub(super) const PREDICATES: &[&str] = &[
    "n > 1",
    "b",
    "k = 'a'",
    "v IS NOT NULL AND g <> 2",
    "k IN ('a', '')",
    "n BETWEEN 0 AND 5 OR k IS NULL",
    "array_length(tags) > 1",
    "id % 3 <> 0",
    "false",
];

const COLUMNS: &str = "id, ts, k, g, v, n, d, b, tags";

/// Reads from `{R}`; the table's columns are tg, name, w.
pub(super) const STATELESS: &[&str] = &[
    "SELECT id, ts, upper(k) AS k, CASE WHEN n > 3 THEN g WHEN b THEN 7 END AS g, v * 2 AS v, n, d, b, tags FROM {R}",
    "SELECT id, ts, unnest(tags) AS k, g, v, n, d, b, tags FROM {R}",
    "SELECT id, ts, name AS k, g, v + w AS v, n, d, b, tags FROM {R} JOIN t ON g = tg",
    "SELECT id, ts, name AS k, g, v + w AS v, n, d, b, tags FROM {R} LEFT JOIN t ON g = tg",
    "SELECT id, ts, name AS k, g, v, n, d, b, tags FROM t RIGHT JOIN {R} ON g = tg AND v > w",
    "SELECT id, ts, name AS k, g, v, n, d, b, tags FROM {R} JOIN t ON v < w",
    "SELECT * FROM {R} WHERE EXISTS (SELECT 1 FROM t WHERE tg = g)",
    "SELECT * FROM {R} WHERE NOT EXISTS (SELECT 1 FROM t WHERE tg = g)",
    "SELECT * FROM {R} WHERE g IN (SELECT tg FROM t WHERE w > 0)",
    "SELECT * FROM {R} WHERE g NOT IN (SELECT tg FROM t WHERE tg IS NOT NULL)",
    "SELECT * FROM {R} WHERE v > (SELECT avg(w) FROM t)",
    "SELECT id, ts, (SELECT max(name) FROM t WHERE tg = g) AS k, g, v, n, d, b, tags FROM {R}",
    "SELECT * FROM {R} WHERE n > 1 UNION ALL SELECT * FROM {R} WHERE b",
];

const LAST_STATELESS: &[&str] = &[
    "SELECT id, ts, k, coalesce(n, 0) + g AS x, v / 3 AS y FROM {R}",
    "SELECT id, ts + INTERVAL '1 hour' AS later, d * 2 AS dd, named_struct('k', k, 'g', g) AS s FROM {R}",
    "SELECT k || '-' || coalesce(k, '?') AS kk, unnest(tags) AS tag, id FROM {R}",
    "SELECT date_bin(INTERVAL '1 second', ts) AS bin, b AND n > 0 AS c FROM {R} WHERE k IS NOT NULL",
];

pub(super) const KEYS: &[&str] = &[
    "k",
    "g",
    "upper(k)",
    "n % 2",
    "v",
    "d",
    "b",
    "tags",
    "named_struct('a', g, 'b', k)",
    "CASE WHEN v < 0 THEN -0.0 ELSE 0.0 END",
];

pub(super) const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(v)",
    "count(DISTINCT g)",
    "count(DISTINCT k)",
    "sum(n)",
    "sum(v)",
    "min(v)",
    "max(n)",
    "min(k)",
    "max(ts)",
    "avg(v)",
    "avg(n)",
    "avg(d)",
    "sum(d)",
    "stddev(v)",
    "var_pop(n)",
    "median(n)",
    "median(v)",
    "first_value(id ORDER BY ts, id)",
    "last_value(k ORDER BY ts DESC, id, k)",
    "bool_and(b)",
    "bool_or(b)",
    "count(*) FILTER (WHERE n > 1)",
    "sum(n) FILTER (WHERE b)",
    "sum(DISTINCT n)",
    "count(1)",
    "sum(2)",
    "bit_xor(n)",
    "corr(v, n)",
    "approx_distinct(k)",
    "min(b)",
    "sum(n + g) + count(*)",
    "max(window_end)",
    "min(d)",
    "avg(DISTINCT v)",
    "regr_slope(v, n)",
    "first_value(v) FILTER (WHERE false)",
];

/// The steps before the window.
fn before() -> impl Strategy<Value = (Vec<(String, String)>, String, bool, bool)> {
    let predicate = (0..PREDICATES.len()).prop_map(|index| PREDICATES[index]);
    let stateless = (0..STATELESS.len()).prop_map(|index| STATELESS[index]);
    let step = |name: &str, sql: String| (name.to_owned(), sql);
    prop_oneof![
        4 => Just((vec![], "s".to_owned(), false, true)),
        3 => predicate.clone().prop_map(move |predicate| {
            let sql = format!("SELECT {COLUMNS} FROM s WHERE {predicate}");
            (vec![step("a", sql)], "a".to_owned(), false, true)
        }),
        6 => stateless.clone().prop_map(move |sql| {
            (vec![step("a", sql.replace("{R}", "s"))], "a".to_owned(), false, true)
        }),
        3 => (stateless.clone(), stateless.clone()).prop_map(move |(first, second)| {
            let steps = vec![step("a", first.replace("{R}", "s")), step("b", second.replace("{R}", "a"))];
            (steps, "b".to_owned(), false, true)
        }),
        2 => (stateless, predicate.clone(), predicate.clone()).prop_map(move |(first, p, q)| {
            let steps = vec![
                step("a", first.replace("{R}", "s")),
                step("b", format!("SELECT {COLUMNS} FROM a WHERE {p}")),
                step("c", format!("SELECT {COLUMNS} FROM a WHERE {q}")),
                step("e", "SELECT * FROM b UNION ALL SELECT * FROM c".to_owned()),
            ];
            (steps, "e".to_owned(), false, false)
        }),
        3 => predicate.prop_map(move |predicate| {
            let sql = format!("SELECT {COLUMNS} FROM s WHERE {predicate} UNION ALL SELECT {COLUMNS} FROM s2");
            (vec![step("a", sql)], "a".to_owned(), true, false)
        }),
    ]
}

pub(super) fn window() -> impl Strategy<Value = Last> {
    let keys = proptest::collection::vec(0..KEYS.len(), 0..3);
    let aggregates = proptest::collection::vec(0..AGGREGATES.len(), 0..5);
    let predicate = proptest::option::weighted(0.3, 0..PREDICATES.len());
    let having = prop_oneof![Just(""), Just(" HAVING count(*) > 1"), Just(" HAVING sum(n) > 0")];
    (1..20_i64, -9..9_i64, keys, aggregates, predicate, having, any::<bool>(), 0..3_u8, 0..3_u8).prop_map(
        |(size, offset, keys, aggregates, predicate, having, join, bounds, post)| {
            let bounds: &[&str] =
                [&["window_start", "window_end"][..], &["window_start"], &["window_end"]][bounds as usize];
            let keys: Vec<&str> = keys.into_iter().map(|key| KEYS[key]).collect();
            let grouped: Vec<&str> = bounds.iter().chain(&keys).copied().collect();
            let mut columns: Vec<String> = bounds.iter().map(|bound| (*bound).to_owned()).collect();
            columns.extend(keys.iter().enumerate().map(|(index, key)| format!("{key} AS key{index}")));
            let called =
                aggregates.iter().enumerate().map(|(index, call)| format!("{} AS a{index}", AGGREGATES[*call]));
            columns.extend(called);
            let join = if join && predicate == Some(0) { " JOIN t ON g = tg" } else { "" };
            let filter = predicate.map_or(String::new(), |index| format!(" WHERE {}", PREDICATES[index]));
            let sql = format!(
                "SELECT {} FROM {{FROM}}{join}{filter} GROUP BY {}{having}",
                columns.join(", "),
                grouped.join(", ")
            );
            let post = match post {
                1 => Some(format!("SELECT *, 1 AS one FROM q WHERE {} IS NOT NULL", bounds[0])),
                2 if bounds.len() == 2 => Some(
                    "SELECT window_start, count(*) AS c, max(window_end) AS e FROM q GROUP BY window_start, window_end"
                        .to_owned(),
                ),
                _ => None,
            };
            Last::Window { size, offset, sql, post }
        },
    )
}

pub(super) fn query() -> impl Strategy<Value = Query> {
    let stateless = (0..LAST_STATELESS.len()).prop_map(|index| Last::Stateless(LAST_STATELESS[index].to_owned()));
    (before(), prop_oneof![1 => stateless, 5 => window()]).prop_map(
        |((steps, relation, two_sources, one_way), last)| {
            let last = match last {
                Last::Stateless(sql) => Last::Stateless(sql.replace("{R}", &relation)),
                window => window,
            };
            Query { steps, relation, two_sources, one_way, last }
        },
    )
}
