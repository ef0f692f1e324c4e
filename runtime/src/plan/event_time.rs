//! The event time of a source: which column it is, or that it is the clock.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::engine::clock::{Disorder, EventTimePlan, TimeKind};
use crate::spec::event_time::PROCESSING_TIME;
use crate::spec::model::{ColumnTimeSpec, EventTimeSpec, SourceSpec};
use crate::spec::problem::{Problem, nearest};
use crate::sql::marks;
use crate::sql::wording::sql_types;

/// The event time that `spec` asks for, and the columns with it: marked where the rows have it, added where it is the clock.
pub(super) fn event_time(
    source: &str,
    spec: &SourceSpec,
    columns: SchemaRef,
    bounded: bool,
    problems: &mut Vec<Problem>,
) -> (SchemaRef, Option<EventTimePlan>) {
    let event_time = match &spec.event_time {
        None => None,
        Some(EventTimeSpec::Column(of_rows)) => time_of_rows(source, of_rows, &columns, bounded, problems),
        Some(clock) => return with_clock(source, clock, columns, problems),
    };
    (marked(columns, event_time.as_ref()), event_time)
}

fn time_of_rows(
    source: &str,
    event_time: &ColumnTimeSpec,
    schema: &SchemaRef,
    bounded: bool,
    problems: &mut Vec<Problem>,
) -> Option<EventTimePlan> {
    let path = ["sources", source, "event_time", "column"];
    let Some((index, field)) = schema.column_with_name(&event_time.column) else {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let problem = Problem::new(path, format!("there is no column `{}`", event_time.column));
        problems.push(match nearest(&event_time.column, names.iter().copied()) {
            Some(name) => problem.hint(format!("did you mean `{name}`?")),
            None => problem.hint(format!("there are: {}", names.join(", "))),
        });
        return None;
    };
    if !matches!(field.data_type(), DataType::Timestamp(_, _)) {
        let data_type = sql_types(&field.data_type().to_string());
        let message = format!("the event time must be a timestamp; `{}` is {data_type}", event_time.column);
        let hint =
            format!("declare it so: {}: timestamp (integers since 1970 and RFC 3339 text are read)", field.name());
        problems.push(Problem::new(path, message).hint(hint));
        return None;
    }
    let disorder = Disorder {
        delay: event_time.watermark.0,
        // The files of a bounded source are read one after another: one that waits for its turn is not idle.
        idle_after: if bounded { Duration::MAX } else { event_time.idle_after.0 },
        max_ahead: (!bounded).then_some(event_time.max_ahead.0),
    };
    Some(EventTimePlan { column: index, kind: TimeKind::OfRows(disorder) })
}

/// The columns with that of the clock.
fn with_clock(
    source: &str,
    clock: &EventTimeSpec,
    columns: SchemaRef,
    problems: &mut Vec<Problem>,
) -> (SchemaRef, Option<EventTimePlan>) {
    let name = clock.processing().unwrap_or(PROCESSING_TIME);
    if columns.column_with_name(name).is_some() {
        let mut path = vec!["sources", source, "event_time"];
        path.extend(matches!(clock, EventTimeSpec::Named(_)).then_some("processing"));
        let message = format!("the column of the clock would be `{name}`, and there is already a column of that name");
        let hint = "give it another one: event_time: {processing: received_at}";
        problems.push(Problem::new(path, message).hint(hint));
        return (columns, None);
    }
    let mut fields: Vec<Field> = columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(name, DataType::Timestamp(TimeUnit::Nanosecond, None), false));
    let event_time = EventTimePlan { column: fields.len() - 1, kind: TimeKind::Processing };
    (marked(Arc::new(Schema::new(fields)), Some(&event_time)), Some(event_time))
}

/// The columns, the event time marked.
fn marked(columns: SchemaRef, event_time: Option<&EventTimePlan>) -> SchemaRef {
    let Some(event_time) = event_time else { return columns };
    let mut fields: Vec<Field> = columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    if let Some(field) = fields.get_mut(event_time.column) {
        field.set_metadata(marks::event_time(0));
    }
    Arc::new(Schema::new(fields))
}
