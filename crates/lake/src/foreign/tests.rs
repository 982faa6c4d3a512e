//! What other engines ask for is done or refused, and what is done is a table this crate reads.

use serde_json::{Value, json};

use super::*;

const ROOT: &str = "/lake/tables";
const NOW: i64 = 1_800_000_000_000;

fn rules() -> Rules {
    Rules::new(&format!("file://{ROOT}/"), NOW)
}

fn creation() -> Value {
    json!({
        "stage-create": true,
        "name": "t",
        "schema": {
            "type": "struct", "schema-id": 0, "identifier-field-ids": [],
            "fields": [
                { "id": 7, "name": "id", "type": "int", "required": false },
                { "id": 9, "name": "day", "type": "date", "required": false },
            ],
        },
        "partition-spec": { "spec-id": 0, "fields": [{ "source-id": 9, "field-id": 1000, "name": "day_m", "transform": "month" }] },
        "write-order": { "order-id": 0, "fields": [] },
        "properties": { "format-version": "2", "current-schema": "x", "owner": "ann" },
    })
}

fn table() -> Foreign {
    let made = Creation::parse(&creation()).unwrap().build(&format!("{ROOT}/n/t-1"), &rules()).unwrap();
    Foreign { file: Some(format!("{ROOT}/n/t-1/metadata/00000-x.metadata.json")), ..made }
}

fn snapshot(id: i64, sequence: i64, parent: Option<i64>) -> Value {
    json!({
        "action": "add-snapshot",
        "snapshot": {
            "snapshot-id": id, "sequence-number": sequence, "parent-snapshot-id": parent, "timestamp-ms": NOW + sequence,
            "manifest-list": format!("{ROOT}/n/t-1/metadata/snap-{id}.avro"), "summary": { "operation": "append" }, "schema-id": 0,
        },
    })
}

fn set_main(id: i64) -> Value {
    json!({ "action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": id })
}

fn append(id: i64, sequence: i64, parent: Option<i64>) -> Value {
    json!({
        "requirements": [{ "type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": parent }],
        "updates": [snapshot(id, sequence, parent), set_main(id)],
    })
}

fn updates(updates: Value) -> Value {
    json!({ "requirements": [], "updates": updates })
}

fn apply(base: Option<&Foreign>, body: &Value) -> Result<Foreign, Refusal> {
    Change::parse(body)?.apply(base, &rules())
}

fn json_of(table: &Foreign) -> Value {
    serde_json::from_str(table.json()).unwrap()
}

#[test]
fn a_creation_is_numbered_anew_and_keeps_files() {
    let made = json_of(&table());
    let fields = made["schemas"][0]["fields"].as_array().unwrap();
    assert_eq!(fields.iter().map(|field| &field["id"]).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(made["partition-specs"][0]["fields"][0]["source-id"], 2);
    assert_eq!(made["properties"], json!({ "owner": "ann", "gc.enabled": "false" }));
    assert_eq!((&made["format-version"], &made["location"]), (&json!(2), &json!(format!("{ROOT}/n/t-1"))));
}

#[test]
fn a_staged_table_is_made_from_its_updates_alone() {
    let staged = json_of(&table());
    let create = json!({
        "requirements": [{ "type": "assert-create" }],
        "updates": [
            { "action": "assign-uuid", "uuid": staged["table-uuid"] },
            { "action": "upgrade-format-version", "format-version": 2 },
            { "action": "add-schema", "schema": staged["schemas"][0], "last-column-id": 2 },
            { "action": "set-current-schema", "schema-id": 0 },
            { "action": "add-spec", "spec": staged["partition-specs"][0] },
            { "action": "set-default-spec", "spec-id": -1 },
            { "action": "add-sort-order", "sort-order": { "order-id": 0, "fields": [] } },
            { "action": "set-default-sort-order", "sort-order-id": -1 },
            { "action": "set-location", "location": format!("file://{}", staged["location"].as_str().unwrap()) },
            { "action": "set-properties", "updates": { "format-version": "2", "owner": "ann" } },
            snapshot(5, 1, None),
            set_main(5),
        ],
    });
    let change = Change::parse(&create).unwrap();
    assert_eq!((change.creates(), change.leaves_a_mark(), change.verb()), (true, true, "create"));
    let made = change.clone().apply(None, &rules()).unwrap();
    assert_eq!(json_of(&made)["table-uuid"], staged["table-uuid"]);
    assert_eq!((json_of(&made)["current-snapshot-id"].as_i64(), made.location()), (Some(5), "/lake/tables/n/t-1"));
    assert!(change.is_done(&made), "sent again, it is known");
    assert!(matches!(change.apply(Some(&made), &rules()), Err(Refusal::Outdated(_))));
    // Ids that files were not written for are refused.
    let mut other = create;
    other["updates"][2]["schema"]["fields"][0]["id"] = json!(4);
    assert!(matches!(apply(None, &other), Err(Refusal::Invalid(_))));
}

#[test]
fn appends_follow_each_other_and_are_known_again() {
    let empty = table();
    let first = apply(Some(&empty), &append(11, 1, None)).unwrap();
    let second = apply(Some(&first), &append(12, 2, Some(11))).unwrap();
    assert_eq!(json_of(&second)["current-snapshot-id"], 12);
    let change = Change::parse(&append(11, 1, None)).unwrap();
    assert_eq!(change.verb(), "append to");
    assert!(change.is_done(&first) && change.is_done(&second) && !change.is_done(&empty));
    // A writer that looked at the empty table.
    assert!(matches!(apply(Some(&first), &append(13, 1, None)), Err(Refusal::Outdated(_))));
    // Two snapshots in one body, as an overwrite of PyIceberg's and a transaction of DuckDB's have.
    let both = updates(json!([snapshot(21, 1, None), set_main(21), snapshot(22, 2, Some(21)), set_main(22)]));
    let both = apply(Some(&empty), &both).unwrap();
    assert_eq!(json_of(&both)["snapshots"].as_array().unwrap().len(), 2);
}

#[test]
fn other_requirements_are_held_to() {
    let base = table();
    let uuid = json_of(&base)["table-uuid"].clone();
    let with = |requirement: Value| {
        let body = json!({ "requirements": [requirement], "updates": [{ "action": "set-properties", "updates": { "a": "b" } }] });
        apply(Some(&base), &body)
    };
    with(json!({ "type": "assert-table-uuid", "uuid": uuid })).unwrap();
    with(json!({ "type": "assert-current-schema-id", "current-schema-id": 0 })).unwrap();
    for outdated in [
        json!({ "type": "assert-create" }),
        json!({ "type": "assert-table-uuid", "uuid": "0191e8f5-0000-7000-8000-000000000000" }),
        json!({ "type": "assert-current-schema-id", "current-schema-id": 3 }),
        json!({ "type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": 3 }),
        json!({ "type": "assert-last-assigned-field-id", "last-assigned-field-id": 99 }),
    ] {
        assert!(matches!(with(outdated.clone()), Err(Refusal::Outdated(_))), "{outdated}");
    }
    assert!(matches!(with(json!({ "type": "assert-weather" })), Err(Refusal::Invalid(_))));
}

#[test]
fn what_would_harm_the_table_or_the_lake_is_refused() {
    let base = apply(Some(&table()), &append(11, 1, None)).unwrap();
    let without_day =
        json!({ "type": "struct", "schema-id": 1, "fields": [{ "id": 1, "name": "id", "type": "int", "required": false }] });
    let huge = json!({ "type": "struct", "schema-id": 1, "fields": [
        { "id": 1, "name": "id", "type": "int", "required": false }, { "id": 2, "name": "day", "type": "date", "required": false },
        { "id": i32::MAX, "name": "x", "type": "int", "required": false }] });
    let spoilt = |key: &str, value: Value| {
        let mut one = snapshot(12, 2, Some(11));
        one["snapshot"][key] = value;
        json!([one])
    };
    for body in [
        json!([{ "action": "set-location", "location": "/etc" }]),
        json!([{ "action": "set-location", "location": format!("{ROOT}/../x") }]),
        json!([{ "action": "set-location", "location": ROOT }]),
        json!([{ "action": "set-location", "location": format!("{ROOT}-other/t") }]),
        json!([{ "action": "set-location", "location": "s3://bucket/t" }]),
        json!([{ "action": "set-properties", "updates": { "gc.enabled": "true" } }]),
        json!([{ "action": "remove-properties", "removals": ["gc.enabled"] }]),
        json!([{ "action": "remove-snapshot-ref", "ref-name": "main" }]),
        json!([{ "action": "remove-snapshots", "snapshot-ids": [11] }]),
        json!([{ "action": "set-snapshot-ref", "ref-name": "dev", "type": "branch", "snapshot-id": 11 }]),
        json!([{ "action": "set-snapshot-ref", "ref-name": "v1", "type": "tag", "snapshot-id": 11 }]),
        json!([{ "action": "set-snapshot-ref", "ref-name": "main", "type": "tag", "snapshot-id": 11 }]),
        json!([{ "action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": 999 }]),
        json!([{ "action": "upgrade-format-version", "format-version": 3 }]),
        json!([{ "action": "upgrade-format-version", "format-version": 1 }]),
        json!([{ "action": "add-schema", "schema": without_day }, { "action": "set-current-schema", "schema-id": -1 }]),
        json!([{ "action": "add-schema", "schema": huge }, { "action": "set-current-schema", "schema-id": -1 }]),
        json!([{ "action": "set-current-schema", "schema-id": 77 }]),
        json!([{ "action": "set-default-spec", "spec-id": 77 }]),
        json!([{ "action": "brew-coffee" }]),
        json!([snapshot(11, 2, Some(11))]),
        spoilt("manifest-list", json!("/etc/passwd")),
        spoilt("snapshot-id", json!(-1)),
        spoilt("snapshot-id", json!("twelve")),
        spoilt("sequence-number", json!(i64::MAX)),
        spoilt("timestamp-ms", json!(i64::MAX)),
        spoilt("timestamp-ms", json!(i64::MIN)),
        spoilt("timestamp-ms", json!(0)),
        json!("no list"),
        json!([1]),
    ] {
        let refused = apply(Some(&base), &updates(body.clone()));
        assert!(matches!(refused, Err(Refusal::Invalid(_) | Refusal::Unsupported(_))), "{body}: {refused:?}");
    }
    assert!(matches!(apply(Some(&base), &updates(spoilt("sequence-number", json!(1)))), Err(Refusal::Outdated(_))));
}

#[test]
fn creations_that_make_no_sense() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut body = creation();
        change(&mut body);
        let made = Creation::parse(&body).and_then(|creation| creation.build(&format!("{ROOT}/n/t"), &rules()));
        assert!(matches!(made, Err(Refusal::Invalid(_) | Refusal::Unsupported(_))), "{body}");
    };
    refused(&|body| body["name"] = Value::Null);
    refused(&|body| body["schema"] = Value::Null);
    refused(&|body| body["schema"]["fields"] = json!([]));
    refused(&|body| body["schema"]["fields"][0]["type"] = json!("spreadsheet"));
    refused(&|body| body["schema"]["fields"][0]["id"] = json!(9));
    refused(&|body| body["partition-spec"]["fields"][0]["source-id"] = json!(99));
    refused(&|body| body["partition-spec"]["fields"][0]["transform"] = json!("bucket[0]"));
    refused(&|body| body["partition-spec"]["fields"][0]["transform"] = json!("by the stars"));
    refused(&|body| body["properties"]["format-version"] = json!("3"));
    refused(&|body| body["properties"]["gc.enabled"] = json!("true"));
    refused(&|body| body["properties"] = json!([1]));
    let outside = Creation::parse(&creation()).unwrap().build("/elsewhere/t", &rules());
    assert!(matches!(outside, Err(Refusal::Invalid(_))));
    let mut old = creation();
    old["properties"]["format-version"] = json!("1");
    let old = Creation::parse(&old).unwrap().build(&format!("{ROOT}/n/t"), &rules()).unwrap();
    assert_eq!(json_of(&old)["format-version"], 1);
}

#[test]
fn deep_json_is_refused_before_it_gets_here() {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(serde_json::from_str::<Value>(&deep).is_err());
    let mut kind = json!("int");
    for _ in 0..30 {
        kind = json!({ "type": "list", "element-id": 3, "element": kind, "element-required": false });
    }
    let mut body = creation();
    body["schema"]["fields"][0]["type"] = kind;
    let made = Creation::parse(&body).and_then(|creation| creation.build(&format!("{ROOT}/n/t"), &rules()));
    assert!(matches!(made, Ok(_) | Err(Refusal::Invalid(_))));
}

#[tokio::test]
async fn metadata_is_stored_and_admitted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tables");
    let rules = Rules::new(root.to_str().unwrap(), NOW);
    let location = root.join("n/t");
    let made = Creation::parse(&creation()).unwrap().build(location.to_str().unwrap(), &rules).unwrap();
    let file = made.store().unwrap();
    let read = Foreign::load(&file).await.unwrap();
    assert_eq!((read.location(), read.file()), (made.location(), Some(file.as_str())));
    read.admit(&rules).unwrap();
    assert!(crate::load(&file).await.unwrap().fields.len() == 2);
    let elsewhere = Rules::new("/other/tables", NOW);
    assert!(matches!(read.admit(&elsewhere), Err(Refusal::Invalid(_))));
    std::fs::write(&file, "no json").unwrap();
    assert!(Foreign::load(&file).await.is_err());
}
