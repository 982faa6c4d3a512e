//! How a table's strings travel: as plain arrays, as views, or as dictionaries.
//!
//! *Views* let a filter, a sort or a join pass on the bytes of its input; plain arrays are what every reader understands and
//! take less room when strings are short. So a table made by one of our own functions leaves with views if every one of its
//! consumers takes them. *Dictionaries* are what a consumer asked for by name.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::physical::{Argument, ArgumentValue, Input, Node, TableForm, Work};

/// The type a column of strings has when it is wanted as a dictionary.
#[must_use]
pub fn dictionary_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// Whether values of this type can be a dictionary's: strings, or strings that are one already.
pub(crate) fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// `schema` with those columns as dictionaries.
pub(crate) fn with_dictionary(schema: &SchemaRef, columns: &[String]) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match columns.contains(field.name()) {
        true => Arc::new(Field::clone(field).with_data_type(dictionary_type())),
        false => Arc::clone(field),
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// Decides for every scan and SQL node whether its strings leave as views. A table nobody in the plan reads is for the
/// client, who gets plain strings.
pub(crate) fn choose_views(nodes: &mut [Node]) {
    let mut takes = vec![(false, true); nodes.len()];
    for node in nodes.iter() {
        for input in &node.inputs {
            let (read, all) = &mut takes[input.producer];
            *read = true;
            *all &= takes_views(&node.work, input);
        }
    }
    for (node, (read, all)) in nodes.iter_mut().zip(takes) {
        match &mut node.work {
            Work::Scan(scan) => scan.views = read && all,
            Work::Sql(sql) => sql.views = read && all,
            Work::Python(_) | Work::Write(_) => {}
        }
    }
}

/// Whether a consumer does better with views than with plain strings. The Arrow tables of Python are left out because
/// older versions of pyarrow and of what it is handed to know no views, and pandas and duckdb copy strings anyhow.
fn takes_views(work: &Work, input: &Input) -> bool {
    let form = |argument: &Argument| match argument.value {
        ArgumentValue::Table(form) if argument.name == input.name => Some(form),
        _ => None,
    };
    match work {
        Work::Sql(_) | Work::Write(_) => true,
        Work::Python(python) => {
            matches!(python.arguments.iter().find_map(form), Some(TableForm::Polars | TableForm::PolarsLazy))
        }
        Work::Scan(_) => false,
    }
}
