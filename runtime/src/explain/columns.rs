//! Columns by what the user wrote, where the plan has names of its own for them.

use arrow::datatypes::Fields;

use super::model::Column;
use crate::engine::dead_letter;
use crate::engine::times;
use crate::plan::graph::{Graph, NodeId, NodeKind};
use crate::sql::marks;
use crate::sql::shown::{ShownRegion, tidy};
use crate::sql::types;

/// The columns of a graph's nodes.
pub(super) struct Columns<'a> {
    graph: &'a Graph,
    /// By node: its rows are those of its step or source.
    output: Vec<bool>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        let last = |id: NodeId| {
            let step = &graph.nodes[id].step;
            step.is_none() || graph.nodes[id + 1..].iter().all(|later| later.step != *step)
        };
        Self { graph, output: (0..graph.nodes.len()).map(last).collect() }
    }

    /// True where the rows of node `id` are those of its step or source.
    pub(super) fn is_output(&self, id: NodeId) -> bool {
        self.output[id]
    }

    /// The region that node `id` is, in words. Of another node: nothing.
    pub(super) fn region(&self, id: NodeId) -> ShownRegion {
        let node = &self.graph.nodes[id];
        let NodeKind::Region(region) = &node.kind else { return ShownRegion::default() };
        region.shown(&|input, column| node.inputs.get(input).map_or_else(String::new, |from| self.text(*from, column)))
    }

    /// What the column `column` of node `id` is: its name, or the expression that computes it inside a step.
    pub(super) fn text(&self, id: NodeId, column: usize) -> String {
        let node = &self.graph.nodes[id];
        let inside = matches!(node.kind, NodeKind::Region(_)) && !self.output[id];
        let computed = if inside { self.region(id).columns.into_iter().nth(column) } else { None };
        let name = || node.schema.fields().get(column).map(|field| tidy(field.name())).unwrap_or_default();
        computed.unwrap_or_else(name)
    }

    /// The columns of node `id`, for its explanation.
    pub(super) fn of(&self, id: NodeId) -> Vec<Column> {
        let node = &self.graph.nodes[id];
        let is = match &node.kind {
            NodeKind::Region(_) => Some(self.region(id).columns),
            NodeKind::Source(_) | NodeKind::Operator(_) => None,
        };
        told(node.schema.fields(), is.as_deref())
    }

    /// `text` of the operator `id`, with the names that the plan has for the columns of its inputs (`c0`, `c1`, …)
    /// replaced by what they are, as far as it is clear which input is meant.
    pub(super) fn spelled(&self, id: NodeId, text: &str) -> String {
        let inputs = &self.graph.nodes[id].inputs;
        let mut out = String::new();
        let mut word = String::new();
        for letter in text.chars().chain(['\0']) {
            if letter.is_alphanumeric() || letter == '_' {
                word.push(letter);
                continue;
            }
            out.push_str(&self.word(inputs, &word));
            word.clear();
            out.push(letter);
        }
        tidy(out.trim_end_matches('\0'))
    }

    fn word(&self, inputs: &[NodeId], word: &str) -> String {
        let number = word.strip_prefix('c').and_then(|digits| digits.parse::<usize>().ok());
        let Some(number) = number else { return word.to_owned() };
        let named = inputs.iter().filter(|input| {
            let fields = self.graph.nodes[**input].schema.fields();
            !self.output[**input] && fields.get(number).is_some_and(|field| field.name() == word)
        });
        let mut texts: Vec<String> = named.map(|input| self.text(*input, number)).collect();
        texts.dedup();
        match &texts[..] {
            [text] => text.clone(),
            _ => word.to_owned(),
        }
    }
}

/// The columns `fields`; `is` says what they are.
pub(super) fn told(fields: &Fields, is: Option<&[String]>) -> Vec<Column> {
    let told = fields.iter().enumerate().filter(|(_, field)| !dead_letter::is_message(field)).map(|(index, field)| {
        let expression = is.and_then(|is| is.get(index));
        Column {
            name: tidy(field.name()),
            sql_type: types::name(field.data_type()),
            event_time_behind: marks::lag(field).map(times::duration),
            is: expression.filter(|text| *text != field.name()).cloned(),
        }
    });
    told.collect()
}
