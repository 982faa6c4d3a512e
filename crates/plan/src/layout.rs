//! How a table's strings travel: as plain arrays, as views, or as dictionaries.
//!
//! *Views* let a filter, a sort or a join pass on the bytes of its input; plain arrays are what every reader understands and
//! take less room when strings are short. So a table made by one of our own functions leaves with views where its consumers
//! take them. *Dictionaries* are what a consumer asked for by name.

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

/// Decides for every scan and SQL node whether its strings leave as views.
///
/// A scan's do if all its consumers take views: over plain strings SQL makes views of its own at 16 bytes per row, while Python's
/// Arrow tables have to copy the strings of views. A query's do if one consumer takes views, or nobody reads the table: plain
/// strings would be written anew by each filter, sort and join. With `for_client` the last table goes to a client, as plain strings.
pub(crate) fn choose_views(nodes: &mut [Node], for_client: bool) {
    let mut takes = vec![(0_usize, 0_usize); nodes.len()];
    for node in nodes.iter() {
        for input in &node.inputs {
            let (readers, of_views) = &mut takes[input.producer];
            *readers += 1;
            *of_views += usize::from(takes_views(&node.work, input));
        }
    }
    if for_client && let Some((readers, _)) = takes.last_mut() {
        *readers += 1;
    }
    for (node, (readers, of_views)) in nodes.iter_mut().zip(takes) {
        match &mut node.work {
            Work::Scan(scan) => scan.views = readers > 0 && of_views == readers,
            Work::Sql(sql) => sql.views = readers == 0 || of_views > 0,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::{Resources, Scan, Sql};

    const SCAN: fn() -> Work = || {
        Work::Scan(Scan {
            table: forebay_types::TableName::parse("t", "default").expect("a name"),
            metadata_location: "/t.json".to_owned(),
            snapshot_id: None,
            columns: None,
            filter: None,
            dictionary: Vec::new(),
            views: false,
        })
    };
    const SQL: fn() -> Work = || Work::Sql(Sql { query: "SELECT 1".to_owned(), views: false });

    fn python(form: TableForm) -> Work {
        use crate::physical::{EnvironmentSpec, Python, Returns};
        Work::Python(Python {
            file: "models.py".to_owned(),
            function: "f".to_owned(),
            arguments: vec![Argument { name: "data".to_owned(), value: ArgumentValue::Table(form) }],
            environment: EnvironmentSpec { python: "3.11".to_owned(), packages: Vec::new(), needs: Vec::new() },
            columns: None,
            internet_access: false,
            returns: Returns::Table,
        })
    }

    /// Whether a table of `work` leaves with views, if these read it.
    fn views(work: Work, readers: Vec<Work>, for_client: bool) -> bool {
        let input = || Input { producer: 0, name: "data".to_owned(), columns: None, dictionary: Vec::new() };
        let node = |(id, work): (usize, Work)| Node {
            name: id.to_string(),
            work,
            inputs: if id == 0 { Vec::new() } else { vec![input()] },
            resources: Resources::default(),
            at: None,
        };
        let mut nodes: Vec<Node> = std::iter::once(work).chain(readers).enumerate().map(node).collect();
        choose_views(&mut nodes, for_client);
        match &nodes[0].work {
            Work::Scan(scan) => scan.views,
            Work::Sql(sql) => sql.views,
            _ => false,
        }
    }

    #[test]
    fn views_go_where_they_are_taken() {
        let (polars, arrow) = (|| python(TableForm::Polars), || python(TableForm::PyArrow));
        assert!(views(SCAN(), vec![SQL(), polars(), python(TableForm::PolarsLazy)], false));
        assert!(!views(SCAN(), vec![SQL(), arrow()], false));
        assert!(!views(SCAN(), vec![], false));
        assert!(views(SQL(), vec![SQL(), arrow()], false));
        assert!(!views(SQL(), vec![arrow(), python(TableForm::Pandas)], false));
        assert!(views(SQL(), vec![], false));
        assert!(!views(SQL(), vec![], true));
    }
}
