//! From the logical plan and the state of the lake to the physical plan.
//!
//! Scans are shared: inputs that read the same state of a table with the same filter and the same dictionaries get one scan of all
//! columns any of them wants, and each edge projects. A filter on an in-DAG input is a SQL node of its own, shared likewise.

use std::collections::BTreeMap;

use arrow::datatypes::{Schema, SchemaRef};
use forebay_types::{Location, Report, TableName};

use crate::analyze::{self, Analysis, MissingColumn, Problem};
use crate::column_docs;
use crate::errors;
use crate::filters::{self, sql_name};
use crate::layout;
use crate::logical::{self, Filter, LogicalPlan, Select, Source};
use crate::physical::{Input, Node, NodeId, PhysicalPlan, Python, Resources, Returns, Scan, Sql, Strategy, Work, Write};
use crate::settings::Spanned;
use crate::sql::{self, FilterError};
use crate::suggest;
use crate::{Snapshot, TableState};

/// Pins a logical plan to a state of the lake. All mistakes are reported.
pub fn physical(plan: &LogicalPlan, snapshot: &Snapshot) -> Result<PhysicalPlan, Vec<Report>> {
    let mut checker = Checker { plan, snapshot, outputs: Vec::new(), reports: Vec::new() };
    let demands: Vec<Vec<Demand>> = plan.nodes.iter().map(|node| checker.node(node)).collect();
    if !checker.reports.is_empty() {
        errors::sort(&mut checker.reports);
        return Err(checker.reports);
    }
    let mut builder =
        Builder { plan, snapshot, nodes: Vec::new(), models: Vec::new(), scans: Vec::new(), filters: BTreeMap::new() };
    builder.collect_scans(&demands);
    for (node, demands) in plan.nodes.iter().zip(&demands) {
        builder.node(node, demands);
    }
    if !plan.dry_run {
        plan.nodes.iter().enumerate().for_each(|(index, node)| builder.write(index, node));
    }
    layout::choose_views(&mut builder.nodes, plan.for_client);
    Ok(PhysicalPlan { project: plan.project.clone(), commit: snapshot.commit.clone(), nodes: builder.nodes })
}

/// What is known of the columns of a table.
#[derive(Debug, Clone)]
enum Columns {
    Unknown,
    Names(Vec<String>),
    Typed(SchemaRef),
}

impl Columns {
    fn names(&self) -> Option<Vec<&str>> {
        match self {
            Self::Unknown => None,
            Self::Names(names) => Some(names.iter().map(String::as_str).collect()),
            Self::Typed(schema) => Some(schema.fields().iter().map(|field| field.name().as_str()).collect()),
        }
    }
}

/// What one input of a node comes down to.
#[derive(Debug, Clone)]
struct Demand {
    name: String,
    source: Source,
    reference: Option<String>,
    columns: Option<Vec<String>>,
    filter: Option<String>,
    /// Columns wanted as dictionaries, in the table's order if it is known.
    dictionary: Vec<String>,
    /// The shape of the lake table, for sorting columns.
    schema: Option<SchemaRef>,
    at: Location,
}

/// Checks nodes in order and derives what their results look like.
struct Checker<'a> {
    plan: &'a LogicalPlan,
    snapshot: &'a Snapshot,
    /// Of the nodes so far.
    outputs: Vec<Columns>,
    reports: Vec<Report>,
}

impl<'a> Checker<'a> {
    fn node(&mut self, node: &logical::Node) -> Vec<Demand> {
        let mut demands = Vec::new();
        let mut sources = Vec::new();
        for input in &node.inputs {
            let Some(columns) = self.source(node, input) else { continue };
            demands.push(self.demand(input, &columns));
            sources.push((input.name.clone(), columns));
        }
        if let logical::Work::Sql(select) = &node.work
            && sources.len() == node.inputs.len()
        {
            self.header_dictionary(node, select, &mut demands, &mut sources);
        }
        let declared = node.columns.as_ref().map(|columns| columns.iter().map(|column| column.value.clone()).collect());
        let output = match &node.work {
            logical::Work::Python(_) => declared.map_or(Columns::Unknown, Columns::Names),
            logical::Work::Sql(select) if sources.len() == node.inputs.len() => self.select(node, select, &sources, &mut demands),
            logical::Work::Sql(_) => Columns::Unknown,
        };
        for demand in &mut demands {
            if let Some(columns) = &demand.columns {
                demand.dictionary.retain(|column| columns.contains(column));
            }
        }
        self.check_partition_columns(node, &output);
        self.outputs.push(output);
        demands
    }

    /// The columns of an input's table; `None` (and a report) if there is no such table.
    fn source(&mut self, node: &logical::Node, input: &logical::Input) -> Option<Columns> {
        let table = match &input.source {
            Source::Node(parent) => return Some(self.outputs.get(*parent).cloned().unwrap_or(Columns::Unknown)),
            Source::Lake(table) => table,
        };
        if let Some(state) = self.state(table, input.reference.as_deref()) {
            return Some(Columns::Typed(state.schema.clone()));
        }
        let report = match &input.reference {
            None => errors::missing_input(input.at.clone(), &input.written, &node.name),
            Some(reference) => errors::missing_input_at_ref(input.at.clone(), &input.written, &node.name, reference),
        };
        let hint = self.suggest_table(node, input, table);
        self.reports.push(errors::hinted(report, hint));
        None
    }

    fn suggest_table(&self, node: &logical::Node, input: &logical::Input, table: &TableName) -> Option<String> {
        let short = |table: &TableName| {
            if table.namespace() == self.plan.namespace { table.name().to_owned() } else { table.to_string() }
        };
        let tables: Vec<String> = self.snapshot.names.iter().map(short).collect();
        if input.reference.is_some() && self.snapshot.names.contains(table) {
            return Some("the table is there at the ref of the run: leave out `ref`, or name a later one".to_owned());
        }
        if let Some(elsewhere) = self.snapshot.names.iter().find(|known| known.name() == table.name() && *known != table) {
            return Some(format!("did you mean `{elsewhere}`, in another namespace?"));
        }
        let makes_table = |other: &&logical::Node| !matches!(&other.work, logical::Work::Python(function) if function.returns == Returns::Truth);
        let models =
            self.plan.nodes.iter().filter(|other| other.name != node.name).filter(makes_table).map(|other| other.name.as_str());
        let all: Vec<&str> = models.chain(tables.iter().map(String::as_str)).collect();
        suggest::hint(&input.written, all.iter().copied())
            .or_else(|| {
                (tables.is_empty())
                    .then(|| "the lake has no tables at this ref; `forebay table import` brings data in".to_owned())
            })
            .or_else(|| suggest::hint_or_list(&input.written, "there are", all.iter().copied()))
    }

    fn state(&self, table: &TableName, reference: Option<&str>) -> Option<&'a TableState> {
        self.snapshot.tables.get(&(table.clone(), reference.map(str::to_owned)))
    }

    /// Checks an input's columns and filter.
    fn demand(&mut self, input: &logical::Input, columns: &Columns) -> Demand {
        if let (Some(wanted), Some(known)) = (&input.columns, columns.names()) {
            for column in wanted {
                self.check_column(column, &known, &input.written);
            }
        }
        if let Some(filter) = &input.filter {
            self.check_filter(filter, columns, &input.written);
        }
        Demand {
            name: input.name.clone(),
            source: input.source.clone(),
            reference: input.reference.clone(),
            columns: input.columns.as_ref().map(|columns| columns.iter().map(|column| column.value.clone()).collect()),
            filter: input.filter.as_ref().map(|filter| filter.text.clone()),
            dictionary: self.dictionary(input, columns),
            schema: match (&input.source, columns) {
                (Source::Lake(_), Columns::Typed(schema)) => Some(schema.clone()),
                _ => None,
            },
            at: input.at.clone(),
        }
    }

    /// The columns an input wants as dictionaries, checked.
    fn dictionary(&mut self, input: &logical::Input, columns: &Columns) -> Vec<String> {
        let known = columns.names();
        for column in &input.dictionary {
            if let Some(known) = known.as_ref().filter(|known| !known.contains(&column.value.as_str())) {
                self.unknown_column(&column.value, column.at.clone(), known, &input.written);
            } else if input.columns.as_ref().is_some_and(|listed| !listed.iter().any(|listed| listed.value == column.value)) {
                let report = errors::dictionary(column.at.clone(), &column.value, &input.written, "it is not read");
                self.reports.push(report.with_hint("add it to `columns`, or leave it out of `dictionary`"));
            } else if let Columns::Typed(schema) = columns {
                self.check_text(column, schema, &input.written);
            }
        }
        let mut wanted: Vec<String> = input.dictionary.iter().map(|column| column.value.clone()).collect();
        if let Columns::Typed(schema) = columns {
            wanted.sort_by_key(|column| schema.index_of(column).ok());
        }
        wanted
    }

    fn check_text(&mut self, column: &Spanned<String>, schema: &Schema, table: &str) {
        if let Ok(field) = schema.field_with_name(&column.value)
            && !layout::is_text(field.data_type())
        {
            let why = format!("it is of type {}, and dictionaries are for text", field.data_type());
            self.reports.push(errors::dictionary(column.at.clone(), &column.value, table, &why));
        }
    }

    /// The `dictionary` of a SQL file: names columns of the tables it reads, which then have another type for the query.
    fn header_dictionary(
        &mut self,
        node: &logical::Node,
        select: &Select,
        demands: &mut [Demand],
        sources: &mut [(String, Columns)],
    ) {
        for column in &select.dictionary {
            let mut found = false;
            for (demand, (name, source)) in demands.iter_mut().zip(sources.iter()) {
                if source.names().is_some_and(|names| names.contains(&column.value.as_str())) {
                    found = true;
                    demand.dictionary.push(column.value.clone());
                    if let Columns::Typed(schema) = source {
                        self.check_text(column, schema, name);
                    }
                }
            }
            if !found {
                self.header_dictionary_elsewhere(node, column, demands, sources);
            }
        }
        for (demand, (_, source)) in demands.iter_mut().zip(sources) {
            if let Columns::Typed(schema) = source
                && !demand.dictionary.is_empty()
            {
                demand.dictionary.sort_by_key(|column| schema.index_of(column).ok());
                *schema = layout::with_dictionary(schema, &demand.dictionary);
            }
        }
    }

    /// A column of no table whose columns are known: it is of the one table whose columns are not, or a mistake.
    fn header_dictionary_elsewhere(
        &mut self,
        node: &logical::Node,
        column: &Spanned<String>,
        demands: &mut [Demand],
        sources: &[(String, Columns)],
    ) {
        let unknown: Vec<usize> = (0..sources.len()).filter(|&index| sources[index].1.names().is_none()).collect();
        let names: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
        match unknown.as_slice() {
            [] if sources.is_empty() => {
                self.reports.push(errors::dictionary(column.at.clone(), &column.value, &node.name, "it reads no table"));
            }
            [] => {
                let known: Vec<&str> = sources.iter().filter_map(|(_, source)| source.names()).flatten().collect();
                self.unknown_column(&column.value, column.at.clone(), &known, &names.join("`, `"));
            }
            [one] => demands[*one].dictionary.push(column.value.clone()),
            several => {
                let names: Vec<&str> = several.iter().map(|&index| names[index]).collect();
                let why = format!("it could be a column of `{}`", names.join("` or of `"));
                let report = errors::dictionary(column.at.clone(), &column.value, &node.name, &why);
                self.reports.push(report.with_hint("declare the columns of these models: `@forebay.model(columns=[…])`"));
            }
        }
    }

    fn check_column(&mut self, column: &Spanned<String>, known: &[&str], table: &str) {
        if !known.contains(&column.value.as_str()) {
            self.unknown_column(&column.value, column.at.clone(), known, table);
        }
    }

    fn unknown_column(&mut self, column: &str, at: Location, known: &[&str], table: &str) {
        let hint = suggest::hint_or_list(column, "the columns are", known.iter().copied());
        self.reports.push(errors::hinted(errors::unknown_column(at, column, table), hint));
    }

    fn check_filter(&mut self, filter: &Filter, columns: &Columns, table: &str) {
        match columns {
            Columns::Unknown => {}
            Columns::Names(names) => {
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                let parsed = filters::parse(&filter.text).expect("checked in the logical plan");
                for column in filter_columns(&parsed) {
                    if !known.contains(&column.as_str()) {
                        self.unknown_column(&column, filter.at.clone(), &known, table);
                    }
                }
            }
            Columns::Typed(schema) => match sql::filter_expression(&filter.text, schema) {
                Ok(_) => {}
                Err(FilterError::UnknownColumn { column, known }) => {
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    self.unknown_column(&column, filter.at.clone(), &known, table);
                }
                Err(FilterError::Syntax(why)) => {
                    self.reports.push(errors::filter_syntax(filter.at.clone(), &filter.written, &why))
                }
                Err(FilterError::Type(why)) => {
                    self.reports.push(errors::filter_type(filter.at.clone(), &filter.written, table, &why))
                }
            },
        }
    }

    /// Plans a SELECT if all its tables are known, and writes what it needs of them into the demands.
    fn select(
        &mut self,
        node: &logical::Node,
        select: &Select,
        sources: &[(String, Columns)],
        demands: &mut [Demand],
    ) -> Columns {
        let typed: Option<BTreeMap<String, SchemaRef>> = sources
            .iter()
            .map(|(name, columns)| if let Columns::Typed(schema) = columns { Some((name.clone(), schema.clone())) } else { None })
            .collect();
        let Some(tables) = typed else {
            for demand in demands {
                demand.columns = demand.schema.as_ref().and_then(|schema| analyze::mentioned_columns(select.text(), schema));
            }
            return node
                .columns
                .as_ref()
                .map_or(Columns::Unknown, |columns| Columns::Names(columns.iter().map(|column| column.value.clone()).collect()));
        };
        match analyze::analyze(select.text(), &tables) {
            Ok(Analysis { schema, needs }) => {
                for demand in demands {
                    if let (Source::Lake(_), Some(need)) = (&demand.source, needs.get(&demand.name)) {
                        demand.columns.clone_from(&need.columns);
                        demand.filter.clone_from(&need.filter);
                    }
                }
                self.check_output(node, &schema);
                Columns::Typed(schema)
            }
            Err(problem) => {
                self.problem(select, sources, problem);
                Columns::Unknown
            }
        }
    }

    fn problem(&mut self, select: &Select, sources: &[(String, Columns)], problem: Problem) {
        let at = problem.at.map_or_else(|| select.query.start(), |at| select.query.location(at));
        let Some(MissingColumn { name, table, valid }) = problem.column else {
            self.reports.push(errors::hinted(errors::query(at, &problem.message), problem.hint));
            return;
        };
        let aliases: Vec<&str> = valid.iter().filter_map(|(table, _)| table.as_deref()).collect();
        if let Some(alias) = table.as_deref().filter(|alias| !aliases.is_empty() && !aliases.contains(alias)) {
            let report = errors::query(at, &format!("no table is called `{alias}` here"));
            self.reports.push(errors::hinted(report, suggest::hint_or_list(alias, "there are", aliases.iter().copied())));
            return;
        }
        let inside = |(other, _): &&(Option<String>, String)| table.is_none() || *other == table;
        let mut known: Vec<&str> = valid.iter().filter(inside).map(|(_, column)| column.as_str()).collect();
        if known.is_empty() {
            known = sources.iter().filter_map(|(_, columns)| columns.names()).flatten().collect();
        }
        known.dedup();
        let tables: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
        let of = table.unwrap_or_else(|| if tables.is_empty() { "the query".to_owned() } else { tables.join("`, `") });
        self.unknown_column(&name, at, &known, &of);
    }

    /// Result columns need distinct names, and those declared must be there.
    fn check_output(&mut self, node: &logical::Node, schema: &Schema) {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                let report = errors::output_columns(node.at.clone(), &node.name, &format!("two of them are called `{name}`"));
                self.reports.push(report.with_hint(format!("give one another name with `AS`: `… AS {name}_2`")));
                return;
            }
        }
        if let (Some(declared), true) = (&node.columns, self.plan.strict) {
            let declared_names: Vec<&str> = declared.iter().map(|column| column.value.as_str()).collect();
            let missing = declared.iter().find(|column| !names.contains(&column.value.as_str()));
            let extra = names.iter().find(|name| !declared_names.contains(name));
            let why = match (missing, extra) {
                (Some(missing), _) => format!("it declares `{}`, which the query does not return", missing.value),
                (None, Some(extra)) => format!("the query returns `{extra}`, which it does not declare"),
                (None, None) => return,
            };
            let at = missing.or(declared.first()).map_or(&node.at, |column| &column.at);
            self.reports.push(errors::output_columns(at.clone(), &node.name, &why));
        }
    }

    fn check_partition_columns(&mut self, node: &logical::Node, output: &Columns) {
        if let (Some(stored), Some(known)) = (&node.materialization, output.names()) {
            for field in &stored.partition_by {
                if !known.contains(&field.column.as_str()) {
                    self.unknown_column(&field.column, stored.partition_at.clone(), &known, &node.name);
                }
            }
            for column in &stored.named_columns {
                if !known.contains(&column.value.as_str()) {
                    self.unknown_column(&column.value, column.at.clone(), &known, &node.name);
                }
            }
        }
        if let (Some(stored), Columns::Typed(schema)) = (&node.materialization, output)
            && let Strategy::OverwritePartitions { filter } | Strategy::Merge { delete_when: Some(filter), .. } = &stored.strategy
            && let Err(FilterError::Type(why)) = sql::filter_expression(filter, schema)
        {
            self.reports.push(errors::filter_type(node.at.clone(), filter, &node.name, &why));
        }
    }
}

/// Column names in a parsed filter.
fn filter_columns(filter: &datafusion::sql::sqlparser::ast::Expr) -> Vec<String> {
    use datafusion::sql::sqlparser::ast::{Expr, visit_expressions};
    let mut names: Vec<String> = Vec::new();
    let _ = visit_expressions(filter, |part| {
        if let Expr::Identifier(name) = part
            && !names.contains(&name.value)
        {
            names.push(name.value.clone());
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    names
}

/// Inputs that can share one scan.
struct SharedScan {
    table: TableName,
    reference: Option<String>,
    filter: Option<String>,
    dictionary: Vec<String>,
    /// The union of what is wanted, in the table's order; `None`: all.
    columns: Option<Vec<String>>,
    /// Its node, once made.
    node: Option<NodeId>,
}

impl SharedScan {
    fn serves(&self, table: &TableName, demand: &Demand) -> bool {
        self.table == *table
            && self.reference == demand.reference
            && self.filter == demand.filter
            && self.dictionary == demand.dictionary
    }
}

struct Builder<'a> {
    plan: &'a LogicalPlan,
    snapshot: &'a Snapshot,
    nodes: Vec<Node>,
    /// Logical index to physical index.
    models: Vec<NodeId>,
    scans: Vec<SharedScan>,
    /// (parent, columns, filter) to the node that filters.
    filters: BTreeMap<(NodeId, Option<Vec<String>>, String), NodeId>,
}

impl Builder<'_> {
    fn collect_scans(&mut self, demands: &[Vec<Demand>]) {
        for demand in demands.iter().flatten() {
            let Source::Lake(table) = &demand.source else { continue };
            let Some(scan) = self.scans.iter_mut().find(|scan| scan.serves(table, demand)) else {
                let (reference, filter, columns) = (demand.reference.clone(), demand.filter.clone(), demand.columns.clone());
                let dictionary = demand.dictionary.clone();
                self.scans.push(SharedScan { table: table.clone(), reference, filter, dictionary, columns, node: None });
                continue;
            };
            scan.columns = match (scan.columns.take(), &demand.columns, &demand.schema) {
                (Some(one), Some(other), Some(schema)) if one != *other => {
                    let wanted = |name: &&String| one.contains(name) || other.contains(name);
                    Some(schema.fields().iter().map(|field| field.name()).filter(wanted).cloned().collect())
                }
                (Some(one), Some(_), _) => Some(one),
                _ => None,
            };
        }
    }

    fn push(&mut self, name: String, work: Work, inputs: Vec<Input>, resources: Resources, at: Option<Location>) -> NodeId {
        let taken = |name: &str| self.nodes.iter().any(|node| node.name == name);
        let mut unique = name.clone();
        let mut number = 2;
        while taken(&unique) {
            unique = format!("{name}#{number}");
            number += 1;
        }
        self.nodes.push(Node { name: unique, work, inputs, resources, at });
        self.nodes.len() - 1
    }

    fn node(&mut self, node: &logical::Node, demands: &[Demand]) {
        let inputs: Vec<Input> = demands.iter().map(|demand| self.input(demand)).collect();
        let work = match &node.work {
            logical::Work::Sql(select) => Work::Sql(Sql { query: select.text().to_owned(), views: false }),
            logical::Work::Python(function) => Work::Python(Python {
                file: function.file.clone(),
                function: function.function.clone(),
                arguments: function.arguments.clone(),
                environment: function.environment.clone(),
                returns: function.returns,
                columns: node.columns.as_ref().map(|columns| columns.iter().map(|column| column.value.clone()).collect()),
                internet_access: function.internet_access,
            }),
        };
        let id = self.push(node.name.clone(), work, inputs, node.resources.clone(), Some(node.at.clone()));
        self.models.push(id);
    }

    fn input(&mut self, demand: &Demand) -> Input {
        let (producer, columns) = match (&demand.source, &demand.filter) {
            (Source::Lake(table), _) => self.scan(table, demand),
            (Source::Node(parent), None) => (self.models[*parent], demand.columns.clone()),
            (Source::Node(parent), Some(filter)) => (self.filter(self.models[*parent], filter, demand), None),
        };
        // A scan reads what is wanted as dictionaries as such.
        let dictionary = if let Source::Lake(_) = demand.source { Vec::new() } else { demand.dictionary.clone() };
        Input { producer, name: demand.name.clone(), columns, dictionary }
    }

    /// The scan that serves a demand, and the columns the edge must pick from it.
    fn scan(&mut self, table: &TableName, demand: &Demand) -> (NodeId, Option<Vec<String>>) {
        let index = self.scans.iter().position(|scan| scan.serves(table, demand)).expect("collected before");
        let columns = self.scans[index].columns.clone();
        let node = match self.scans[index].node {
            Some(node) => node,
            None => {
                let state = &self.snapshot.tables[&(table.clone(), demand.reference.clone())];
                let scan = Scan {
                    table: table.clone(),
                    metadata_location: state.metadata_location.clone(),
                    snapshot_id: state.snapshot_id,
                    columns: columns.clone(),
                    filter: demand.filter.clone(),
                    dictionary: demand.dictionary.clone(),
                    views: false,
                };
                let node = self.push(
                    format!("scan:{table}"),
                    Work::Scan(scan),
                    Vec::new(),
                    Resources::default(),
                    Some(demand.at.clone()),
                );
                self.scans[index].node = Some(node);
                node
            }
        };
        let picked = demand.columns.clone().filter(|wanted| Some(wanted) != columns.as_ref());
        (node, picked)
    }

    fn filter(&mut self, parent: NodeId, filter: &str, demand: &Demand) -> NodeId {
        let key = (parent, demand.columns.clone(), filter.to_owned());
        if let Some(node) = self.filters.get(&key) {
            return *node;
        }
        let columns = demand.columns.as_ref().map_or_else(
            || "*".to_owned(),
            |columns| columns.iter().map(|column| sql_name(column)).collect::<Vec<_>>().join(", "),
        );
        let query = format!("SELECT {columns} FROM \"input\" WHERE {filter}");
        let inputs = vec![Input { producer: parent, name: "input".to_owned(), columns: None, dictionary: Vec::new() }];
        let name = format!("filter:{}", self.nodes[parent].name);
        let node = self.push(name, Work::Sql(Sql { query, views: false }), inputs, Resources::default(), Some(demand.at.clone()));
        self.filters.insert(key, node);
        node
    }

    fn write(&mut self, index: usize, node: &logical::Node) {
        let Some(stored) = &node.materialization else { return };
        let base = self.snapshot.tables.get(&(node.table.clone(), None));
        let documented = node.comment.as_deref().map(column_docs::split).unwrap_or_default();
        let write = Write {
            table: node.table.clone(),
            strategy: stored.strategy.clone(),
            partition_by: stored.partition_by.clone(),
            sort_by: stored.sort_by.clone(),
            base: base.map(|state| state.metadata_location.clone()),
            comment: documented.text,
            column_docs: documented.columns,
        };
        let (producer, name) = (self.models[index], "table".to_owned());
        let inputs = vec![Input { producer, name, columns: None, dictionary: Vec::new() }];
        let at = Some(node.at.clone());
        self.push(format!("write:{}", self.plan.nodes[index].name), Work::Write(write), inputs, Resources::default(), at);
    }
}
