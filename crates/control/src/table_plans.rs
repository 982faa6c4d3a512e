//! Plans of tables: which columns a table for some files would have, as YAML that a person edits and hands back.
//!
//! ```yaml
//! table: trips
//! namespace: default
//! branch: main
//! schema_info:
//!   conflicts:                      # must be empty when the plan is applied
//!   - column_with_conflict: zone
//!     reconcile_step: leave one type under `dst_datatype`, and take this entry out
//!   detected_schemas:
//!   - column_name: zone
//!     src_datatypes: [{datatype: long, file: /d/1.parquet}, {datatype: string, file: /d/2.parquet}]
//!     dst_datatype: [{datatype: long}, {datatype: string}]     # exactly one when the plan is applied
//!   partitions:
//!   - {from_column_name: pickup, transform: {name: day}}
//! ```
//!
//! A `dst_datatype` may have a `parse_format` (`strptime`) for texts that become times, a `unit` (`us`, the only one there
//! is) and a `timezone` (`UTC`). What was chosen against a file's own type is noted in the table, so that imports cast.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use forebay_lake::{SourceColumn, parse_type, stored_name};
use forebay_types::{PartitionField, SortField};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A plan as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    pub(crate) table: String,
    pub(crate) namespace: String,
    pub(crate) branch: String,
    pub(crate) search_uri: String,
    #[serde(default)]
    pub(crate) replace: bool,
    pub(crate) schema_info: SchemaInfo,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SchemaInfo {
    #[serde(default)]
    pub(crate) conflicts: Vec<Conflict>,
    pub(crate) detected_schemas: Vec<Column>,
    #[serde(default)]
    partitions: Vec<Partition>,
    /// `ts desc nulls last`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sort_order: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Conflict {
    pub(crate) column_with_conflict: String,
    #[serde(default)]
    reconcile_step: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Column {
    column_name: String,
    #[serde(default)]
    src_datatypes: Vec<Source>,
    dst_datatype: Vec<Destination>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    datatype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    datatype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timezone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parse_format: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Partition {
    from_column_name: String,
    transform: Transform,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transform {
    /// `identity`, `day`, `bucket[16]`.
    name: String,
}

impl SchemaInfo {
    /// What was found in files.
    pub(crate) fn of(columns: &[SourceColumn], partition_by: &[PartitionField], sort_by: &[SortField]) -> Self {
        let conflict = |column: &SourceColumn| Conflict {
            column_with_conflict: column.name.clone(),
            reconcile_step: "leave one type under the column's `dst_datatype`, and take this entry out".to_owned(),
        };
        let detected = |column: &SourceColumn| {
            let seen = |(kind, file): &(DataType, String)| Source { datatype: stored_name(kind), file: Some(file.clone()) };
            let wanted =
                |kind: &DataType| Destination { datatype: stored_name(kind), unit: None, timezone: None, parse_format: None };
            Column {
                column_name: column.name.clone(),
                src_datatypes: column.seen.iter().map(seen).collect(),
                dst_datatype: column.choices().iter().map(wanted).collect(),
            }
        };
        let partition = |field: &PartitionField| Partition {
            from_column_name: field.column.clone(),
            transform: Transform { name: field.transform.to_string() },
        };
        Self {
            conflicts: columns.iter().filter(|column| column.kind.is_none()).map(conflict).collect(),
            detected_schemas: columns.iter().map(detected).collect(),
            partitions: partition_by.iter().map(partition).collect(),
            sort_order: sort_by.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Plan {
    /// The plan's text.
    pub(crate) fn to_yaml(&self) -> String {
        serde_yaml_ng::to_string(self).unwrap_or_default()
    }

    /// Reads a plan.
    pub(crate) fn from_yaml(text: &str) -> Result<Self, Error> {
        serde_yaml_ng::from_str(text).map_err(|error| Error::BadPlan { why: error.to_string() })
    }

    /// The table's columns, and the noted casts: from column to the format of its texts.
    pub(crate) fn schema(&self) -> Result<(SchemaRef, BTreeMap<String, Option<String>>), Error> {
        let bad = |why: String| Error::BadPlan { why };
        if let Some(conflict) = self.schema_info.conflicts.first() {
            let why = format!("it has schema conflicts and cannot be applied: column `{}`", conflict.column_with_conflict);
            return Err(bad(why));
        }
        let mut casts = BTreeMap::new();
        let mut fields = Vec::new();
        for column in &self.schema_info.detected_schemas {
            let [wanted] = column.dst_datatype.as_slice() else {
                let why = format!("column `{}` has {} types under `dst_datatype`", column.column_name, column.dst_datatype.len());
                return Err(bad(why));
            };
            let kind = wanted.kind().map_err(|why| bad(format!("column `{}`: {why}", column.column_name)))?;
            if wanted.parse_format.is_some() || column.src_datatypes.iter().any(|source| source.datatype != stored_name(&kind)) {
                casts.insert(column.column_name.clone(), wanted.parse_format.clone());
            }
            fields.push(Field::new(&column.column_name, kind, true));
        }
        Ok((std::sync::Arc::new(Schema::new(fields)), casts))
    }

    /// Partition fields.
    pub(crate) fn partition_by(&self) -> Result<Vec<PartitionField>, Error> {
        let field = |partition: &Partition| {
            let transform = partition.transform.name.parse().map_err(|why| Error::BadPlan { why })?;
            Ok(PartitionField { column: partition.from_column_name.clone(), transform })
        };
        self.schema_info.partitions.iter().map(field).collect()
    }

    /// The order of the rows of each file.
    pub(crate) fn sort_by(&self) -> Result<Vec<SortField>, Error> {
        self.schema_info.sort_order.iter().map(|field| field.parse().map_err(|why| Error::BadPlan { why })).collect()
    }
}

impl Destination {
    fn kind(&self) -> Result<DataType, String> {
        let kind = parse_type(&self.datatype).ok_or_else(|| format!("`{}` is not a type", self.datatype))?;
        let unit = self.unit.as_deref().unwrap_or("us");
        if unit != "us" {
            return Err(format!("the unit `{unit}` cannot be stored, only `us`"));
        }
        if self.parse_format.is_some() && !kind.is_temporal() {
            return Err(format!("a `parse_format` is for dates and timestamps, and the type is {}", self.datatype));
        }
        match (kind, self.timezone.as_deref()) {
            (kind, None) => Ok(kind),
            (DataType::Timestamp(unit, _), Some("UTC")) => Ok(DataType::Timestamp(unit, Some("UTC".into()))),
            (DataType::Timestamp(..), Some(zone)) => Err(format!("the zone `{zone}` cannot be stored, only `UTC`")),
            (_, Some(_)) => Err("only a timestamp has a `timezone`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let column = |name: &str, kind: Option<DataType>, seen: &[DataType]| SourceColumn {
            name: name.to_owned(),
            seen: seen.iter().map(|kind| (kind.clone(), format!("/d/{kind}.parquet"))).collect(),
            kind,
        };
        let columns = [
            column("id", Some(DataType::Int64), &[DataType::Int32, DataType::Int64]),
            column("zone", None, &[DataType::Int64, DataType::Boolean]),
            column("day", Some(DataType::Utf8), &[DataType::Utf8]),
        ];
        let partitions = forebay_types::parse_partition_fields("bucket(4, id), day(day)").unwrap();
        let order = forebay_types::parse_sort_fields("id desc").unwrap();
        Plan {
            table: "t".into(),
            namespace: "default".into(),
            branch: "main".into(),
            search_uri: "/d".into(),
            replace: false,
            schema_info: SchemaInfo::of(&columns, &partitions, &order),
        }
    }

    #[test]
    fn plans_are_read_as_they_are_written() {
        let plan = plan();
        let text = plan.to_yaml();
        assert_eq!(Plan::from_yaml(&text).unwrap(), plan, "{text}");
        assert!(text.contains("- column_with_conflict: zone") && text.contains("name: bucket[4]"), "{text}");
        assert_eq!(plan.partition_by().unwrap().len(), 2);
        assert_eq!(plan.sort_by().unwrap()[0].to_string(), "id desc");
        for damage in
            ["", "[]", "table: 1", "nothing: here", &text.replace("schema_info", "schema"), &text.replace("datatype:", "type:")]
        {
            assert!(Plan::from_yaml(damage).is_err(), "{damage}");
        }
    }

    #[test]
    fn a_plan_is_applied_when_it_says_one_thing() {
        let refused = |plan: &Plan| plan.schema().unwrap_err().to_string();
        let mut plan = plan();
        assert!(refused(&plan).contains("it has schema conflicts and cannot be applied: column `zone`"));
        plan.schema_info.conflicts.clear();
        assert!(refused(&plan).contains("column `zone` has 3 types"));
        plan.schema_info.detected_schemas[1].dst_datatype.drain(..2);
        let day = &mut plan.schema_info.detected_schemas[2].dst_datatype[0];
        (day.datatype, day.parse_format, day.timezone) = ("timestamp".into(), Some("%d.%m.%Y".into()), Some("UTC".into()));
        let (schema, casts) = plan.schema().unwrap();
        let kinds: Vec<String> = schema.fields().iter().map(|field| stored_name(field.data_type())).collect();
        assert_eq!(kinds, ["long", "string", "timestamptz"]);
        assert_eq!(casts["day"].as_deref(), Some("%d.%m.%Y"));
        assert_eq!((casts["zone"].clone(), casts["id"].clone(), casts.len()), (None, None, 3));
        for (datatype, unit, timezone, why) in [
            ("lng", None, None, "`lng` is not a type"),
            ("timestamp", Some("ns"), None, "only `us`"),
            ("timestamp", None, Some("Europe/Rome"), "only `UTC`"),
            ("string", None, None, "is for dates and timestamps"),
            ("date", None, Some("UTC"), "only a timestamp"),
        ] {
            let day = &mut plan.schema_info.detected_schemas[2].dst_datatype[0];
            (day.datatype, day.unit, day.timezone) = (datatype.into(), unit.map(str::to_owned), timezone.map(str::to_owned));
            assert!(refused(&plan).contains(why), "{why}: {}", refused(&plan));
        }
    }
}
