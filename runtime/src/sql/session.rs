//! The SQL session of one pipeline: functions, settings, and the names in FROM.

use std::sync::Arc;

use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::sql::pattern_plan::PatternPlanner;
use crate::sql::windows::planner::{Streams, WindowPlanner};

use crate::sql::{as_of, clock};

/// The rows per batch inside a physical plan.
const BATCH_ROWS: usize = 8192;

/// A session with every DataFusion function, the JSON functions and the clock.
pub(crate) fn create(streams: Streams) -> datafusion::common::Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
    let options = config.options_mut();
    // A plan that is run again and again must not carry filters from one run into the next.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    // Plain text arrays: what decoders build and snapshots write.
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    let mut state: SessionState = SessionStateBuilder::new().with_config(config).with_default_features().build();
    datafusion_functions_json::register_all(&mut state)?;
    state.register_relation_planner(Arc::new(WindowPlanner(streams)))?;
    state.register_relation_planner(Arc::new(PatternPlanner))?;
    let context = SessionContext::new_with_state(state);
    for function in clock::functions() {
        context.register_udf(function);
    }
    context.register_udf(as_of::function());
    Ok(context)
}

/// The names of all functions that SQL can call.
pub(crate) fn function_names(session: &SessionContext) -> Vec<String> {
    let state = session.state();
    let names = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
    let names = names.chain(state.window_functions().keys());
    names.filter(|name| *name != as_of::MARKER).cloned().collect()
}
