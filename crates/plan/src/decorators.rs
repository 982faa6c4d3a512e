//! The decorators and input calls of Forebay: which arguments they take, in which order, and what values are fine.

use std::str::FromStr;

use forebay_types::{PartitionField, Report, SortField, parse_partition_fields, parse_sort_fields};
use ruff_python_ast::{Arguments, Expr};
use ruff_text_size::{Ranged, TextRange};

use crate::environment;
use crate::errors;
use crate::literal::{self, Literal, Value};
use crate::python::{Decorated, Reader};
use crate::settings::{CACHE_STRATEGIES, DeclaredInput, STRATEGIES, Spanned, StrategyWord, mebibytes, memory_bytes};
use crate::suggest;

const MODEL: &[&str] = &[
    "name",
    "columns",
    "partitioned_by",
    "materialization_strategy",
    "cache_strategy",
    "internet_access",
    "overwrite_filter",
    "materialize",
    "sorted_by",
    "merge_keys",
    "delete_when",
];
const PYTHON: &[&str] = &["version", "pip"];
const RESOURCES: &[&str] = &["cpus", "memory", "memory_swap", "timeout"];
const INPUT: &[&str] = &["name", "columns", "filter", "ref", "dictionary"];
const PARAMETER: &[&str] = &["name"];

/// Reads one decorator `forebay.<word>` into `into`.
pub(crate) fn read(reader: &mut Reader<'_>, into: &mut Decorated, word: &str, at: TextRange, arguments: Option<&Arguments>) {
    let what = format!("@forebay.{word}");
    match word {
        "model" => {
            into.model = Some(at);
            for (name, value) in bind(reader, &what, arguments, MODEL) {
                model_argument(reader, into, name, &format!("`{name}` of `{what}`"), value);
            }
        }
        "expectation" => {
            into.expectation = Some(at);
            bind(reader, &what, arguments, &[]);
        }
        "python" => {
            into.environment = Some(at);
            for (name, value) in bind(reader, &what, arguments, PYTHON) {
                let what = format!("`{name}` of `{what}`");
                if name == "version" {
                    into.python = python_version(reader, &what, value);
                } else {
                    into.packages = packages(reader, &what, value);
                }
            }
        }
        "resources" => {
            into.environment = Some(at);
            for (name, value) in bind(reader, &what, arguments, RESOURCES) {
                resource(reader, into, name, &format!("`{name}` of `{what}`"), value);
            }
        }
        "extras" => reader.warn(at, "`extras` is ignored: name the packages in `@forebay.python(pip={…})`"),
        _ => {
            let report = errors::unknown_word(reader.at(at), "the decorator", &what);
            let decorators = ["model", "python", "resources", "expectation"];
            reader.report(errors::hinted(report, suggest::hint_or_list(word, "decorators are", decorators)));
        }
    }
}

/// `forebay.Model(…)` as the source of argument `argument`.
pub(crate) fn model_input(
    reader: &mut Reader<'_>,
    argument: &str,
    at: TextRange,
    arguments: Option<&Arguments>,
) -> Option<DeclaredInput> {
    let what = "forebay.Model";
    let (mut table, mut input_columns, mut filter, mut reference, mut dictionary) = (None, None, None, None, Vec::new());
    let bound = bind(reader, what, arguments, INPUT);
    let named = bound.iter().any(|(name, _)| *name == "name");
    for (name, value) in bound {
        let what = format!("`{name}` of `{what}`");
        match name {
            "name" => table = string(reader, &what, value),
            "columns" => input_columns = columns(reader, &what, value),
            "filter" => filter = string(reader, &what, value),
            "dictionary" => dictionary = names(reader, &what, value).unwrap_or_default(),
            _ => reference = string(reader, &what, value),
        }
    }
    if !named {
        let report = errors::bad_value(
            reader.at(at),
            &format!("the input `{argument}`"),
            "`forebay.Model` needs the name of a table or model",
        );
        reader.report(report);
    }
    Some(DeclaredInput { name: argument.to_owned(), table: table?, reference, columns: input_columns, filter, dictionary })
}

/// `forebay.Parameter(…)`.
pub(crate) fn parameter_input(reader: &mut Reader<'_>, at: TextRange, arguments: Option<&Arguments>) -> Option<Spanned<String>> {
    let bound = bind(reader, "forebay.Parameter", arguments, PARAMETER);
    match bound.first() {
        Some((_, value)) => string(reader, "`name` of `forebay.Parameter`", value),
        None => {
            let report = errors::bad_value(reader.at(at), "an input", "`forebay.Parameter` needs the name of a parameter");
            reader.report(report);
            None
        }
    }
}

/// Pairs arguments with the names of `signature`; reports those that do not fit.
fn bind<'e>(
    reader: &mut Reader<'_>,
    what: &str,
    arguments: Option<&'e Arguments>,
    signature: &[&'static str],
) -> Vec<(&'static str, &'e Expr)> {
    let mut bound: Vec<(&'static str, &Expr)> = Vec::new();
    let Some(arguments) = arguments else { return bound };
    for (index, value) in arguments.args.iter().enumerate() {
        match signature.get(index) {
            _ if matches!(value, Expr::Starred(_)) => {
                let report = errors::not_literal(reader.at(value.range()), &format!("the arguments of `{what}`"));
                reader.report(report);
                return bound;
            }
            Some(name) => bound.push((name, value)),
            None => {
                let allowed = signature.len();
                let report = errors::bad_value(
                    reader.at(value.range()),
                    &format!("`{what}`"),
                    format!("it takes at most {allowed} arguments"),
                );
                reader.report(report);
                return bound;
            }
        }
    }
    for keyword in &arguments.keywords {
        let Some(given) = &keyword.arg else {
            let report = errors::not_literal(reader.at(keyword.value.range()), &format!("the arguments of `{what}`"));
            reader.report(report);
            continue;
        };
        let Some(name) = signature.iter().find(|name| **name == given.as_str()) else {
            let report = errors::unknown_word(reader.at(given.range()), &format!("the argument of `{what}`,"), given.as_str());
            let hint = suggest::hint_or_list(given.as_str(), "its arguments are", signature.iter().copied())
                .or_else(|| signature.is_empty().then(|| "it takes no arguments".to_owned()));
            reader.report(errors::hinted(report, hint));
            continue;
        };
        if bound.iter().any(|(known, _)| known == name) {
            let report = errors::bad_value(reader.at(given.range()), &format!("`{what}`"), format!("`{name}` is given twice"));
            reader.report(report);
            continue;
        }
        bound.push((name, &keyword.value));
    }
    bound
}

fn model_argument(reader: &mut Reader<'_>, into: &mut Decorated, name: &str, what: &str, value: &Expr) {
    let settings = &mut into.settings;
    match name {
        "name" => settings.name = string(reader, what, value),
        "columns" => settings.columns = columns(reader, what, value),
        "partitioned_by" => settings.partitioned_by = partition_fields(reader, what, value),
        "sorted_by" => settings.sorted_by = sort_fields(reader, what, value),
        "merge_keys" => settings.merge_keys = key_names(reader, what, value),
        "delete_when" => settings.delete_when = string(reader, what, value),
        "overwrite_filter" => settings.overwrite_filter = string(reader, what, value),
        "internet_access" => settings.internet_access = boolean(reader, what, value).is_some_and(|given| given.value),
        "materialize" => settings.materialize = boolean(reader, what, value),
        "cache_strategy" => {
            if let Some(word) = string(reader, what, value) {
                match cache_off(&word.value) {
                    Ok(off) => settings.cache_off = off,
                    Err(()) => reader.report(unknown_choice(what, &word, &CACHE_STRATEGIES)),
                }
            }
        }
        _ => {
            if let Some(word) = string(reader, what, value) {
                match word.value.parse::<StrategyWord>() {
                    Ok(strategy) => settings.strategy = Some(Spanned { value: strategy, at: word.at }),
                    Err(()) => reader.report(unknown_choice(what, &word, &STRATEGIES)),
                }
            }
        }
    }
}

/// Whether a `cache_strategy` switches the cache off.
pub(crate) fn cache_off(word: &str) -> Result<bool, ()> {
    match word.to_ascii_uppercase().as_str() {
        "NONE" => Ok(true),
        "DEFAULT" => Ok(false),
        _ => Err(()),
    }
}

/// The report for a word that is not one of the choices.
pub(crate) fn unknown_choice(what: &str, word: &Spanned<String>, choices: &[&str]) -> Report {
    let report = errors::bad_value(word.at.clone(), what, format!("`{}` is not one of its values", word.value));
    errors::hinted(report, suggest::hint_or_list(&word.value, "the values are", choices.iter().copied()))
}

fn resource(reader: &mut Reader<'_>, into: &mut Decorated, name: &str, what: &str, value: &Expr) {
    let Some(literal) = literal(reader, what, value) else { return };
    let resources = &mut into.settings.resources;
    let number = match &literal.value {
        Value::None => return,
        #[expect(clippy::cast_precision_loss, reason = "limits are small numbers")]
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    let wrong = match name {
        "cpus" => {
            resources.cpus = number.filter(|number| *number > 0.0 && number.is_finite());
            resources.cpus.is_none().then_some("it must be a positive number of cores")
        }
        "memory" => {
            resources.memory_bytes = match (&literal.value, number) {
                (Value::Str(text), _) => memory_bytes(text),
                (_, number) => number.and_then(mebibytes),
            };
            resources.memory_bytes.is_none().then_some("it must be text like \"512M\" or \"2G\", or a number of mebibytes")
        }
        "timeout" => {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 0 and 1e12")]
            let seconds = number.filter(|number| *number > 0.0 && *number < 1e12).map(|number| number.ceil() as u64);
            resources.timeout_seconds = seconds;
            seconds.is_none().then_some("it must be a positive number of seconds")
        }
        _ => {
            reader.warn(value.range(), "`memory_swap` is ignored: functions do not swap");
            None
        }
    };
    if let Some(why) = wrong {
        let report = errors::bad_value(reader.at(literal.range), what, why);
        reader.report(report);
    }
}

fn python_version(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Option<String> {
    let literal = literal(reader, what, value)?;
    let written = match &literal.value {
        Value::None => return None,
        Value::Str(text) => text.clone(),
        // `3.10` as a number is 3.1: what was meant can only be guessed, and the source text shows it.
        _ => {
            let shown = reader.source(literal.range).to_owned();
            let report = errors::python_version(reader.at(literal.range), &shown);
            reader.report(report);
            return None;
        }
    };
    let version = environment::python_version(&written);
    match &version {
        None => {
            let report = errors::python_version(reader.at(literal.range), &written);
            reader.report(report);
        }
        Some(version) if *version != written.trim() => {
            reader.warn(
                literal.range,
                &format!("Python `{written}` is taken as `{version}`: the patch level is that of the interpreter at hand"),
            );
        }
        Some(_) => {}
    }
    version
}

fn packages(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Vec<(String, String)> {
    let Some(literal) = literal(reader, what, value) else { return Vec::new() };
    let items = match literal.value {
        Value::None => return Vec::new(),
        Value::Dict(items) => items,
        other => {
            let why = format!("it must be a dict of package names and versions, and it is {}", other.kind());
            let report = errors::bad_value(reader.at(literal.range), what, why);
            reader.report(report);
            return Vec::new();
        }
    };
    let mut packages = Vec::new();
    for (name, version) in items {
        let version_text = match &version.value {
            Value::Str(text) => text.clone(),
            Value::None => String::new(),
            _ => {
                let report = errors::package(reader.at(version.range), reader.source(name.range), "its version is not text");
                reader.report(report);
                continue;
            }
        };
        let Value::Str(name_text) = &name.value else {
            let report = errors::bad_value(reader.at(name.range), what, "package names must be text");
            reader.report(report);
            continue;
        };
        match environment::check_package(name_text, &version_text) {
            Ok(()) => packages.push((name_text.clone(), version_text)),
            Err(why) => {
                let report = errors::package(reader.at(version.range), name_text, &why);
                reader.report(report);
            }
        }
    }
    packages
}

fn partition_fields(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Option<Spanned<Vec<PartitionField>>> {
    let hint = "write columns or transforms of columns: `\"country\"`, `[\"day(ts)\", \"bucket(16, id)\"]`";
    fields(reader, what, value, parse_partition_fields, hint)
}

fn sort_fields(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Option<Spanned<Vec<SortField>>> {
    let hint = "write columns: `\"country\"`, `[\"country\", \"ts desc\", \"id nulls last\"]`";
    fields(reader, what, value, parse_sort_fields, hint)
}

/// Fields written as one text, or as a list of texts.
fn fields<F: FromStr<Err = String>>(
    reader: &mut Reader<'_>,
    what: &str,
    value: &Expr,
    parse: fn(&str) -> Result<Vec<F>, String>,
    hint: &str,
) -> Option<Spanned<Vec<F>>> {
    let given = literal(reader, what, value)?;
    let at = reader.at(given.range);
    let parsed = match &given.value {
        Value::None => return None,
        Value::Str(text) => parse(text),
        Value::List(items) => items
            .iter()
            .map(|item| match &item.value {
                Value::Str(text) => text.parse(),
                other => Err(format!("its entries must be text, and one is {}", other.kind())),
            })
            .collect(),
        other => Err(format!("it must be text or a list of texts, and it is {}", other.kind())),
    };
    match parsed {
        Ok(fields) => Some(Spanned { value: fields, at }),
        Err(why) => {
            reader.report(errors::bad_value(at, what, why).with_hint(hint));
            None
        }
    }
}

/// Key columns: a list, or the name of the only one.
fn key_names(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Vec<Spanned<String>> {
    match value {
        Expr::StringLiteral(_) => string(reader, what, value).into_iter().collect(),
        _ => names(reader, what, value).unwrap_or_default(),
    }
}

/// A list of columns; `None` and `['*']` mean all.
fn columns(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Option<Vec<Spanned<String>>> {
    let columns = names(reader, what, value)?;
    if columns.iter().any(|column| column.value == "*") {
        return None;
    }
    if columns.is_empty() {
        let why = "the list is empty: a table needs at least one column";
        reader.report(errors::bad_value(reader.at(value.range()), what, why));
        return None;
    }
    Some(columns)
}

/// A list of column names, each once; `None` without one.
fn names(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Option<Vec<Spanned<String>>> {
    let given = literal(reader, what, value)?;
    let wrong = |reader: &mut Reader<'_>, at: TextRange, why: String| {
        let report = errors::bad_value(reader.at(at), what, why);
        reader.report(report);
    };
    let items = match given.value {
        Value::None => return None,
        Value::List(items) => items,
        other => {
            wrong(reader, given.range, format!("it must be a list of column names, and it is {}", other.kind()));
            return None;
        }
    };
    let mut columns: Vec<Spanned<String>> = Vec::new();
    for item in items {
        match item.value {
            Value::Str(name) if columns.iter().any(|known| known.value == name) => {
                wrong(reader, item.range, format!("the column `{name}` is listed twice"));
            }
            Value::Str(name) => columns.push(Spanned { value: name, at: reader.at(item.range) }),
            other => wrong(reader, item.range, format!("column names are text, and this is {}", other.kind())),
        }
    }
    Some(columns)
}

fn string(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Option<Spanned<String>> {
    let given = literal(reader, what, value)?;
    let at = reader.at(given.range);
    match given.value {
        Value::None => None,
        Value::Str(value) => Some(Spanned { value, at }),
        other => {
            reader.report(errors::bad_value(at, what, format!("it must be text, and it is {}", other.kind())));
            None
        }
    }
}

fn boolean(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Option<Spanned<bool>> {
    let given = literal(reader, what, value)?;
    let at = reader.at(given.range);
    match given.value {
        Value::None => None,
        Value::Bool(value) => Some(Spanned { value, at }),
        other => {
            reader.report(errors::bad_value(at, what, format!("it must be True or False, and it is {}", other.kind())));
            None
        }
    }
}

/// A literal, or a report.
fn literal(reader: &mut Reader<'_>, what: &str, value: &Expr) -> Option<Literal> {
    match literal::read(value) {
        Ok(literal) => Some(literal),
        Err(culprit) => {
            let report = errors::not_literal(reader.at(culprit), what);
            reader.report(report);
            None
        }
    }
}
