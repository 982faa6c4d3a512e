//! The logical plan: the project as a DAG of models and expectations. Names inside the project are resolved, parameters filled in;
//! nothing of the lake is known yet.
//!
//! Invariants: node names are unique; nodes are in topological order, those the files put first come first; an input is another
//! node if one has its name, else a table of the lake.

use std::collections::BTreeMap;

use forebay_types::{Location, PartitionField, Report, SortField, TableName};

use crate::environment;
use crate::errors;
use crate::filters::{self, Dates, FillError};
use crate::order;
use crate::physical::{Argument, ArgumentValue, EnvironmentSpec, Literal, Resources, Returns, Strategy};
use crate::project::{self, Project};
use crate::python;
use crate::requirements;
use crate::settings::{Body, Declaration, DeclaredArgument, DeclaredInput, Settings, Spanned, StrategyWord};
use crate::sql_file::{self, Query};
use crate::suggest;
use crate::text::Text;
use crate::{Options, Sources};

/// A project as a DAG.
#[derive(Debug, Clone, PartialEq)]
pub struct LogicalPlan {
    /// The project's name.
    pub project: String,
    /// Where names without a namespace live in this run.
    pub namespace: String,
    /// Parameters and their values in this run.
    pub parameters: Vec<(String, Literal)>,
    /// Models and expectations, in topological order.
    pub nodes: Vec<Node>,
    /// Declared output columns that do not match are errors, not warnings.
    pub strict: bool,
    /// Nothing will be written.
    pub dry_run: bool,
    /// The last node's table goes to the client, in layouts that every client reads.
    pub for_client: bool,
    /// What was accepted but ignored, for people.
    pub warnings: Vec<String>,
}

/// A model or an expectation.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its short name: without the namespace if that is the run's default. Unique.
    pub name: String,
    /// Its full name, which is the table it is materialized as.
    pub table: TableName,
    /// What it does.
    pub work: Work,
    /// The tables it reads.
    pub inputs: Vec<Input>,
    /// Output columns it declares.
    pub columns: Option<Vec<Spanned<String>>>,
    /// How its result is stored, if it is.
    pub materialization: Option<Materialization>,
    /// Whether its result may be reused by later runs.
    pub cached: bool,
    /// Limits of its process.
    pub resources: Resources,
    /// Its docstring or leading comment.
    pub comment: Option<String>,
    /// Where it is defined.
    pub at: Location,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// A SELECT.
    Sql(Select),
    /// A Python function.
    Python(Function),
}

/// A SELECT of a SQL file.
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    pub(crate) query: Query,
    /// Columns of the lake tables it reads that are wanted as dictionaries.
    pub(crate) dictionary: Vec<Spanned<String>>,
}

impl Select {
    /// The text to run: parameters filled in, every table named by one identifier.
    #[must_use]
    pub fn text(&self) -> &str {
        self.query.text()
    }
}

/// A Python function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Path of its file.
    pub file: String,
    /// Its name in the file.
    pub function: String,
    /// Its arguments in the order of the signature.
    pub arguments: Vec<Argument>,
    /// Interpreter and packages.
    pub environment: EnvironmentSpec,
    /// Table or truth value.
    pub returns: Returns,
    /// Whether it may use the network.
    pub internet_access: bool,
}

/// A table a node reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The argument's name, or the table's name in the query.
    pub name: String,
    /// Where the table comes from.
    pub source: Source,
    /// Its name as written.
    pub written: String,
    /// A ref of its own, for lake tables.
    pub reference: Option<String>,
    /// Columns wanted (`None`: all).
    pub columns: Option<Vec<Spanned<String>>>,
    /// A filter, parameters filled in and bare dates read.
    pub filter: Option<Filter>,
    /// Columns wanted as dictionaries.
    pub dictionary: Vec<Spanned<String>>,
    /// Where it is written.
    pub at: Location,
}

/// A filter on an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// As written.
    pub written: String,
    /// What is evaluated.
    pub text: String,
    /// Where it is written.
    pub at: Location,
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Another node, by its index in [`LogicalPlan::nodes`].
    Node(usize),
    /// The lake.
    Lake(TableName),
}

/// How a result is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Materialization {
    /// What happens to rows that are there.
    pub strategy: Strategy,
    /// Partition fields.
    pub partition_by: Vec<PartitionField>,
    /// Where the fields are written (the model, if there are none).
    pub partition_at: Location,
    /// Order of the rows of each file.
    pub sort_by: Vec<SortField>,
    /// Columns that the sort order and the strategy name, where they are written.
    pub named_columns: Vec<Spanned<String>>,
}

impl LogicalPlan {
    /// The tables whose state the physical plan must know: those that are read (with the `ref` of the input), and those
    /// that are written (at the run's own ref).
    #[must_use]
    pub fn lake_tables(&self) -> Vec<(TableName, Option<String>)> {
        let mut tables = std::collections::BTreeSet::new();
        for node in &self.nodes {
            for input in &node.inputs {
                if let Source::Lake(table) = &input.source {
                    tables.insert((table.clone(), input.reference.clone()));
                }
            }
            if node.materialization.is_some() {
                tables.insert((node.table.clone(), None));
            }
        }
        tables.into_iter().collect()
    }
}

/// Reads a project. All mistakes that can be told apart are reported.
pub fn logical(sources: &Sources, options: &Options) -> Result<LogicalPlan, Vec<Report>> {
    let mut reports = Vec::new();
    let project = project::project(sources).map_err(|found| reports.extend(found)).ok();
    let parameters = project.as_ref().map(|project| project::parameter_values(project, options, &mut reports));
    let defaults = requirements::read(sources);
    reports.extend(defaults.reports);
    let mut warnings = defaults.warnings;
    let mut declarations = Vec::new();
    for file in sources.files.iter().filter(|file| !file.path.contains('/')) {
        let text = Text::new(&file.path, &file.text);
        if file.path.ends_with(".py") {
            let read = python::read(&text);
            declarations.extend(read.declarations);
            reports.extend(read.reports);
            warnings.extend(read.warnings);
        } else if file.path.ends_with(".sql") {
            let read = sql_file::read(&text, parameters.as_deref());
            declarations.extend(read.declaration);
            reports.extend(read.reports);
            warnings.extend(read.warnings);
        }
    }
    if declarations.is_empty() && reports.is_empty() {
        reports.push(errors::no_model(project.as_ref().map_or("", |project| project.name.as_str())));
    }
    let default_namespace = project.as_ref().map_or(project::DEFAULT_NAMESPACE, |project| project.namespace.as_str());
    let namespace = options.namespace.clone().unwrap_or_else(|| default_namespace.to_owned());
    let python = project.as_ref().and_then(|project| project.python.clone()).or(defaults.python);
    let python = python.as_deref().unwrap_or(environment::DEFAULT_PYTHON);
    let builder = Builder {
        project: project.as_ref(),
        python,
        packages: &defaults.packages,
        namespace: &namespace,
        parameters: parameters.as_deref(),
        reports,
    };
    let (mut nodes, mut reports) = builder.build(declarations);
    find_needs(&mut nodes, sources);
    errors::sort(&mut reports);
    match (project, parameters, reports.is_empty()) {
        (Some(project), Some(parameters), true) => {
            let (strict, dry_run) = (options.strict, options.dry_run);
            Ok(LogicalPlan { project: project.name, namespace, parameters, nodes, strict, dry_run, for_client: false, warnings })
        }
        _ => Err(reports),
    }
}

/// The plan of one SELECT that is not part of a project.
///
/// It has one node, `query`. With a `row_limit`, the result has at most that many rows.
pub fn query(sql: &str, default_namespace: &str, row_limit: Option<u64>) -> Result<LogicalPlan, Vec<Report>> {
    let (query, tables) = sql_file::select(&Text::new("query", sql), Some(&[]), row_limit).map_err(|report| vec![report])?;
    let at = query.start();
    let inputs = tables.into_iter().map(|table| DeclaredInput {
        name: table.value.clone(),
        table,
        reference: None,
        columns: None,
        filter: None,
        dictionary: Vec::new(),
    });
    let declaration = Declaration {
        name: Spanned { value: "query".to_owned(), at: at.clone() },
        inputs: inputs.collect(),
        body: Body::Sql(crate::settings::SqlBody { query }),
        settings: Settings::default(),
        comment: None,
        at,
    };
    let python = environment::DEFAULT_PYTHON;
    let builder =
        Builder { project: None, python, packages: &[], namespace: default_namespace, parameters: None, reports: Vec::new() };
    let (nodes, reports) = builder.build_adhoc(declaration);
    if !reports.is_empty() {
        return Err(reports);
    }
    let namespace = default_namespace.to_owned();
    Ok(LogicalPlan {
        project: "query".to_owned(),
        namespace,
        parameters: Vec::new(),
        nodes,
        strict: true,
        dry_run: true,
        for_client: true,
        warnings: Vec::new(),
    })
}

/// Says which packages the runtime needs in each environment; models that ask for the same share one.
fn find_needs(nodes: &mut [Node], sources: &Sources) {
    let functions = nodes.iter().filter_map(|node| if let Work::Python(function) = &node.work { Some(function) } else { None });
    let needy: Vec<EnvironmentSpec> = functions
        .filter(|function| {
            let files = requirements::closure(sources, &function.file);
            let imports_it = files.iter().any(|index| requirements::imports_package(&sources.files[*index].text, "pyarrow"));
            environment::needs_pyarrow(&function.environment, &function.arguments, imports_it)
        })
        .map(|function| function.environment.clone())
        .collect();
    for node in nodes {
        if let Work::Python(function) = &mut node.work
            && needy.contains(&function.environment)
        {
            function.environment.needs = vec!["pyarrow".to_owned()];
        }
    }
}

/// Resolves declarations against each other.
struct Builder<'a> {
    project: Option<&'a Project>,
    /// Python of models that do not say.
    python: &'a str,
    /// Packages of the project's requirements.
    packages: &'a [(String, String)],
    namespace: &'a str,
    parameters: Option<&'a [(String, Literal)]>,
    reports: Vec<Report>,
}

impl Builder<'_> {
    fn build(mut self, declarations: Vec<Declaration>) -> (Vec<Node>, Vec<Report>) {
        let named = self.named(declarations);
        let index: BTreeMap<TableName, usize> =
            named.iter().enumerate().map(|(index, (table, _))| (table.clone(), index)).collect();
        let mut nodes: Vec<Node> = named.into_iter().map(|(table, declaration)| self.node(table, declaration, &index)).collect();
        self.check_expectations_are_not_read(&nodes);
        let order = self.order(&nodes);
        (reorder(&mut nodes, &order), self.reports)
    }

    /// A query on its own has no siblings, so a table named like it is a table.
    fn build_adhoc(mut self, declaration: Declaration) -> (Vec<Node>, Vec<Report>) {
        let table = TableName::new(project::DEFAULT_NAMESPACE, "query").expect("a fixed, valid name");
        let node = self.node(table, declaration, &BTreeMap::new());
        (vec![Node { name: "query".to_owned(), ..node }], self.reports)
    }

    /// Gives every declaration its full name, and drops those that repeat one.
    fn named(&mut self, declarations: Vec<Declaration>) -> Vec<(TableName, Declaration)> {
        let mut named: Vec<(TableName, Declaration)> = Vec::new();
        for declaration in declarations {
            match TableName::parse(&declaration.name.value, self.namespace) {
                Err(error) => self.reports.push(errors::bad_name(declaration.name.at.clone(), &error)),
                Ok(table) => match named.iter().find(|(known, _)| *known == table) {
                    Some((_, first)) => {
                        let name = self.short(&table);
                        self.reports.push(errors::duplicate_model(&name, declaration.at.clone(), &first.at));
                    }
                    None => named.push((table, declaration)),
                },
            }
        }
        named
    }

    fn short(&self, table: &TableName) -> String {
        if table.namespace() == self.namespace { table.name().to_owned() } else { table.to_string() }
    }

    fn node(&mut self, table: TableName, declaration: Declaration, index: &BTreeMap<TableName, usize>) -> Node {
        let name = self.short(&table);
        let materialization = self.materialization(&name, &declaration);
        let inputs = declaration.inputs.iter().filter_map(|input| self.input(input, index)).collect();
        let settings = declaration.settings;
        let mut resources = settings.resources;
        resources.timeout_seconds = resources.timeout_seconds.or(self.project.and_then(|project| project.timeout_seconds));
        let work = match declaration.body {
            Body::Sql(body) => Work::Sql(Select { query: body.query, dictionary: settings.dictionary }),
            Body::Python(body) => {
                let packages = self.project.map(|project| project.packages.clone()).unwrap_or_default();
                let python = body.python.as_deref().unwrap_or(self.python);
                Work::Python(Function {
                    environment: environment::spec(python, self.packages, &packages, &body.packages),
                    arguments: body.arguments.into_iter().filter_map(|argument| self.argument(argument)).collect(),
                    file: body.file,
                    function: body.function,
                    returns: body.returns,
                    internet_access: settings.internet_access,
                })
            }
        };
        let (columns, cached) = (settings.columns, !settings.cache_off);
        Node {
            name,
            table,
            work,
            inputs,
            columns,
            materialization,
            cached,
            resources,
            comment: declaration.comment,
            at: declaration.at,
        }
    }

    fn argument(&mut self, argument: DeclaredArgument) -> Option<Argument> {
        let (name, parameter) = match argument {
            DeclaredArgument::Final(argument) => return Some(argument),
            DeclaredArgument::Parameter { argument, parameter } => (argument, parameter),
        };
        let parameters = self.parameters?;
        match parameters.iter().find(|(known, _)| *known == parameter.value) {
            Some((_, value)) => Some(Argument { name, value: ArgumentValue::Literal(value.clone()) }),
            None => {
                self.unknown_parameter(&parameter.value, parameter.at);
                None
            }
        }
    }

    fn unknown_parameter(&mut self, name: &str, at: Location) {
        let known = self.parameters.unwrap_or(&[]).iter().map(|(name, _)| name.as_str());
        let hint = suggest::hint_or_list(name, "the parameters are", known)
            .unwrap_or_else(|| format!("declare it in the project file: a table `[parameters.{name}]`"));
        self.reports.push(errors::unknown_parameter(Some(at), name).with_hint(hint));
    }

    fn input(&mut self, input: &DeclaredInput, index: &BTreeMap<TableName, usize>) -> Option<Input> {
        let table = match TableName::parse(&input.table.value, self.namespace) {
            Ok(table) => table,
            Err(error) => {
                self.reports.push(errors::bad_name(input.table.at.clone(), &error));
                return None;
            }
        };
        // With a ref of its own, an input is a state of the lake, whatever the models are called.
        let node = if input.reference.is_none() { index.get(&table) } else { None };
        if let Some(reference) = &input.reference
            && let Err(error) = reference.value.parse::<forebay_types::RefSpec>()
        {
            self.reports.push(errors::bad_name(reference.at.clone(), &error));
        }
        let filter = input.filter.as_ref().and_then(|filter| self.filter(filter));
        Some(Input {
            name: input.name.clone(),
            source: node.map_or_else(|| Source::Lake(table), |node| Source::Node(*node)),
            written: input.table.value.clone(),
            reference: input.reference.as_ref().map(|reference| reference.value.clone()),
            columns: input.columns.clone(),
            filter,
            dictionary: input.dictionary.clone(),
            at: input.table.at.clone(),
        })
    }

    /// Fills in a filter and checks that it parses.
    fn filter(&mut self, filter: &Spanned<String>) -> Option<Filter> {
        let text = match filters::fill(&filter.value, self.parameters, Dates::Bare) {
            Ok(filled) => filled.text,
            Err(FillError::Tokens { why, .. }) => {
                self.reports.push(errors::filter_syntax(filter.at.clone(), &filter.value, &why));
                return None;
            }
            Err(FillError::UnknownParameter { name, .. }) => {
                self.unknown_parameter(&name, filter.at.clone());
                return None;
            }
        };
        match filters::parse(&text) {
            Ok(_) => Some(Filter { written: filter.value.clone(), text, at: filter.at.clone() }),
            Err(why) => {
                self.reports.push(errors::filter_syntax(filter.at.clone(), &filter.value, &why));
                None
            }
        }
    }

    fn materialization(&mut self, name: &str, declaration: &Declaration) -> Option<Materialization> {
        let settings = &declaration.settings;
        let given = settings.strategy.as_ref().map(|strategy| strategy.value);
        let materialize = settings.materialize.as_ref().map(|given| given.value);
        let word = match (given, materialize) {
            (Some(StrategyWord::None), Some(true)) => {
                let at = settings.materialize.as_ref().map_or(&declaration.at, |given| &given.at);
                self.reports.push(errors::materialization(at.clone(), name, "`materialize=True` contradicts the strategy NONE"));
                return None;
            }
            (Some(word), _) => word,
            (None, Some(true)) => StrategyWord::Replace,
            (None, _) => StrategyWord::None,
        };
        let overwrite = self.overwrite_filter(name, declaration, word);
        let merge = self.merge(name, declaration, word);
        let strategy = match word {
            StrategyWord::None => return None,
            StrategyWord::Replace => Strategy::Replace,
            StrategyWord::Append => Strategy::Append,
            StrategyWord::OverwritePartitions => Strategy::OverwritePartitions { filter: overwrite? },
            StrategyWord::Merge => merge?,
        };
        let partitioned = settings.partitioned_by.as_ref();
        let sorted = settings.sorted_by.as_ref();
        let sort_columns = sorted
            .iter()
            .flat_map(|fields| fields.value.iter().map(|field| Spanned { value: field.column.clone(), at: fields.at.clone() }));
        Some(Materialization {
            strategy,
            partition_by: partitioned.map(|fields| fields.value.clone()).unwrap_or_default(),
            partition_at: partitioned.map_or(&declaration.at, |fields| &fields.at).clone(),
            sort_by: sorted.map(|fields| fields.value.clone()).unwrap_or_default(),
            named_columns: sort_columns.chain(settings.merge_keys.iter().cloned()).collect(),
        })
    }

    /// The strategy MERGE, checked; no other strategy may have its settings.
    fn merge(&mut self, name: &str, declaration: &Declaration, word: StrategyWord) -> Option<Strategy> {
        let settings = &declaration.settings;
        let keys = &settings.merge_keys;
        if word != StrategyWord::Merge {
            let given = keys.first().map(|key| ("merge_keys", &key.at));
            for (setting, at) in given.into_iter().chain(settings.delete_when.iter().map(|filter| ("delete_when", &filter.at))) {
                let why = format!("`{setting}` goes with the strategy MERGE only");
                self.reports.push(errors::materialization(at.clone(), name, &why));
            }
            return None;
        }
        if keys.is_empty() {
            let at = settings.strategy.as_ref().map_or(&declaration.at, |strategy| &strategy.at);
            let report = errors::materialization(at.clone(), name, "MERGE needs `merge_keys`");
            self.reports.push(report.with_hint("they name the columns that identify a row: `merge_keys=[\"id\"]`"));
            return None;
        }
        let delete_when = match &settings.delete_when {
            Some(filter) => Some(self.filter(filter)?.text),
            None => None,
        };
        Some(Strategy::Merge { keys: keys.iter().map(|key| key.value.clone()).collect(), delete_when })
    }

    /// The filter of OVERWRITE_PARTITIONS, checked; no other strategy may have one.
    fn overwrite_filter(&mut self, name: &str, declaration: &Declaration, word: StrategyWord) -> Option<String> {
        let settings = &declaration.settings;
        let given = settings.overwrite_filter.as_ref();
        if word != StrategyWord::OverwritePartitions {
            if let Some(filter) = given {
                let why = "an `overwrite_filter` goes with the strategy OVERWRITE_PARTITIONS only";
                self.reports.push(errors::materialization(filter.at.clone(), name, why));
            }
            return None;
        }
        let at = settings.strategy.as_ref().map_or(&declaration.at, |strategy| &strategy.at);
        let fields = settings.partitioned_by.as_ref().map_or(&[][..], |fields| fields.value.as_slice());
        if fields.is_empty() {
            self.reports.push(errors::materialization(at.clone(), name, "OVERWRITE_PARTITIONS needs `partitioned_by`"));
        }
        let Some(given) = given else {
            let report = errors::materialization(at.clone(), name, "OVERWRITE_PARTITIONS needs an `overwrite_filter`");
            self.reports.push(report.with_hint("it says which rows are replaced: `overwrite_filter=\"day = '2023-01-01'\"`"));
            return None;
        };
        let filter = self.filter(given)?;
        let parsed = filters::parse(&filter.text).expect("checked by `filter`");
        match filters::overwrite_columns(&parsed) {
            Err(why) => self.reports.push(errors::materialization(
                given.at.clone(),
                name,
                &format!("its `overwrite_filter` looks further than one row: {why}"),
            )),
            Ok(columns) => {
                let outside = columns.iter().find(|column| !fields.iter().any(|field| field.column == **column));
                if let Some(column) = outside.filter(|_| !fields.is_empty()) {
                    let why = format!("the column `{column}` of its `overwrite_filter` is not a partition column");
                    self.reports.push(errors::materialization(given.at.clone(), name, &why));
                }
            }
        }
        Some(filter.text)
    }

    fn check_expectations_are_not_read(&mut self, nodes: &[Node]) {
        for node in nodes {
            for input in &node.inputs {
                if let Source::Node(parent) = input.source
                    && let Work::Python(Function { returns: Returns::Truth, .. }) = nodes[parent].work
                {
                    let report = errors::missing_input(input.at.clone(), &input.written, &node.name);
                    self.reports
                        .push(report.with_hint(format!("`{}` is an expectation, which makes no table", nodes[parent].name)));
                }
            }
        }
    }

    fn order(&mut self, nodes: &[Node]) -> Vec<usize> {
        let parents: Vec<Vec<usize>> = nodes
            .iter()
            .map(|node| {
                node.inputs
                    .iter()
                    .filter_map(|input| if let Source::Node(parent) = input.source { Some(parent) } else { None })
                    .collect()
            })
            .collect();
        let (order, cycles) = order::topological(&parents);
        for cycle in cycles {
            let names: Vec<&str> = cycle.iter().map(|index| nodes[*index].name.as_str()).collect();
            let at = match cycle.as_slice() {
                [first, second, ..] => {
                    nodes[*first].inputs.iter().find(|input| input.source == Source::Node(*second)).map(|input| input.at.clone())
                }
                _ => None,
            };
            self.reports.push(errors::cycle(at.unwrap_or_else(|| nodes[cycle[0]].at.clone()), &names));
        }
        order
    }
}

/// Puts nodes into the order given and renames the edges.
fn reorder(nodes: &mut [Node], order: &[usize]) -> Vec<Node> {
    let mut place = vec![0; nodes.len()];
    for (new, old) in order.iter().enumerate() {
        place[*old] = new;
    }
    let moved = order.iter().map(|old| {
        let mut node = nodes[*old].clone();
        for input in &mut node.inputs {
            if let Source::Node(parent) = &mut input.source {
                *parent = place[*parent];
            }
        }
        node
    });
    moved.collect()
}
