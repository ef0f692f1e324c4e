//! Where a run gets its connectors and the time from. The tests of the engine put doubles in their place.

use millstream_connectors::{BuiltSource, ConnectorError, Sink};

use crate::engine::clock::{self, WallClock};
use crate::plan::{DeadLetterPlan, SinkPlan, SourcePlan};

/// Builds what a plan names.
pub(crate) trait Connectors: Sync {
    /// The source, not yet connected.
    fn source(&self, plan: &SourcePlan) -> Result<BuiltSource, ConnectorError>;
    /// The sink, not yet connected.
    fn sink(&self, plan: &SinkPlan) -> Result<Box<dyn Sink>, ConnectorError>;
    /// The dead letter's sink, not yet connected.
    fn dead_letter(&self, plan: &DeadLetterPlan) -> Result<Box<dyn Sink>, ConnectorError>;
    /// The clock on the wall.
    fn wall_clock(&self) -> WallClock {
        clock::wall_clock()
    }
}

/// The connectors that the plan itself names.
pub(crate) struct Planned;

impl Connectors for Planned {
    fn source(&self, plan: &SourcePlan) -> Result<BuiltSource, ConnectorError> {
        plan.build()
    }

    fn sink(&self, plan: &SinkPlan) -> Result<Box<dyn Sink>, ConnectorError> {
        plan.build()
    }

    fn dead_letter(&self, plan: &DeadLetterPlan) -> Result<Box<dyn Sink>, ConnectorError> {
        plan.build()
    }
}
