//! A region in words: what it does with its rows, and each column of its output as an expression over its inputs.
//!
//! The names that regions give one another (`c0`, `__state_1`) say nothing to the user. Here they are followed back to
//! what stands in the SQL, as far as the plan tells.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, TableScan};
use datafusion::sql::unparser::Unparser;

use crate::sql::region::Region;
use crate::sql::relation::{TableRelation, as_any_slot};

/// A region in words.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ShownRegion {
    /// What it does with its rows: `keeps rows where temp > 25`, `joins the table rooms: …`.
    pub(crate) does: Vec<String>,
    /// By column of the output: what it is.
    pub(crate) columns: Vec<String>,
    /// The tables that it reads.
    pub(crate) tables: Vec<String>,
}

/// What the column `.1` of the input `.0` is called.
pub(crate) type Names<'a> = &'a dyn Fn(usize, usize) -> String;

impl Region {
    /// The region in words; `names` knows what the columns of the inputs are.
    pub(crate) fn shown(&self, names: Names<'_>) -> ShownRegion {
        let mut walk = Walk { names, texts: Vec::new(), does: Vec::new(), tables: Vec::new() };
        let columns = walk.columns(self.plan());
        let columns = columns.iter().map(|column| walk.text(column)).collect();
        ShownRegion { does: walk.does, columns, tables: walk.tables }
    }
}

/// A walk over a plan, from the top.
struct Walk<'a> {
    names: Names<'a>,
    /// The columns that expressions stop at: the placeholder with the number `n` stands for the text `n`.
    texts: Vec<String>,
    does: Vec<String>,
    tables: Vec<String>,
}

impl Walk<'_> {
    /// What each column of the output of `plan` is, over placeholders.
    fn columns(&mut self, plan: &LogicalPlan) -> Vec<Expr> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => {
                let input = self.columns(&projection.input);
                let schema = projection.input.schema();
                projection.expr.iter().map(|expression| replaced(expression, schema, &input)).collect()
            }
            LogicalPlan::Filter(filter) => {
                let input = self.columns(&filter.input);
                let predicate = self.text(&replaced(&filter.predicate, filter.input.schema(), &input));
                self.does.push(format!("keeps rows where {predicate}"));
                input
            }
            LogicalPlan::SubqueryAlias(alias) => self.columns(&alias.input),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => {
                let inputs: Vec<Vec<Expr>> = union.inputs.iter().map(|input| self.columns(input)).collect();
                self.does.push(format!("brings {} inputs together", inputs.len()));
                let names = self.placeholders(union.schema.fields().iter().map(|field| field.name().clone()));
                let columns = names.into_iter().enumerate();
                let one = |index: usize| inputs.iter().all(|input| input.get(index) == inputs[0].get(index));
                columns.map(|(i, name)| if one(i) { inputs[0].get(i).cloned().unwrap_or(name) } else { name }).collect()
            }
            LogicalPlan::Unnest(unnest) => {
                let input = self.columns(&unnest.input);
                let unnested: Vec<usize> = unnest.list_type_columns.iter().map(|(column, _)| *column).collect();
                let of: Vec<String> = unnested.iter().filter_map(|i| input.get(*i)).map(|e| self.text(e)).collect();
                if !of.is_empty() {
                    self.does.push(format!("makes a row of every element of {}", of.join(", ")));
                }
                let mut columns = Vec::new();
                for (index, from) in unnest.dependency_indices.iter().enumerate() {
                    let is_kept = !unnested.contains(from) && !unnest.struct_type_columns.contains(from);
                    let name = match unnested.iter().position(|column| column == from) {
                        Some(list) => format!("unnest({})", of.get(list).map_or("", String::as_str)),
                        None => unnest.schema.field(index).name().clone(),
                    };
                    columns.extend(match input.get(*from).filter(|_| is_kept) {
                        Some(kept) => vec![kept.clone()],
                        None => self.placeholders([name]),
                    });
                }
                columns
            }
            other => {
                self.note_tables(other);
                self.placeholders(other.schema().fields().iter().map(|field| field.name().clone()))
            }
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Vec<Expr> {
        let fields = scan.source.schema();
        let chosen = scan.projection.clone().unwrap_or_else(|| (0..fields.fields().len()).collect());
        let names: Vec<String> = match as_any_slot(scan) {
            Some(input) => chosen.iter().map(|column| (self.names)(input, *column)).collect(),
            None => {
                let table = scan.table_name.table().to_owned();
                let names = chosen.iter().map(|column| format!("{table}.{}", fields.field(*column).name())).collect();
                self.note_table(scan);
                names
            }
        };
        self.placeholders(names)
    }

    fn join(&mut self, join: &Join) -> Vec<Expr> {
        let before = self.tables.len();
        let (left, right) = (self.columns(&join.left), self.columns(&join.right));
        let mut conditions = Vec::new();
        for (a, b) in &join.on {
            let a = replaced(a, join.left.schema(), &left);
            let b = replaced(b, join.right.schema(), &right);
            conditions.push(format!("{} = {}", self.text(&a), self.text(&b)));
        }
        let both: Vec<Expr> = left.iter().chain(&right).cloned().collect();
        if let Some(filter) = &join.filter
            && let Ok(schema) = join.left.schema().join(join.right.schema())
        {
            conditions.push(self.text(&replaced(filter, &schema, &both)));
        }
        let tables = self.tables[before..].join(", ");
        let kind = join.join_type.to_string().to_lowercase();
        let on = if conditions.is_empty() { "every row".to_owned() } else { conditions.join(" and ") };
        self.does.push(format!("{kind} join with the table {tables}: {on}"));
        match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => both,
            JoinType::LeftSemi | JoinType::LeftAnti => left,
            JoinType::RightSemi | JoinType::RightAnti => right,
            JoinType::LeftMark | JoinType::RightMark => {
                let kept = if join.join_type == JoinType::LeftMark { left } else { right };
                kept.into_iter().chain(self.placeholders([format!("found in {tables}")])).collect()
            }
        }
    }

    fn note_table(&mut self, scan: &TableScan) {
        let name = scan.table_name.table().to_owned();
        if !self.tables.contains(&name) {
            self.tables.push(name);
        }
    }

    /// Remembers the tables below `plan`, which is not looked into further.
    fn note_tables(&mut self, plan: &LogicalPlan) {
        let walked = plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && is_table(scan)
            {
                self.note_table(scan);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(walked.is_ok(), "the closure does not fail");
    }

    fn placeholders(&mut self, texts: impl IntoIterator<Item = String>) -> Vec<Expr> {
        let first = self.texts.len();
        self.texts.extend(texts);
        (first..self.texts.len()).map(|number| Expr::Column(Column::new_unqualified(placeholder(number)))).collect()
    }

    /// `expression` as SQL.
    fn text(&self, expression: &Expr) -> String {
        let plain = expression.clone().unalias_nested().data;
        let unparser = Unparser::default().with_pretty(true);
        let mut text = match unparser.expr_to_sql(&plain) {
            Ok(sql) => sql.to_string(),
            Err(_) => plain.to_string(),
        };
        for (number, name) in self.texts.iter().enumerate() {
            if text.contains(PLACEHOLDER) {
                text = text.replace(&placeholder(number), name);
            }
        }
        tidy(&text)
    }
}

const PLACEHOLDER: &str = "placeholder_";

fn placeholder(number: usize) -> String {
    format!("{PLACEHOLDER}{number}_")
}

/// `expression` with the columns of `schema` replaced by what they are.
fn replaced(expression: &Expr, schema: &DFSchema, by: &[Expr]) -> Expr {
    let replaced = expression.clone().transform(|part| {
        let Expr::Column(column) = &part else { return Ok(Transformed::no(part)) };
        let known = schema.maybe_index_of_column(column).and_then(|index| by.get(index));
        // What stands for the column is not looked into again.
        Ok(known.map_or_else(
            || Transformed::no(part.clone()),
            |known| Transformed::new(known.clone(), true, TreeNodeRecursion::Jump),
        ))
    });
    replaced.map_or_else(|_| expression.clone(), |replaced| replaced.data)
}

fn is_table(scan: &TableScan) -> bool {
    let Ok(provider) = datafusion::datasource::source_as_provider(&scan.source) else { return false };
    let any: &dyn std::any::Any = provider.as_ref();
    any.is::<TableRelation>()
}

/// `text` with constants as they are written: DataFusion names the columns of aggregates with the types of constants.
pub(crate) fn tidy(text: &str) -> String {
    const NUMBERS: &[&str] = &["Int64(", "Int32(", "Float64(", "UInt64(", "Boolean("];
    let mut text = text.to_owned();
    for kind in NUMBERS {
        while let Some(start) = text.find(kind) {
            let Some(length) = text[start + kind.len()..].find(')') else { break };
            text.remove(start + kind.len() + length);
            text.replace_range(start..start + kind.len(), "");
        }
    }
    while let Some(start) = text.find("Utf8(\"") {
        let from = start + "Utf8(\"".len();
        let Some(length) = text[from..].find("\")") else { break };
        text.replace_range(from + length..from + length + 2, "'");
        text.replace_range(start..from, "'");
    }
    for (ours, shown) in [
        ("count(1)", "count(*)"),
        ("__bin_start", "window_start"),
        ("__bin_end", "window_end"),
        ("__grouping_id", "grouping_id"),
    ] {
        text = text.replace(ours, shown);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::tidy;

    #[test]
    fn constants_in_names_are_shown_as_they_are_written() {
        assert_eq!(tidy("round(avg(r.x),Int64(1))"), "round(avg(r.x),1)");
        assert_eq!(tidy("string_agg(a,Utf8(\", \"))"), "string_agg(a,', ')");
        assert_eq!(tidy("nothing(Int64"), "nothing(Int64");
        assert_eq!(tidy("count(Int64(1))"), "count(*)");
    }
}
