//! MATCH_RECOGNIZE: finds row patterns in the rows of each partition, in the order of event time.
//!
//! A row waits until the watermark has passed its time. Then it is given to the search of its partition: one starting
//! row at a time, all ways in which it may go on side by side in the order of preference ([`search`]). A match comes
//! out as soon as no way that is preferred to it is left; the watermark at WITHIN after the starting row ends all ways.
//!
//! Conditions that look at nothing but their row and rows before it are evaluated once per batch ([`rows`]); only those
//! that look at the rows matched so far are evaluated per way.

mod aggregates;
mod automaton;
mod evaluate;
mod operator;
mod output;
mod partitions;
mod rows;
mod search;
mod state;
mod walk;

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::common::{Result, ScalarValue};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::PhysicalExpr;

pub(crate) use automaton::{Automaton, PLACES_MAX, Term};

use crate::engine::error::RunError;
use crate::engine::operator::{Description, Operator, OperatorPlan, Site};
use crate::engine::times;

/// A set of variables: a bit for each.
pub(crate) type Variables = u64;
/// The most variables of a pattern.
pub(crate) const VARIABLES_MAX: usize = 64;

/// What the operator looks for and gives out.
#[derive(Debug, Clone)]
pub(crate) struct PatternPlan {
    /// The input's columns.
    pub(crate) input: SchemaRef,
    /// The input's column of event times.
    pub(crate) time_column: usize,
    /// How many nanoseconds its unit has.
    pub(crate) unit_ns: i64,
    /// The input's columns that make the partitions.
    pub(crate) partition: Vec<usize>,
    /// The order of rows with the same time; after that, rows stay in the order in which they came.
    pub(crate) order: Vec<(usize, SortOptions)>,
    /// From the first row of a match to its last one it is less than this.
    pub(crate) within_ns: i64,
    pub(crate) automaton: Automaton,
    /// The pattern as it was written.
    pub(crate) shown: String,
    /// The names of the variables.
    pub(crate) names: Vec<String>,
    /// By variable; `None`: every row fulfils it.
    pub(crate) conditions: Vec<Option<Expression>>,
    /// What is computed of each row, over the input; [`Input::Value`] and [`Call::arguments`] speak of these.
    pub(crate) columns: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) calls: Vec<Call>,
    pub(crate) measures: Vec<Expression>,
    pub(crate) skip: Skip,
    /// The input's columns that come before the measures.
    pub(crate) passed_on: Vec<usize>,
    /// Each row of a match comes out; otherwise one row per match.
    pub(crate) all_rows: bool,
    /// The output's columns.
    pub(crate) schema: SchemaRef,
}

/// Where the next match may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skip {
    PastLastRow,
    ToNextRow,
    ToFirst(Variables),
    ToLast(Variables),
}

/// An expression over what is known of a match.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    /// What its columns are.
    pub(crate) inputs: Vec<Input>,
    /// Its columns.
    pub(crate) schema: SchemaRef,
    pub(crate) expression: Arc<dyn PhysicalExpr>,
}

/// Something that is known of a match. `of`: the variables whose rows count; `None`: all rows of the match. `whole`: of
/// the whole match also for a row in its middle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A column of the row that is `offset` rows behind a row of the match in their partition. Null where that is not
    /// there, or not within the interval of the pattern.
    Value { column: usize, of: Option<Variables>, from: From, offset: i64, whole: bool },
    /// An aggregate over rows of the match.
    Aggregate { call: usize, of: Option<Variables>, whole: bool },
    /// The name of the row's variable.
    Classifier { whole: bool },
    /// The match's number in its partition, from 1.
    MatchNumber,
}

/// Which of the rows: so many after the first, or before the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    First(u32),
    Last(u32),
}

/// An aggregate.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) aggregate: Arc<AggregateFunctionExpr>,
    pub(crate) arguments: Vec<Argument>,
}

/// What an aggregate is given of a row.
#[derive(Debug, Clone)]
pub(crate) enum Argument {
    /// The column with this number of [`PatternPlan::columns`].
    Column(usize),
    Constant(ScalarValue),
}

impl Argument {
    /// The values for `rows` rows; `column` gives those of a column.
    fn values(&self, rows: usize, column: impl FnOnce(usize) -> Result<ArrayRef>) -> Result<ArrayRef> {
        match self {
            Self::Column(number) => column(*number),
            Self::Constant(value) => value.to_array_of_size(rows),
        }
    }
}

impl PatternPlan {
    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.conditions.iter().flatten().chain(&self.measures)
    }

    /// How many rows before a match are looked at.
    fn rows_before(&self) -> usize {
        self.expressions().map(Expression::rows_before).max().unwrap_or(0)
    }

    /// True where matches are numbered: then the last number of each partition is kept for ever.
    fn numbers(&self) -> bool {
        self.measures.iter().any(|measure| measure.inputs.contains(&Input::MatchNumber))
    }
}

impl Expression {
    fn offsets(&self) -> impl Iterator<Item = i64> {
        self.inputs.iter().map(|input| match input {
            Input::Value { offset, .. } => *offset,
            _ => 0,
        })
    }

    /// How many rows before a row of the match it looks at.
    fn rows_before(&self) -> usize {
        self.offsets().map(|offset| usize::try_from(-offset).unwrap_or(0)).max().unwrap_or(0)
    }

    /// How many rows after a row of the match it looks at.
    pub(crate) fn rows_after(&self) -> usize {
        self.offsets().map(|offset| usize::try_from(offset).unwrap_or(0)).max().unwrap_or(0)
    }

    /// True where it can be told of a row of the variable `variable` before any match: it looks at that row, and at rows
    /// before it.
    fn is_local(&self, variable: u8) -> bool {
        self.inputs.iter().all(|input| match input {
            Input::Value { of, from, offset, .. } => {
                of.is_none_or(|of| of & 1 << variable != 0) && *from == From::Last(0) && *offset <= 0
            }
            Input::Classifier { .. } => true,
            Input::Aggregate { .. } | Input::MatchNumber => false,
        })
    }
}

#[async_trait]
impl OperatorPlan for PatternPlan {
    async fn create(&self, site: Site) -> std::result::Result<Box<dyn Operator>, RunError> {
        Ok(Box::new(operator::PatternMatcher::new(self.clone(), site)?))
    }

    fn late(&self) -> Vec<SchemaRef> {
        vec![self.input.clone()]
    }

    fn describe(&self) -> Description {
        let within = times::duration(self.within_ns);
        let what = if self.all_rows { "every row of each match" } else { "one row per match" };
        let number = if self.numbers() { "; the number of each partition's last match" } else { "" };
        Description {
            does: format!("looks for the pattern {} within {within}, gives {what}", self.shown),
            keeps: Some(format!("rows that the watermark has not passed, and rows in which a match may be{number}")),
            freed: Some(format!("when the watermark is {within} behind the row in which a match could start")),
        }
    }
}
