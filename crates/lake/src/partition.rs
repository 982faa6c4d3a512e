//! Partition specs from what a user writes, and rows split by partition.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch, StructArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Fields};
use arrow::row::{RowConverter, SortField};
use forebay_types::{PartitionField, Transform};
use iceberg::arrow::{arrow_struct_to_literal, type_to_arrow_type};
use iceberg::spec::{
    Literal, PartitionSpec, PrimitiveType, Schema, Struct, Transform as IcebergTransform, Type, UnboundPartitionSpec,
};
use iceberg::transform::create_transform_function;

use crate::error::{Cause, Error, Result, nearest};
use crate::join;
use crate::schema::type_name;

/// Partitions one write may touch: each becomes a file with its own entry in a manifest.
pub const PARTITIONS_MAX: usize = 10_000;

/// The Iceberg transform.
fn transform(transform: Transform) -> IcebergTransform {
    match transform {
        Transform::Identity => IcebergTransform::Identity,
        Transform::Year => IcebergTransform::Year,
        Transform::Month => IcebergTransform::Month,
        Transform::Day => IcebergTransform::Day,
        Transform::Hour => IcebergTransform::Hour,
        Transform::Bucket(buckets) => IcebergTransform::Bucket(buckets),
        Transform::Truncate(width) => IcebergTransform::Truncate(width),
    }
}

/// Checks the fields against the schema and makes the spec.
pub(crate) fn spec(schema: &Schema, fields: &[PartitionField]) -> Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder();
    let mut taken: Vec<String> = Vec::new();
    for field in fields {
        let source = schema.as_struct().field_by_name(&field.column).ok_or_else(|| Error::PartitionColumn {
            field: field.to_string(),
            column: field.column.clone(),
            near: nearest(&field.column, schema.as_struct().fields().iter().map(|field| field.name.as_str())),
        })?;
        let transform = transform(field.transform);
        if transform.result_type(&source.field_type).is_err() {
            return Err(Error::PartitionType {
                field: field.to_string(),
                column: field.column.clone(),
                kind: type_name(&source.field_type),
                hint: type_hint(field, &source.field_type),
            });
        }
        let name = field_name(schema, field, &taken);
        builder = builder.add_partition_field(source.id, &name, transform).map_err(Error::internal("make the partition spec"))?;
        taken.push(name);
    }
    Ok(builder.build())
}

fn type_hint(field: &PartitionField, kind: &Type) -> String {
    let column = &field.column;
    match (field.transform, kind) {
        (_, Type::Struct(_) | Type::List(_) | Type::Map(_)) => "partition by a column that is not nested".to_owned(),
        (Transform::Bucket(_), _) => format!("floats and booleans are not hashed; use `{column}`"),
        (Transform::Truncate(_), _) => format!("only whole numbers, decimals, strings and binaries are cut; use `{column}`"),
        (_, Type::Primitive(PrimitiveType::Date)) => format!("use `year({column})`, `month({column})` or `day({column})`"),
        _ => format!("only dates and timestamps have years, months, days and hours; use `{column}`"),
    }
}

/// `country`, `ts_day`; made of letters, digits and `_` because Avro names its fields so, and unlike any column
/// but its own.
fn field_name(schema: &Schema, field: &PartitionField, taken: &[String]) -> String {
    let mut name = String::new();
    for (index, c) in field.column.chars().enumerate() {
        match c {
            '_' | 'a'..='z' | 'A'..='Z' => name.push(c),
            '0'..='9' if index > 0 => name.push(c),
            '0'..='9' => name.extend(['_', c]),
            other => name.push_str(&format!("_x{:X}", u32::from(other))),
        }
    }
    if field.transform != Transform::Identity {
        name = format!("{name}_{}", field.transform.word());
    }
    let is_column =
        |name: &str| schema.field_by_name(name).is_some() && (name != field.column || field.transform != Transform::Identity);
    while is_column(&name) || taken.contains(&name) {
        name.push_str("_part");
    }
    name
}

/// The partition fields of a spec as the user writes them; `None` if one is not ours (over a nested field).
pub(crate) fn fields_of(spec: &PartitionSpec, schema: &Schema) -> Option<Vec<PartitionField>> {
    spec.fields()
        .iter()
        .filter(|field| field.transform != IcebergTransform::Void)
        .map(|field| {
            let transform = match field.transform {
                IcebergTransform::Identity => Transform::Identity,
                IcebergTransform::Year => Transform::Year,
                IcebergTransform::Month => Transform::Month,
                IcebergTransform::Day => Transform::Day,
                IcebergTransform::Hour => Transform::Hour,
                IcebergTransform::Bucket(buckets) => Transform::Bucket(buckets),
                IcebergTransform::Truncate(width) => Transform::Truncate(width),
                IcebergTransform::Void | IcebergTransform::Unknown => return None,
            };
            let column = schema.as_struct().fields().iter().find(|column| column.id == field.source_id)?;
            Some(PartitionField { column: column.name.clone(), transform })
        })
        .collect()
}

/// The rows of one partition.
pub(crate) struct Group {
    /// The partition tuple.
    pub values: Struct,
    /// Its rows, in the order they came.
    pub batches: Vec<RecordBatch>,
}

/// Splits rows of the stored schema by partition, ordered by partition value, nulls first.
pub(crate) fn split(batches: Vec<RecordBatch>, schema: &Schema, spec: &PartitionSpec) -> Result<Vec<Group>> {
    let batches: Vec<RecordBatch> = batches.into_iter().filter(|batch| batch.num_rows() > 0).collect();
    if spec.is_unpartitioned() || batches.is_empty() {
        let groups = vec![Group { values: Struct::empty(), batches }];
        return Ok(groups.into_iter().filter(|group| !group.batches.is_empty()).collect());
    }
    let kind = spec.partition_type(schema).map_err(Error::internal("type the partition"))?;
    let DataType::Struct(fields) =
        type_to_arrow_type(&Type::Struct(kind.clone())).map_err(Error::internal("type the partition"))?
    else {
        unreachable!("a struct type becomes a struct type");
    };
    let sort: Vec<SortField> = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let converter = RowConverter::new(sort).map_err(Error::internal("compare partitions"))?;
    let mut groups: BTreeMap<Vec<u8>, Group> = BTreeMap::new();
    for batch in &batches {
        let values = transformed(batch, schema, spec, &fields)?;
        let rows = converter.convert_columns(&values).map_err(Error::internal("compare partitions"))?;
        let mut members: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
        for (index, row) in rows.iter().enumerate() {
            let index = u32::try_from(index).expect("a batch has fewer than 2^32 rows");
            members.entry(row.data()).or_default().push(index);
        }
        for (key, indices) in members {
            if !groups.contains_key(key) {
                if groups.len() == PARTITIONS_MAX {
                    return Err(Error::TooManyPartitions { partitions: groups.len() + 1, limit: PARTITIONS_MAX });
                }
                let first = UInt32Array::from(vec![indices[0]]);
                let tuple = values
                    .iter()
                    .map(|column| arrow::compute::take(column, &first, None))
                    .collect::<Result<Vec<ArrayRef>, _>>()
                    .map_err(Error::internal("take a partition's value"))?;
                let tuple = StructArray::new(fields.clone(), tuple, None);
                let values = arrow_struct_to_literal(&(std::sync::Arc::new(tuple) as ArrayRef), &kind)
                    .map_err(Error::internal("turn a partition into an Iceberg value"))?;
                let Some(Some(Literal::Struct(values))) = values.into_iter().next() else {
                    unreachable!("one struct goes in, one comes out");
                };
                groups.insert(key.to_vec(), Group { values, batches: Vec::new() });
            }
            let part = if indices.len() == batch.num_rows() {
                batch.clone()
            } else {
                take_record_batch(batch, &UInt32Array::from(indices)).map_err(Error::internal("split rows"))?
            };
            groups.get_mut(key).expect("inserted above").batches.push(part);
        }
    }
    groups.into_values().map(join_small).collect()
}

/// Many small input batches must not become many small pages.
fn join_small(mut group: Group) -> Result<Group> {
    if group.batches.len() > 1 {
        let schema = group.batches[0].schema();
        group.batches = join::small(&schema, group.batches)?;
    }
    Ok(group)
}

/// The partition columns of a batch, as `fields` say.
fn transformed(batch: &RecordBatch, schema: &Schema, spec: &PartitionSpec, fields: &Fields) -> Result<Vec<ArrayRef>> {
    let failed = |error: Cause| Error::internal("apply the partition transform")(error);
    spec.fields()
        .iter()
        .zip(fields)
        .map(|(field, wanted)| {
            let column = schema
                .as_struct()
                .fields()
                .iter()
                .position(|source| source.id == field.source_id)
                .ok_or_else(|| failed("its column is gone or nested".into()))?;
            let column = match batch.column(column).data_type() {
                // The crate cuts small binaries only.
                DataType::LargeBinary => cast(batch.column(column), &DataType::Binary).map_err(|error| failed(error.into()))?,
                _ => batch.column(column).clone(),
            };
            let values = create_transform_function(&field.transform).and_then(|function| function.transform(column));
            cast(&values.map_err(|error| failed(error.into()))?, wanted.data_type()).map_err(|error| failed(error.into()))
        })
        .collect()
}
