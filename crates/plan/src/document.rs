//! TOML and YAML as one small tree whose keys know where they are.

use forebay_types::Report;
use serde_yaml_ng::Value as Yaml;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::errors;
use crate::text::Text;

/// A value of the document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Tree>),
    Table(Vec<Entry>),
}

/// A key, its value, and the key's byte offset.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: usize,
    pub(crate) value: Tree,
}

impl Tree {
    /// A scalar as text, as far as versions and names may be written without quotes in YAML.
    pub(crate) fn as_text(&self) -> Option<String> {
        match self {
            Self::Str(text) => Some(text.clone()),
            Self::Int(number) => Some(number.to_string()),
            Self::Float(number) => Some(number.to_string()),
            Self::Null | Self::Bool(_) | Self::List(_) | Self::Table(_) => None,
        }
    }

    /// The value for a message.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Null => "null".to_owned(),
            scalar => scalar.as_text().unwrap_or_default(),
        }
    }
}

pub(crate) fn parse_toml(text: &Text<'_>) -> Result<Vec<Entry>, Report> {
    let parsed = DeTable::parse(text.text).map_err(|error| {
        let at = text.location(error.span().map_or(0, |span| span.start));
        errors::project_file(at, "it is not valid TOML").with_cause(error.message())
    })?;
    let mut entries = toml_table(parsed.into_inner(), text)?;
    entries.sort_by_key(|entry| entry.at);
    Ok(entries)
}

fn toml_table(table: DeTable<'_>, text: &Text<'_>) -> Result<Vec<Entry>, Report> {
    let mut entries = Vec::new();
    for (key, value) in table {
        let at = key.span().start;
        entries.push(Entry { key: key.into_inner().into_owned(), at, value: toml_value(value, text)? });
    }
    entries.sort_by_key(|entry| entry.at);
    Ok(entries)
}

fn toml_value(value: Spanned<DeValue<'_>>, text: &Text<'_>) -> Result<Tree, Report> {
    let at = value.span().start;
    let wrong = |why: &str| errors::project_file(text.location(at), why);
    Ok(match value.into_inner() {
        DeValue::String(text) => Tree::Str(text.into_owned()),
        DeValue::Boolean(value) => Tree::Bool(value),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Tree::Int(parsed.map_err(|_| wrong("a number is too large"))?)
        }
        DeValue::Float(number) => Tree::Float(number.as_str().parse().map_err(|_| wrong("a number cannot be read"))?),
        DeValue::Datetime(_) => return Err(wrong("dates are written as text, in quotes")),
        DeValue::Array(items) => Tree::List(items.into_iter().map(|item| toml_value(item, text)).collect::<Result<_, _>>()?),
        DeValue::Table(table) => Tree::Table(toml_table(table, text)?),
    })
}

pub(crate) fn parse_yaml(text: &Text<'_>) -> Result<Vec<Entry>, Report> {
    let parsed: Yaml = serde_yaml_ng::from_str(text.text).map_err(|error| {
        let at = text.location(error.location().map_or(0, |at| at.index()));
        errors::project_file(at, "it is not valid YAML").with_cause(error)
    })?;
    let mut search = 0;
    match yaml_value(&parsed, text.text, &mut search) {
        Tree::Table(entries) => Ok(entries),
        Tree::Null => Ok(Vec::new()),
        _ => Err(errors::project_file(text.location(0), "it must be a table of keys and values")),
    }
}

/// The YAML parser keeps no places; keys are found again by searching forward, which is right for files as people write them.
fn yaml_value(value: &Yaml, text: &str, search: &mut usize) -> Tree {
    match value {
        Yaml::Null => Tree::Null,
        Yaml::Bool(value) => Tree::Bool(*value),
        Yaml::Number(number) => match number.as_i64() {
            Some(number) => Tree::Int(number),
            None => Tree::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Yaml::String(text) => Tree::Str(text.clone()),
        Yaml::Sequence(items) => Tree::List(items.iter().map(|item| yaml_value(item, text, search)).collect()),
        Yaml::Mapping(mapping) => {
            let entries = mapping.iter().map(|(key, value)| {
                let key = match yaml_value(key, text, &mut 0) {
                    Tree::Str(key) => key,
                    other => other.shown(),
                };
                if let Some(found) = text.get(*search..).and_then(|rest| rest.find(&key)) {
                    *search += found;
                }
                let at = *search;
                Entry { key, at, value: yaml_value(value, text, search) }
            });
            Tree::Table(entries.collect())
        }
        Yaml::Tagged(tagged) => yaml_value(&tagged.value, text, search),
    }
}
