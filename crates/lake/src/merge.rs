//! Merging rows into a table by key: a row whose key is there replaces what is there, another one is added, and a row
//! that is marked deletes. Files that hold a matched row are written anew without it (copy on write).
//!
//! ```text
//! rows given ──marks──> rows to put, keys to delete          no key twice, none null
//! live files ──bounds of the first key──> ──keys read──> files with a match ──> rows that stay + rows to put
//! ```
//!
//! Rows of the table whose key is null match nothing. If the table has a key several times, all of its rows are
//! replaced by the one given. Columns the given rows lack keep their values where a row was matched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, filter_record_batch, interleave, not};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use arrow::row::{RowConverter, SortField};

use crate::cast::show;
use crate::conform::conform;
use crate::error::{Error, Result};
use crate::overwrite::drop_their_deletes;
use crate::predicate::{Filter, Keep};
use crate::rows::Rows;
use crate::scan::{Plan, read_blocking};
use crate::statistics;
use crate::table::{LiveFile, LiveFiles, Table};

/// What a merge makes of a table.
pub(crate) struct Merged {
    /// Files that go.
    pub dropped: HashSet<String>,
    /// Rows of dropped files that stay.
    pub kept: Rows,
    /// Rows to put.
    pub put: Rows,
    /// Whether a row that was marked matched nothing.
    pub idle_deletes: bool,
}

/// The rows given, with their marks.
pub(crate) struct Given {
    /// What is stored of them.
    pub rows: Rows,
    /// For each batch, the rows that delete.
    marks: Vec<BooleanArray>,
}

/// Evaluates `delete_when` on the rows. The name of a boolean column alone is a mark: the column is not stored.
pub(crate) fn marked(rows: Rows, delete_when: Option<&str>) -> Result<Given> {
    let Some(condition) = delete_when else {
        let marks = rows.batches.iter().map(|batch| BooleanArray::from(vec![false; batch.num_rows()])).collect();
        return Ok(Given { rows, marks });
    };
    let filter = Filter::parse(condition, &rows.schema)?.on(&rows.schema)?;
    let marks = rows.batches.iter().map(|batch| filter.mask(batch, Keep::Matching)).collect::<Result<_>>()?;
    let name = condition.trim().trim_matches('"');
    let flag = rows.schema.index_of(name).ok().filter(|&flag| *rows.schema.field(flag).data_type() == DataType::Boolean);
    let Some(flag) = flag else { return Ok(Given { rows, marks }) };
    let stored: Vec<usize> = (0..rows.schema.fields().len()).filter(|column| *column != flag).collect();
    let failed = |error| Error::internal("leave out the mark")(error);
    let batches = rows.batches.iter().map(|batch| batch.project(&stored).map_err(failed)).collect::<Result<_>>()?;
    let schema = Arc::new(rows.schema.project(&stored).map_err(failed)?);
    Ok(Given { rows: Rows { schema, batches }, marks })
}

/// Merges into a table that does not exist yet: `clean` is what it will be read as.
pub(crate) fn into_nothing(given: Given, keys: &[String], clean: &SchemaRef) -> Result<Merged> {
    let keys = Keys::new(keys, clean)?;
    keys.index(&given)?;
    let idle_deletes = given.marks.iter().any(|marks| marks.true_count() > 0);
    let kept = Rows { schema: Arc::clone(clean), batches: Vec::new() };
    Ok(Merged { dropped: HashSet::new(), kept, put: unmarked(given)?, idle_deletes })
}

/// Merges into a table; `clean` is what it will be read as with the columns that the rows add.
pub(crate) async fn merge(base: &Table, given: Given, keys: &[String], clean: &SchemaRef) -> Result<Merged> {
    let keys = Keys::new(keys, clean)?;
    let index = keys.index(&given)?;
    let before = base.clean_schema(base.metadata.current_schema());
    let nothing = Rows { schema: Arc::clone(&before), batches: Vec::new() };
    let lacks_keys = keys.names.iter().any(|name| before.index_of(name).is_err());
    let snapshot = base.metadata.current_snapshot().filter(|_| !lacks_keys && !index.is_empty());
    let Some(snapshot) = snapshot else {
        let idle_deletes = given.marks.iter().any(|marks| marks.true_count() > 0);
        return Ok(Merged { dropped: HashSet::new(), kept: nothing, put: unmarked(given)?, idle_deletes });
    };
    let live = base.live_files(snapshot).await?;
    let mut matches = Matches::new(&given, &before, index.len());
    let mut kept = nothing;
    let mut dropped = HashSet::new();
    for file in candidates(base, &live, &before, &keys, &index)? {
        let columns = keys.names.iter().map(|name| before.index_of(name).expect("looked for above")).collect();
        let found = read(base, &file, &live.deletes, &before, columns).await?;
        let mut any = false;
        for batch in &found {
            any = any || keys.find(batch, &index)?.iter().any(Option::is_some);
        }
        if !any {
            continue;
        }
        dropped.insert(file.file.file_path().to_owned());
        for batch in read(base, &file, &live.deletes, &before, (0..before.fields().len()).collect()).await? {
            let owners = keys.find(&batch, &index)?;
            kept.batches.push(matches.take(&batch, &owners)?);
        }
    }
    kept.batches.retain(|batch| batch.num_rows() > 0);
    drop_their_deletes(&live, &mut dropped);
    let idle_deletes = matches.idle(&given);
    let given = matches.filled(given)?;
    Ok(Merged { dropped, kept, put: unmarked(given)?, idle_deletes })
}

/// Whether a file of `theirs` holds a key that a file of `ours` has. Files of `ours` are of the table `one`, `theirs` of `other`.
pub(crate) async fn share_keys(
    (one, ours): (&Table, Vec<LiveFile>),
    (other, theirs): (&Table, LiveFiles),
    names: &[String],
) -> Result<bool> {
    let clean = one.clean_schema(one.metadata.current_schema());
    let keys = Keys::new(names, &clean)?;
    let columns = || keys.names.iter().map(|name| clean.index_of(name).expect("looked for by `Keys::new`")).collect();
    let mut index = Index::new();
    for file in ours {
        for batch in read(one, &file, &[], &clean, columns()).await? {
            for (key, row) in keys.encode(&batch)?.iter().zip(0..) {
                index.entry(key.data().into()).or_insert(row);
            }
        }
    }
    for file in candidates(other, &theirs, &clean, &keys, &index)? {
        for batch in read(other, &file, &theirs.deletes, &clean, columns()).await? {
            if keys.find(&batch, &index)?.iter().any(Option::is_some) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Rows of one file, `columns` of them.
async fn read(
    base: &Table,
    file: &LiveFile,
    deletes: &[LiveFile],
    clean: &SchemaRef,
    columns: Vec<usize>,
) -> Result<Vec<RecordBatch>> {
    let plan = Plan {
        table: base.clone(),
        schema: Arc::clone(base.metadata.current_schema()),
        clean: Arc::clone(clean),
        delivered: Arc::clone(clean),
        output: columns,
        filter: None,
        rows_filter: None,
        keep: Keep::Matching,
    };
    Ok(read_blocking(plan, LiveFiles { data: vec![file.clone()], deletes: deletes.to_vec() }).await?.batches)
}

/// The files whose bounds do not rule out that one of the keys is in them.
fn candidates(base: &Table, live: &LiveFiles, clean: &SchemaRef, keys: &Keys, index: &Index) -> Result<Vec<LiveFile>> {
    let schema = base.metadata.current_schema();
    let first = clean.index_of(&keys.names[0]).expect("looked for by the caller");
    let containers = statistics::of_files(&live.data, &base.metadata, schema, clean, &[first]);
    let Some((lower, upper)) = containers.bounds(&keys.names[0]) else { return Ok(live.data.clone()) };
    let failed = |error| Error::internal("compare keys")(error);
    let kind = keys.fields[0].data_type();
    let converter = RowConverter::new(vec![SortField::new(kind.clone())]).map_err(failed)?;
    let encoded = |bound: &ArrayRef| {
        let bound = cast(bound, kind).map_err(failed)?;
        converter.convert_columns(&[Arc::clone(&bound)]).map(|rows| (rows, bound)).map_err(failed)
    };
    let ((lower, known_lower), (upper, known_upper)) = (encoded(lower)?, encoded(upper)?);
    // The first column of a key with several starts the encoded key: prefixes compare as whole values do.
    let mut sorted: Vec<&[u8]> = index.keys().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    let mut found = Vec::new();
    for (file, row) in live.data.iter().zip(0..) {
        let known = known_lower.is_valid(row) && known_upper.is_valid(row);
        let (lower, upper) = (lower.row(row), upper.row(row));
        let at = sorted.partition_point(|key| *key < lower.data());
        let inside = sorted.get(at).is_some_and(|key| *key <= upper.data() || key.starts_with(upper.data()));
        if !known || inside {
            found.push(file.clone());
        }
    }
    Ok(found)
}

/// Keys of the rows given, encoded, and which row has each.
type Index = HashMap<Box<[u8]>, usize>;

/// The columns rows are matched by.
struct Keys {
    names: Vec<String>,
    fields: Vec<Field>,
    converter: RowConverter,
}

impl Keys {
    fn new(names: &[String], clean: &SchemaRef) -> Result<Self> {
        let refuse = |why: String| Error::MergeKey { keys: names.join(", "), why };
        if names.is_empty() {
            return Err(refuse("no key column is named".to_owned()));
        }
        let mut fields: Vec<Field> = Vec::new();
        for name in names {
            let field = clean.field_with_name(name).map_err(|_| refuse(format!("there is no column `{name}`")))?;
            let kind = field.data_type();
            if kind.is_nested() || kind.is_floating() {
                return Err(refuse(format!("column `{name}` is {kind}, whose values are not compared for being equal")));
            }
            if fields.iter().any(|known| known.name() == name) {
                return Err(refuse(format!("column `{name}` is named twice")));
            }
            fields.push(field.clone());
        }
        let kinds = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(kinds).map_err(Error::internal("compare keys"))?;
        Ok(Self { names: names.to_vec(), fields, converter })
    }

    /// The key columns of a batch, in the table's types.
    fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column = |field: &Field| {
            let Some(array) = batch.column_by_name(field.name()) else {
                let why = format!("the rows have no column `{}`", field.name());
                return Err(Error::MergeKey { keys: self.names.join(", "), why });
            };
            conform(array, field.data_type(), None).map_err(|problem| Error::Value {
                column: field.name().clone(),
                why: problem.why,
                hint: "cast the key to the table's type",
            })
        };
        self.fields.iter().map(column).collect()
    }

    fn encode(&self, batch: &RecordBatch) -> Result<arrow::row::Rows> {
        self.converter.convert_columns(&self.columns(batch)?).map_err(Error::internal("compare keys"))
    }

    /// The rows given by key: none null, none twice.
    fn index(&self, given: &Given) -> Result<Index> {
        let mut index = Index::new();
        let mut row = 0;
        for batch in &given.rows.batches {
            let columns = self.columns(batch)?;
            let keys = self.converter.convert_columns(&columns).map_err(Error::internal("compare keys"))?;
            for (place, key) in keys.iter().enumerate() {
                if let Some((_, field)) = columns.iter().zip(&self.fields).find(|(column, _)| column.is_null(place)) {
                    return Err(Error::MergeRows { why: format!("the key `{}` of row {} is null", field.name(), row + 1) });
                }
                if let Some(other) = index.insert(key.data().into(), row) {
                    let key: Vec<String> = columns.iter().map(|column| show(column, place)).collect();
                    let why = format!("rows {} and {} have the same key ({})", other + 1, row + 1, key.join(", "));
                    return Err(Error::MergeRows { why });
                }
                row += 1;
            }
        }
        Ok(index)
    }

    /// For each row of a batch of the table, the row given with the same key. Nulls are equal to nothing.
    fn find(&self, batch: &RecordBatch, index: &Index) -> Result<Vec<Option<usize>>> {
        let columns = self.columns(batch)?;
        let keys = self.converter.convert_columns(&columns).map_err(Error::internal("compare keys"))?;
        let null = |row: usize| columns.iter().any(|column| column.is_null(row));
        Ok(keys.iter().enumerate().map(|(row, key)| index.get(key.data()).copied().filter(|_| !null(row))).collect())
    }
}

/// What was found in the table for the rows given.
struct Matches {
    /// Columns of the table that the rows given lack.
    lacking: Vec<usize>,
    before: SchemaRef,
    /// Values of the columns lacking, in matched rows.
    old: Vec<RecordBatch>,
    /// For each row given, the first row of `old` that it replaces.
    first: Vec<Option<(usize, usize)>>,
}

impl Matches {
    fn new(given: &Given, before: &SchemaRef, rows: usize) -> Self {
        let lacks = |column: &usize| given.rows.schema.index_of(before.field(*column).name()).is_err();
        let lacking = (0..before.fields().len()).filter(lacks).collect();
        Self { lacking, before: Arc::clone(before), old: Vec::new(), first: vec![None; rows] }
    }

    /// Notes the matched rows of a batch, and returns the others.
    fn take(&mut self, batch: &RecordBatch, owners: &[Option<usize>]) -> Result<RecordBatch> {
        let failed = |error| Error::internal("split matched rows")(error);
        let matched: BooleanArray = owners.iter().map(|owner| Some(owner.is_some())).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::new(self.before.project(&self.lacking).map_err(failed)?);
        let columns = self.lacking.iter().map(|&column| batch.column(column).clone()).collect();
        let old = RecordBatch::try_new_with_options(schema, columns, &options).map_err(failed)?;
        self.old.push(filter_record_batch(&old, &matched).map_err(failed)?);
        for (place, owner) in owners.iter().flatten().enumerate() {
            self.first[*owner].get_or_insert((self.old.len() - 1, place));
        }
        filter_record_batch(batch, &not(&matched).map_err(failed)?).map_err(failed)
    }

    /// Whether a marked row matched nothing.
    fn idle(&self, given: &Given) -> bool {
        let marks = given.marks.iter().flat_map(|marks| marks.values().iter());
        marks.zip(&self.first).any(|(marked, found)| marked && found.is_none())
    }

    /// The rows given with the columns they lack: old values where there were some, else null.
    fn filled(&self, given: Given) -> Result<Given> {
        if self.lacking.is_empty() {
            return Ok(given);
        }
        let failed = |error| Error::internal("keep old values")(error);
        let mut fields = given.rows.schema.fields().to_vec();
        fields.extend(self.lacking.iter().map(|&column| Arc::new(self.before.field(column).clone().with_nullable(true))));
        let schema = Arc::new(ArrowSchema::new(fields));
        let mut row = 0;
        let mut batches = Vec::new();
        for batch in &given.rows.batches {
            let found = &self.first[row..row + batch.num_rows()];
            row += batch.num_rows();
            let mut columns = batch.columns().to_vec();
            for (place, &column) in self.lacking.iter().enumerate() {
                let null = new_null_array(self.before.field(column).data_type(), 1);
                let mut values: Vec<&dyn Array> = self.old.iter().map(|old| old.column(place).as_ref()).collect();
                values.push(null.as_ref());
                let nothing = (values.len() - 1, 0);
                let places: Vec<(usize, usize)> = found.iter().map(|found| found.unwrap_or(nothing)).collect();
                columns.push(interleave(&values, &places).map_err(failed)?);
            }
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns).map_err(failed)?);
        }
        Ok(Given { rows: Rows { schema, batches }, marks: given.marks })
    }
}

/// The rows that are not marked.
fn unmarked(given: Given) -> Result<Rows> {
    let Rows { schema, batches } = given.rows;
    let failed = |error| Error::internal("leave out marked rows")(error);
    let mut left = Vec::new();
    for (batch, marks) in batches.into_iter().zip(&given.marks) {
        if marks.true_count() == 0 {
            left.push(batch);
        } else {
            left.push(filter_record_batch(&batch, &not(marks).map_err(failed)?).map_err(failed)?);
        }
    }
    left.retain(|batch| batch.num_rows() > 0);
    Ok(Rows { schema, batches: left })
}
