//! What can be told of a query from its syntax alone: the names that it reads, and everything in it that no stream
//! can do, each at its place.
//!
//! DataFusion stops at the first mistake, and lowering at the first refusal; here all refusals are gathered. Lowering
//! refuses the same things again (it is what the engine's invariants rest on), so a form that is missed here is still
//! refused, only alone.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Join,
    JoinOperator, Query, Select, SelectItem, Spanned, Statement, TableFactor, TableFunctionArgs, Visit, Visitor,
    WindowType,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::sql::pattern_syntax::{FINAL, RUNNING};
use crate::sql::refuse::{OverRefusal, Refusal, has_rows_interval};

/// A refusal and where it stands: line and column from 1, where that is known.
pub(crate) type Found = (Refusal, Option<(u64, u64)>);

/// The name that SQL reads: lower case, where it is not in quotes.
pub(crate) fn normalised(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// A name in FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    /// As SQL reads it; with its parts joined by dots, where it has several.
    pub(crate) name: String,
    /// Line and column, from 1.
    pub(crate) place: (u64, u64),
}

/// The names in FROM, also those that a window function takes, without those that WITH declares.
pub(crate) fn reads(statement: &impl Visit) -> Vec<Read> {
    let mut names = Names::default();
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = statement.visit(&mut names);
    names.read.retain(|read| !names.declared.contains(&read.name));
    names.read
}

#[derive(Default)]
struct Names {
    read: Vec<Read>,
    declared: BTreeSet<String>,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let declared = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| normalised(&cte.alias.name));
        self.declared.extend(declared);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.read.extend(name_of(factor));
        ControlFlow::Continue(())
    }
}

/// The name that a factor of FROM reads; of a window function the one in its arguments.
pub(crate) fn name_of(factor: &TableFactor) -> Option<Read> {
    let (name, arguments) = match factor {
        TableFactor::Table { name, args, .. } => (name, args.as_ref().map(|args| &args.args)),
        TableFactor::Function { name, args, .. } => (name, Some(args)),
        _ => return None,
    };
    let read = |name, span: Span| Read { name, place: (span.start.line, span.start.column) };
    match arguments {
        None => {
            let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident().map(normalised)).collect();
            Some(read(parts.join("."), name.span()))
        }
        Some(arguments) => match arguments.first()? {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(ident))) => {
                Some(read(normalised(ident), ident.span))
            }
            _ => None,
        },
    }
}

/// The alias of a factor of FROM.
pub(crate) fn alias_of(factor: &TableFactor) -> Option<String> {
    let alias = match factor {
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::MatchRecognize { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => alias.as_ref(),
        _ => None,
    };
    alias.map(|alias| normalised(&alias.name))
}

/// The names by which columns can be told apart: aliases, and names without one.
pub(crate) fn aliases(statement: &Statement) -> Vec<String> {
    #[derive(Default)]
    struct Aliases(Vec<String>);
    impl Visitor for Aliases {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            let name = alias_of(factor).or_else(|| name_of(factor).map(|read| read.name));
            self.0.extend(name.filter(|name| !self.0.contains(name)));
            ControlFlow::Continue(())
        }
    }
    let mut aliases = Aliases::default();
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = statement.visit(&mut aliases);
    aliases.0
}

/// Everything in `statement` that a stream cannot do; `is_stream` knows the names of streams.
pub(crate) fn refusals(statement: &Statement, is_stream: &dyn Fn(&str) -> bool) -> Vec<Found> {
    let mut survey = Survey { is_stream, streams: BTreeSet::new(), found: Vec::new(), arguments: Vec::new() };
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = statement.visit(&mut survey);
    survey.found
}

struct Survey<'a> {
    is_stream: &'a dyn Fn(&str) -> bool,
    /// The names that WITH gives to queries over streams.
    streams: BTreeSet<String>,
    found: Vec<Found>,
    /// Queries that are arguments of a table function.
    arguments: Vec<Span>,
}

impl Survey<'_> {
    fn refuse(&mut self, refusal: Refusal, span: Span) {
        let place = (span.start.line > 0).then_some((span.start.line, span.start.column));
        if !self.found.iter().any(|(known, at)| *known == refusal && *at == place) {
            self.found.push((refusal, place));
        }
    }

    /// True where `part` reads a stream, at any depth.
    fn reads_stream(&self, part: &impl Visit) -> bool {
        let mut names = Names::default();
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) = part.visit(&mut names);
        names.read.iter().any(|read| (self.is_stream)(&read.name) || self.streams.contains(&read.name))
    }

    fn query(&mut self, query: &Query) {
        if let Some(with) = &query.with {
            for cte in &with.cte_tables {
                if self.reads_stream(cte.query.as_ref()) {
                    self.streams.insert(normalised(&cte.alias.name));
                }
            }
        }
        if !self.reads_stream(query) {
            return;
        }
        if let Some(with) = query.with.as_ref().filter(|with| with.recursive) {
            self.refuse(Refusal::Recursive, with.with_token.0.span);
        }
        if let Some(limit) = &query.limit_clause {
            self.refuse(Refusal::Limit, limit.span());
        }
        if query.fetch.is_some() {
            self.refuse(Refusal::Clause("FETCH"), query.body.span());
        }
        if !query.locks.is_empty() {
            self.refuse(Refusal::Clause("FOR UPDATE"), query.body.span());
        }
    }

    /// OVER where rows are not numbered yet.
    fn misplaced(&mut self, select: &Select) {
        let mut places = vec![
            ("WHERE", select.selection.as_ref().and_then(over_in)),
            ("GROUP BY", over_in(&select.group_by)),
            ("HAVING", select.having.as_ref().and_then(over_in)),
        ];
        let joins = select.from.iter().flat_map(|from| &from.joins);
        places.extend(joins.map(|join| ("ON", over_in(&join.join_operator))));
        for (clause, found) in places {
            if let Some(span) = found {
                self.refuse(Refusal::OverIn(clause), span);
            }
        }
    }

    fn function(&mut self, function: &Function, span: Span) {
        // In MATCH_RECOGNIZE with what stood before it.
        let name = function.name.0.last().and_then(|part| part.as_ident()).map_or("", |ident| ident.value.as_str());
        let name = [FINAL, RUNNING].iter().find_map(|mark| name.strip_prefix(mark)).unwrap_or(name).to_lowercase();
        if let FunctionArguments::List(list) = &function.args {
            let star = |argument: &FunctionArg| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Wildcard));
            // What is no function at all is told elsewhere.
            let known = || all_default_aggregate_functions().iter().any(|aggregate| aggregate.name() == name);
            if name != "count" && list.args.iter().any(star) && known() {
                self.refuse(Refusal::Star(name), span);
            }
        }
        if let Some(WindowType::WindowSpec(spec)) = &function.over
            && spec.window_frame.as_ref().is_some_and(has_rows_interval)
        {
            self.refuse(Refusal::Over(OverRefusal::RowsInterval), span);
        }
    }

    fn select(&mut self, select: &Select) {
        self.misplaced(select);
        if !self.reads_stream(&select.from) {
            return;
        }
        for (there, name) in [
            (select.top.is_some(), "TOP"),
            (select.into.is_some(), "INTO"),
            (!select.sort_by.is_empty(), "SORT BY"),
            (!select.cluster_by.is_empty(), "CLUSTER BY"),
            (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (!select.lateral_views.is_empty(), "LATERAL"),
            (select.prewhere.is_some(), "PREWHERE"),
        ] {
            if there {
                self.refuse(Refusal::Clause(name), select.span());
            }
        }
        let mut stream_before = false;
        for from in &select.from {
            stream_before |= self.reads_stream(&from.relation);
            for join in &from.joins {
                stream_before |= self.join(join, stream_before);
            }
        }
    }

    /// A join to what stands `left` of it. Returns true where it brings a stream in.
    fn join(&mut self, join: &Join, left: bool) -> bool {
        let right = self.reads_stream(&join.relation);
        let span = join.relation.span();
        if left && right {
            // Whether its state is bounded, lowering knows.
            return true;
        }
        let keeps_table = match &join.join_operator {
            JoinOperator::FullOuter(_) if left || right => Some("FULL"),
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) if right => Some("LEFT"),
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) if left => Some("RIGHT"),
            _ => None,
        };
        if let Some(kind) = keeps_table {
            self.refuse(Refusal::OuterTable(kind.to_owned()), span);
        }
        right
    }
}

/// The first OVER in `part`; its subqueries have their own.
fn over_in(part: &impl Visit) -> Option<Span> {
    #[derive(Default)]
    struct Overs {
        depth: usize,
    }
    impl Visitor for Overs {
        type Break = Span;

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Span> {
            self.depth += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Span> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Span> {
            match expression {
                Expr::Function(function) if self.depth == 0 && function.over.is_some() => {
                    ControlFlow::Break(expression.span())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match part.visit(&mut Overs::default()) {
        ControlFlow::Break(span) => Some(span),
        ControlFlow::Continue(()) => None,
    }
}

/// An alias of a SELECT that its WHERE uses.
pub(crate) struct InWhere {
    /// The part of WHERE that uses it.
    pub(crate) condition: String,
    /// True where it stands for a function with OVER.
    pub(crate) is_over: bool,
    /// True where the SELECT has GROUP BY.
    pub(crate) grouped: bool,
}

/// The alias `name` of a SELECT whose WHERE uses it.
pub(crate) fn alias_in_where(statement: &Statement, name: &str) -> Option<InWhere> {
    struct Finder<'a>(&'a str);
    impl Visitor for Finder<'_> {
        type Break = InWhere;

        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<InWhere> {
            let named = select.projection.iter().find_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias } if normalised(alias) == self.0 => Some(expr),
                _ => None,
            });
            let (Some(expression), Some(condition)) = (named, &select.selection) else {
                return ControlFlow::Continue(());
            };
            let mut parts = vec![condition];
            while let Some(part) = parts.pop() {
                match part {
                    Expr::BinaryOp { left, op: BinaryOperator::And, right } => parts.extend([&**right, &**left]),
                    _ if uses(part, self.0) => {
                        return ControlFlow::Break(InWhere {
                            condition: part.to_string(),
                            is_over: over_in(expression).is_some(),
                            grouped: !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty()),
                        });
                    }
                    _ => {}
                }
            }
            ControlFlow::Continue(())
        }
    }
    match statement.visit(&mut Finder(name)) {
        ControlFlow::Break(found) => Some(found),
        ControlFlow::Continue(()) => None,
    }
}

/// True where `expression` names the column `name`.
fn uses(expression: &Expr, name: &str) -> bool {
    struct Finder<'a>(&'a str);
    impl Visitor for Finder<'_> {
        type Break = ();

        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
            match expression {
                Expr::Identifier(ident) if normalised(ident) == self.0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    expression.visit(&mut Finder(name)).is_break()
}

impl Visitor for Survey<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.query(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.select(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { args: Some(TableFunctionArgs { args, .. }), .. }
            | TableFactor::Function { args, .. } => {
                for argument in args {
                    if let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Subquery(query))) = argument {
                        self.arguments.push(query.span());
                    }
                }
            }
            TableFactor::Pivot { .. } => self.refuse(Refusal::Clause("PIVOT"), factor.span()),
            TableFactor::Unpivot { .. } => self.refuse(Refusal::Clause("UNPIVOT"), factor.span()),
            TableFactor::Derived { lateral: true, .. } => self.refuse(Refusal::Clause("LATERAL"), factor.span()),
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                self.refuse(Refusal::Clause("TABLESAMPLE"), factor.span());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Function(function) => self.function(function, expression.span()),
            // A window function says by itself what it takes.
            Expr::Subquery(subquery) if self.arguments.contains(&subquery.span()) => {}
            Expr::Subquery(subquery) if self.reads_stream(subquery.as_ref()) => {
                self.refuse(Refusal::StreamSubquery, expression.span());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
