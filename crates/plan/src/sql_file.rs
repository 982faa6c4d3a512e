//! Reads a SQL file: `-- forebay: key=value` headers, exactly one SELECT, and the tables it names.
//!
//! ```text
//! file text --parameters filled in, trailing commas out--> filled --tables named by one identifier--> text to run
//! ```
//! Places in the text to run are traced back to the file through both steps.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, LimitClause, ObjectName, ObjectNamePart, Query as SqlQuery, SetExpr, Statement, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location as SqlLocation, Span, Token};
use forebay_types::{Location, Report, parse_partition_fields, parse_sort_fields};

use crate::decorators::{cache_off, unknown_choice};
use crate::errors;
use crate::filters::{self, Dates, FillError, sql_name};
use crate::physical::Literal;
use crate::settings::{
    Body, CACHE_STRATEGIES, Declaration, DeclaredInput, STRATEGIES, Settings, Spanned, SqlBody, StrategyWord, memory_bytes,
};
use crate::suggest;
use crate::text::{Edited, Text};

const KEYS: [&str; 15] = [
    "name",
    "columns",
    "dictionary",
    "partitioned_by",
    "materialization_strategy",
    "materialize",
    "cache_strategy",
    "overwrite_filter",
    "sorted_by",
    "merge_keys",
    "delete_when",
    "internet_access",
    "cpus",
    "memory",
    "timeout",
];

/// A query ready to run, which remembers the file it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    path: String,
    file: String,
    filled: Edited,
    renamed: Edited,
}

impl Query {
    /// The text to run.
    pub(crate) fn text(&self) -> &str {
        &self.renamed.text
    }

    /// The place in the file of a place in the text to run.
    pub(crate) fn location(&self, at: SqlLocation) -> Location {
        let offset = Text::new("", &self.renamed.text).offset(at);
        Text::new(&self.path, &self.file).location(self.filled.original(self.renamed.original(offset)))
    }

    /// The start of the file's first statement line, for mistakes without a place.
    pub(crate) fn start(&self) -> Location {
        let text = Text::new(&self.path, &self.file);
        let offset = self.file.lines().scan(0, |at, line| {
            let start = *at;
            *at += line.len() + 1;
            Some((start, line.trim()))
        });
        let first = offset.into_iter().find(|(_, line)| !line.is_empty() && !line.starts_with("--"));
        text.location(first.map_or(0, |(start, _)| start))
    }
}

/// What a file declares, or what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) declaration: Option<Declaration>,
    pub(crate) reports: Vec<Report>,
    pub(crate) warnings: Vec<String>,
}

/// Reads a file. Parameters stay as they are if their values are not known (`None`).
pub(crate) fn read(text: &Text<'_>, parameters: Option<&[(String, Literal)]>) -> Read {
    let mut out = Read::default();
    let (settings, comment) = headers(text, &mut out);
    let (query, tables) = match select(text, parameters, None) {
        Ok(read) => read,
        Err(report) => {
            out.reports.push(report);
            return out;
        }
    };
    let stem = text.path.rsplit('/').next().unwrap_or(text.path).trim_end_matches(".sql");
    let at = query.start();
    let name = settings.name.clone().unwrap_or_else(|| Spanned { value: stem.to_owned(), at: at.clone() });
    let inputs = tables.into_iter().map(|table| DeclaredInput {
        name: table.value.clone(),
        table,
        reference: None,
        columns: None,
        filter: None,
        dictionary: Vec::new(),
    });
    out.declaration =
        Some(Declaration { name, inputs: inputs.collect(), body: Body::Sql(SqlBody { query }), settings, comment, at });
    out
}

/// Checks that the text is one SELECT and finds its tables, each once. With a `row_limit`, the text to run returns at most that many rows.
pub(crate) fn select(
    text: &Text<'_>,
    parameters: Option<&[(String, Literal)]>,
    row_limit: Option<u64>,
) -> Result<(Query, Vec<Spanned<String>>), Report> {
    let filled = fill(text, parameters)?;
    let statements = Parser::new(&GenericDialect {})
        .try_with_sql(&filled.text)
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| syntax(text, &filled, &error.to_string()))?;
    let first =
        Query { path: text.path.to_owned(), file: text.text.to_owned(), renamed: Edited::new(&filled.text, Vec::new()), filled };
    let refused = |found: &str| errors::not_one_select(first.start(), found);
    let query = match statements.as_slice() {
        [] => return Err(refused("no statement")),
        [Statement::Query(query)] if is_select(&query.body) => query,
        [other] => return Err(refused(&format!("`{}`", first_words(&other.to_string())))),
        several => return Err(refused(&format!("{} statements", several.len()))),
    };
    let mut finder = TableFinder::default();
    if let ControlFlow::Break((why, span)) = query.visit(&mut finder) {
        return Err(errors::query(first.location(span.start), &why));
    }
    finder.rename_columns();
    let mut tables: Vec<Spanned<String>> = Vec::new();
    for (name, span) in &finder.tables {
        if !tables.iter().any(|known| known.value == *name) {
            tables.push(Spanned { value: name.clone(), at: first.location(span.start) });
        }
    }
    let inner = Text::new("", &first.filled.text);
    let mut edits: Vec<_> =
        finder.edits.iter().map(|(from, to, with)| (inner.offset(*from)..inner.offset(*to), with.clone())).collect();
    edits.extend(ends(&inner, query, row_limit));
    let renamed = Edited::new(&first.filled.text, edits);
    Ok((Query { renamed, ..first }, tables))
}

/// Edits that cut off what stands before and after the query, and add a limit.
fn ends(text: &Text<'_>, query: &SqlQuery, row_limit: Option<u64>) -> Vec<(Range<usize>, String)> {
    let tokens = filters::tokens(text).unwrap_or_default();
    let mut solid =
        tokens.iter().filter(|(token, _)| !matches!(token, Token::Whitespace(_) | Token::SemiColon)).map(|(_, range)| range);
    let start = solid.next().map_or(0, |range| range.start);
    let end = solid.next_back().map_or(text.text.len(), |range| range.end);
    let (before, after) = match row_limit {
        None => (String::new(), String::new()),
        Some(limit) if own_limit(query).is_some_and(|own| own <= limit) => (String::new(), String::new()),
        Some(limit) if query.limit_clause.is_none() && query.fetch.is_none() => (String::new(), format!("\nLIMIT {limit}")),
        Some(limit) => ("SELECT * FROM (".to_owned(), format!("\n) AS \"query\" LIMIT {limit}")),
    };
    vec![(0..start, before), (end..text.text.len(), after)]
}

/// The number of a plain `LIMIT 10`.
fn own_limit(query: &SqlQuery) -> Option<u64> {
    match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit: Some(limit), limit_by, .. }) if limit_by.is_empty() => {
            limit.to_string().parse().ok()
        }
        _ => None,
    }
}

fn fill(text: &Text<'_>, parameters: Option<&[(String, Literal)]>) -> Result<Edited, Report> {
    let wrong = |error| match error {
        FillError::Tokens { why, at } => errors::sql_syntax(text.location(at), &why),
        FillError::UnknownParameter { name, at } => {
            let known = parameters.unwrap_or(&[]).iter().map(|(name, _)| name.as_str());
            let hint = suggest::hint_or_list(&name, "the parameters are", known);
            errors::hinted(errors::unknown_parameter(Some(text.location(at)), &name), hint)
        }
    };
    let tokens = filters::tokens(text).map_err(wrong)?;
    let commas = filters::trailing_commas(&tokens);
    if commas.is_empty() {
        return filters::fill(text.text, parameters, Dates::Quoted).map_err(wrong);
    }
    // A space for a comma moves nothing, so places stay right.
    let mut without = text.text.to_owned();
    for comma in commas {
        without.replace_range(comma, " ");
    }
    filters::fill(&without, parameters, Dates::Quoted).map_err(wrong)
}

/// The report for a parser's message, which ends with `at Line: 1, Column: 5`.
fn syntax(text: &Text<'_>, filled: &Edited, message: &str) -> Report {
    let number = |after: &str| {
        let start = message.rfind(after)? + after.len();
        let digits: String = message[start..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    let offset = match (number("Line: "), number("Column: ")) {
        (Some(line), Some(column)) => Text::new("", &filled.text).offset(SqlLocation { line, column }),
        _ => filled.text.trim_end().len(),
    };
    errors::sql_syntax(text.location(filled.original(offset)), &crate::sql::parser_message(message))
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn is_select(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select.into.is_none(),
        SetExpr::Query(query) => is_select(&query.body),
        SetExpr::SetOperation { left, right, .. } => is_select(left) && is_select(right),
        SetExpr::Values(_) => true,
        _ => false,
    }
}

/// Finds the tables of a query that are not common table expressions, and how their names must be rewritten.
#[derive(Default)]
struct TableFinder {
    ctes: Vec<String>,
    seen: BTreeSet<(u64, u64)>,
    tables: Vec<(String, Span)>,
    /// Namespaces and tables that became one identifier with an alias.
    qualified: BTreeSet<(String, String)>,
    /// `a.b.c` anywhere: the first two parts, and from where to where they stand.
    compounds: Vec<(String, String, SqlLocation, SqlLocation)>,
    edits: Vec<(SqlLocation, SqlLocation, String)>,
}

impl TableFinder {
    /// An edit, once: some parts of the tree are visited twice.
    fn edit(&mut self, from: SqlLocation, to: SqlLocation, with: String) {
        if !self.edits.iter().any(|(known, _, _)| *known == from) {
            self.edits.push((from, to, with));
        }
    }

    /// Names columns `ns.table.column` by the alias `table` that stands for `ns.table`. Only known once all tables have been seen.
    fn rename_columns(&mut self) {
        for (namespace, table, from, to) in std::mem::take(&mut self.compounds) {
            let with = format!("{}.", sql_name(&table));
            if self.qualified.contains(&(namespace, table)) {
                self.edit(from, to, with);
            }
        }
    }

    fn table(&mut self, name: &ObjectName, aliased: bool) -> Result<(), (String, Span)> {
        let parts: Vec<&Ident> = name
            .0
            .iter()
            .filter_map(|part| if let ObjectNamePart::Identifier(ident) = part { Some(ident) } else { None })
            .collect();
        let Some(first) = parts.first() else { return Ok(()) };
        if !self.seen.insert((first.span.start.line, first.span.start.column)) {
            return Ok(());
        }
        match parts.as_slice() {
            [table] if self.ctes.contains(&table.value) => {}
            [table] => self.tables.push((table.value.clone(), table.span)),
            [namespace, table] => {
                let full = format!("{}.{}", namespace.value, table.value);
                let alias = if aliased { String::new() } else { format!(" AS {}", sql_name(&table.value)) };
                self.edit(namespace.span.start, table.span.end, format!("{}{alias}", sql_name(&full)));
                if !aliased {
                    self.qualified.insert((namespace.value.clone(), table.value.clone()));
                }
                self.tables.push((full, namespace.span));
            }
            _ => return Err((format!("`{name}` is not the name of a table: write `table` or `namespace.table`"), first.span)),
        }
        Ok(())
    }
}

impl Visitor for TableFinder {
    type Break = (String, Span);

    fn pre_visit_query(&mut self, query: &SqlQuery) -> ControlFlow<Self::Break> {
        for cte in query.with.iter().flat_map(|with| with.cte_tables.iter().map(move |cte| (cte, with.recursive))) {
            let (cte, recursive) = cte;
            if !recursive {
                // Its own name does not hold inside it: `WITH t AS (SELECT * FROM t) …` reads a table `t`.
                cte.query.visit(self)?;
            }
            self.ctes.push(cte.alias.name.value.clone());
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &SqlQuery) -> ControlFlow<Self::Break> {
        let count = query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        self.ctes.truncate(self.ctes.len() - count);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, alias, args: None, .. } = factor
            && let Err(problem) = self.table(name, alias.is_some())
        {
            return ControlFlow::Break(problem);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Self::Break> {
        if let Expr::CompoundIdentifier(parts) = expression
            && let [namespace, table, column, ..] = parts.as_slice()
        {
            self.compounds.push((namespace.value.clone(), table.value.clone(), namespace.span.start, column.span.start));
        }
        ControlFlow::Continue(())
    }
}

/// Directives and the comment among the lines before the statement.
fn headers(text: &Text<'_>, out: &mut Read) -> (Settings, Option<String>) {
    let mut settings = Settings::default();
    let mut comment: Vec<&str> = Vec::new();
    let mut offset = 0;
    for line in text.text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let trimmed = line.trim();
        let Some(content) = trimmed.strip_prefix("--") else { if trimmed.is_empty() { continue } else { break } };
        let content = content.trim();
        let Some(directive) = content.strip_prefix("forebay:").or_else(|| content.strip_prefix("bauplan:")) else {
            comment.push(content);
            continue;
        };
        let at = text.location(start + line.find(directive.trim()).unwrap_or(0));
        match directive.split_once('=') {
            Some((key, value)) => header(&mut settings, key.trim(), value, at, out),
            None => out.reports.push(errors::bad_value(
                at,
                &format!("the header `{}`", directive.trim()),
                "it is not of the form `key=value`",
            )),
        }
    }
    let comment = comment.join("\n").trim().to_owned();
    (settings, (!comment.is_empty()).then_some(comment))
}

fn header(settings: &mut Settings, written: &str, value: &str, at: Location, out: &mut Read) {
    let key = written.replace('-', "_").to_ascii_lowercase();
    let value = value.trim().trim_end_matches(';').trim();
    let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let given = Spanned { value: quoted('"').or_else(|| quoted('\'')).unwrap_or(value).to_owned(), at: at.clone() };
    if key == "output_schema" {
        out.warnings.push(format!("{at}: `output_schema` is not checked"));
        return;
    }
    if !KEYS.contains(&key.as_str()) {
        let report = errors::unknown_word(at, "the header", written);
        out.reports.push(errors::hinted(report, suggest::hint_or_list(&key, "headers are", KEYS)));
        return;
    }
    if let Err(wrong) = set(settings, &key, &given) {
        let what = format!("the header `{written}`");
        out.reports.push(match wrong {
            Wrong::Choice(choices) => unknown_choice(&what, &given, choices),
            Wrong::Value(why) => errors::bad_value(at, &what, why),
        });
    }
}

/// Why a header's value cannot be used.
enum Wrong {
    Choice(&'static [&'static str]),
    Value(String),
}

fn set(settings: &mut Settings, key: &str, given: &Spanned<String>) -> Result<(), Wrong> {
    let (text, at) = (given.value.as_str(), &given.at);
    match key {
        "name" => settings.name = Some(given.clone()),
        "columns" => settings.columns = columns(given),
        "dictionary" => settings.dictionary = names(given),
        "partitioned_by" => {
            let fields = parse_partition_fields(text).map_err(Wrong::Value)?;
            settings.partitioned_by = Some(Spanned { value: fields, at: at.clone() });
        }
        "sorted_by" => {
            let fields = parse_sort_fields(text).map_err(Wrong::Value)?;
            settings.sorted_by = Some(Spanned { value: fields, at: at.clone() });
        }
        "merge_keys" => settings.merge_keys = names(given),
        "delete_when" => settings.delete_when = Some(given.clone()),
        "materialization_strategy" => {
            let word = text.parse::<StrategyWord>().map_err(|()| Wrong::Choice(&STRATEGIES))?;
            settings.strategy = Some(Spanned { value: word, at: at.clone() });
        }
        "materialize" => settings.materialize = Some(Spanned { value: truth(text)?, at: at.clone() }),
        "cache_strategy" => settings.cache_off = cache_off(text).map_err(|()| Wrong::Choice(&CACHE_STRATEGIES))?,
        "overwrite_filter" => settings.overwrite_filter = Some(given.clone()),
        "internet_access" => settings.internet_access = truth(text)?,
        "cpus" => settings.resources.cpus = Some(positive(text)?),
        "memory" => {
            let bytes = memory_bytes(text).ok_or_else(|| Wrong::Value("it must be like `512M` or `2G`".to_owned()))?;
            settings.resources.memory_bytes = Some(bytes);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 0 and 1e12")]
        _ => settings.resources.timeout_seconds = Some(positive(text)?.ceil() as u64),
    }
    Ok(())
}

/// `id, delay`, in brackets and quotes or not; `*` means all.
fn columns(given: &Spanned<String>) -> Option<Vec<Spanned<String>>> {
    let columns = names(given);
    (!columns.is_empty() && !columns.iter().any(|column| column.value == "*")).then_some(columns)
}

/// `id, delay`, in brackets and quotes or not, each once.
fn names(given: &Spanned<String>) -> Vec<Spanned<String>> {
    let list = given.value.trim_start_matches('[').trim_end_matches(']');
    let mut names: Vec<Spanned<String>> = Vec::new();
    for name in list.split(',').map(|name| name.trim().trim_matches(['"', '\''])).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known.value == name) {
            names.push(Spanned { value: name.to_owned(), at: given.at.clone() });
        }
    }
    names
}

fn truth(text: &str) -> Result<bool, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(Wrong::Value("it is neither `true` nor `false`".to_owned())),
    }
}

fn positive(text: &str) -> Result<f64, Wrong> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && *number < 1e12);
    number.ok_or_else(|| Wrong::Value("it must be a positive number".to_owned()))
}
