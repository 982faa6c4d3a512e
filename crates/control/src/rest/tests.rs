//! The site without HTTP: what is answered, what is committed. Recorded requests of real clients are in [`recorded`].

mod recorded;

use std::sync::Mutex;

use forebay_catalog::{Catalog, Changes, TableEntry};
use forebay_types::{BranchName, Coded as _, TableName};
use serde_json::{Value, json};

use super::error::Error;
use super::route::route;
use super::site::{Answer, Call, Next, Site, Step, View};
use crate::api::Actor;

/// A lake in a folder of its own, and the site of it.
struct Lab {
    folder: tempfile::TempDir,
    site: Site,
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let site = Site {
            catalog: Catalog::open(&folder.path().join("catalog")).unwrap(),
            tables_root: folder.path().join("tables").display().to_string(),
            author: Actor { name: "ann".to_owned(), email: String::new() },
            runtime: runtime.handle().clone(),
            loaded: Mutex::default(),
        };
        Self { folder, site, _runtime: runtime }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer, Error> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let address = route(method, path, query)?;
        let call = Call { at: address.at, endpoint: address.endpoint, body: body.into(), client: "a test\n".into() };
        self.site.answer(&call)
    }

    /// The answer to a request about `main` that must succeed.
    fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, &format!("/iceberg/main/v1/{path}"), &body.to_string());
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {}", error.report()));
        if answer.body.is_empty() { Value::Null } else { serde_json::from_str(&answer.body).unwrap() }
    }

    /// Status and code of a request about `main` that must fail.
    fn refused(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let error = self.ask(method, &format!("/iceberg/main/v1/{path}"), &body.to_string()).unwrap_err();
        let body: Value = serde_json::from_str(&error.body()).unwrap();
        assert_eq!(body["error"]["code"], error.status().0);
        assert!(body["error"]["message"].as_str().unwrap().contains(&error.report().code.0));
        (error.status().0, error.report().code.0)
    }

    fn commits(&self) -> Vec<forebay_catalog::Commit> {
        let head = self.site.catalog.branches().unwrap().remove(0).hash;
        self.site.catalog.log(&head).collect::<Result<_, _>>().unwrap()
    }
}

fn table(name: &str) -> Value {
    let fields = json!([{ "id": 1, "name": "x", "type": "int", "required": false }]);
    json!({ "name": name, "schema": { "type": "struct", "schema-id": 0, "fields": fields } })
}

fn set(key: &str, value: &str) -> Value {
    json!({ "requirements": [], "updates": [{ "action": "set-properties", "updates": { key: value } }] })
}

#[test]
fn a_table_from_its_making_to_its_end() {
    let lab = Lab::new();
    lab.ok("POST", "namespaces", &json!({ "namespace": ["raw"], "properties": {} }));
    let made = lab.ok("POST", "namespaces/raw/tables", &table("t"));
    let location = made["metadata-location"].as_str().unwrap().to_owned();
    assert!(std::fs::metadata(&location).is_ok() && location.starts_with(&lab.site.tables_root));
    let changed = lab.ok("POST", "namespaces/raw/tables/t", &set("owner", "bob"));
    assert_eq!(changed["metadata"]["properties"], json!({ "owner": "bob", "gc.enabled": "false" }));
    assert_eq!(lab.ok("GET", "namespaces/raw/tables/t", &Value::Null), lab.ok("GET", "namespaces/raw/tables/t", &Value::Null));
    lab.ok(
        "POST",
        "tables/rename",
        &json!({ "source": { "namespace": ["raw"], "name": "t" }, "destination": { "namespace": ["default"], "name": "u" } }),
    );
    assert_eq!(
        lab.ok("GET", "namespaces/default/tables", &Value::Null),
        json!({ "identifiers": [{ "namespace": ["default"], "name": "u" }] })
    );
    lab.ok("DELETE", "namespaces/default/tables/u?purgeRequested=true", &Value::Null);
    lab.ok("DELETE", "namespaces/raw", &Value::Null);
    assert!(std::fs::metadata(&location).is_ok(), "files stay");
    let commits = lab.commits();
    let words: Vec<&str> = commits.iter().map(|commit| commit.message.as_str()).collect();
    assert_eq!(
        words,
        [
            "Delete the namespace `raw`",
            "Delete the table `default.u`",
            "Rename the table `raw.t` to `default.u`",
            "Change `raw.t`",
            "Create the table `raw.t`",
            "Create the namespace `raw`",
            "Create the lake",
        ]
    );
    assert_eq!((commits[0].author_name.as_str(), commits[0].properties["forebay.client"].as_str()), ("ann", "a test"));
}

#[test]
fn each_refusal_has_its_status_and_code() {
    let lab = Lab::new();
    lab.ok("POST", "namespaces/default/tables", &table("t"));
    let before = lab.commits().len();
    let rename = |to: &str| json!({ "source": { "namespace": ["default"], "name": "t" }, "destination": { "namespace": [to], "name": "t" } });
    let mut outdated = set("a", "b");
    outdated["requirements"] = json!([{ "type": "assert-current-schema-id", "current-schema-id": 9 }]);
    let create = json!({ "requirements": [{ "type": "assert-create" }], "updates": [{ "action": "set-properties", "updates": { "a": "b" } }] });
    let view = json!({ "name": "v" });
    for (method, path, body, status, code) in [
        ("POST", "namespaces", json!(3), 400, "RST0001"),
        ("POST", "namespaces", json!({ "namespace": ["a", "b"] }), 400, "RST0001"),
        ("POST", "namespaces", json!({ "namespace": ["a.b"] }), 400, "CTL0022"),
        ("POST", "namespaces", json!({ "namespace": ["default"] }), 409, "CAT0003"),
        ("POST", "namespaces", json!({ "namespace": ["a"], "properties": { "k": "v" } }), 406, "RST0008"),
        ("POST", "namespaces/default/properties", json!({ "updates": { "k": "v" } }), 406, "RST0008"),
        ("DELETE", "namespaces/default", json!(null), 403, "CAT0007"),
        ("DELETE", "namespaces/nothing", json!(null), 404, "CAT0015"),
        ("GET", "namespaces/default/tables/u", json!(null), 404, "CTL0019"),
        ("GET", "namespaces/nothing/tables/u", json!(null), 404, "CAT0015"),
        ("POST", "namespaces/default/tables", table("t"), 409, "CTL0020"),
        ("POST", "namespaces/nothing/tables", table("t"), 404, "CAT0015"),
        ("POST", "namespaces/default/tables", table("a/b"), 400, "CTL0022"),
        ("POST", "namespaces/default/tables/t", outdated, 409, "RST0004"),
        ("POST", "namespaces/default/tables/t", set("gc.enabled", "true"), 400, "RST0005"),
        ("POST", "namespaces/default/tables/u", set("a", "b"), 404, "CTL0019"),
        ("POST", "namespaces/default/tables/t", create, 409, "CTL0020"),
        ("POST", "tables/rename", rename("nothing"), 404, "CAT0015"),
        ("POST", "tables/rename", rename("default"), 409, "CTL0020"),
        ("POST", "namespaces/default/register", json!({ "name": "r", "metadata-location": "/x" }), 400, "RST0005"),
        ("POST", "namespaces/default/views", view, 404, "RST0003"),
    ] {
        assert_eq!(lab.refused(method, path, &body), (status, code.to_owned()), "{method} {path}");
    }
    assert_eq!(lab.commits().len(), before);
    assert_eq!(lab.ask("GET", "/iceberg/mian/v1/config", "").unwrap_err().status().0, 404);
}

#[test]
fn a_transaction_is_one_commit_or_none() {
    let lab = Lab::new();
    for name in ["a", "b", "c"] {
        lab.ok("POST", "namespaces/default/tables", &table(name));
    }
    let part = |name: &str, schema: i64| {
        json!({ "identifier": { "namespace": ["default"], "name": name },
            "requirements": [{ "type": "assert-current-schema-id", "current-schema-id": schema }],
            "updates": [{ "action": "set-properties", "updates": { "k": name } }] })
    };
    let before = lab.commits().len();
    let files = || walk(lab.folder.path());
    let there = files();
    let transaction = json!({ "table-changes": [part("a", 0), part("b", 5)] });
    assert_eq!(lab.refused("POST", "transactions/commit", &transaction), (409, "RST0004".to_owned()));
    assert_eq!((lab.commits().len(), files()), (before, there), "no commit, and no file");
    let twice = json!({ "table-changes": [part("a", 0), part("a", 0)] });
    assert_eq!(lab.refused("POST", "transactions/commit", &twice), (400, "RST0001".to_owned()));
    let many: Vec<Value> = (0..1001).map(|n| part(&format!("t{n}"), 0)).collect();
    assert_eq!(lab.refused("POST", "transactions/commit", &json!({ "table-changes": many })).0, 400);
    lab.ok("POST", "transactions/commit", &json!({ "table-changes": [part("a", 0), part("c", 0)] }));
    assert_eq!((lab.commits().len(), lab.commits()[0].message.as_str()), (before + 1, "Change `default.a`, change `default.c`"));
    lab.ok("POST", "transactions/commit", &json!({ "table-changes": [] }));
    assert_eq!(lab.commits().len(), before + 1, "nothing to do is no commit");
}

fn walk(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn other_tables_may_move_and_this_one_is_looked_at_again() {
    let lab = Lab::new();
    lab.ok("POST", "namespaces/default/tables", &table("t"));
    let main: BranchName = "main".parse().unwrap();
    let found = lab.site.catalog.resolve(&"main".parse().unwrap()).unwrap();
    let view = View::of(&lab.site, found, "main");
    let disturb = |name: &str, location: &str| {
        let head = lab.site.catalog.resolve(&"main".parse().unwrap()).unwrap().hash;
        let table = TableName::new("default", name).unwrap();
        let changes = Changes { put: [(table, TableEntry::new(location))].into(), ..Changes::default() };
        lab.site.catalog.commit(&main, &head, &changes, &forebay_catalog::CommitInfo::default(), None).unwrap();
    };
    let step = |location: &str| {
        let put = [(TableName::new("default", "t").unwrap(), TableEntry::new(location))].into();
        Ok(Step::Commit(Box::new(Next { changes: Changes { put, ..Changes::default() }, ..Next::default() })))
    };
    let mut asked = 0;
    view.land(|_| {
        asked += 1;
        disturb("other", &format!("/{asked}"));
        step("/mine")
    })
    .unwrap();
    assert_eq!(asked, 1, "another table does not matter");
    let mut asked = 0;
    view.land(|_| {
        asked += 1;
        if asked < 3 {
            disturb("t", &format!("/theirs-{asked}"));
        }
        step("/mine")
    })
    .unwrap();
    assert_eq!(asked, 3, "asked again each time the table moved");
    let mut asked = 0;
    let error = view.land(|_| {
        asked += 1;
        disturb("t", &format!("/always-{asked}"));
        step("/mine")
    });
    let error = error.unwrap_err();
    assert_eq!((error.status().0, error.report().code.0.as_str()), (503, "RST0012"));
}

#[test]
fn every_code_has_a_page() {
    let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    for number in 1..=12 {
        let code = format!("RST{number:04}");
        let page = std::fs::read_to_string(pages.join(format!("{code}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {code}: ")), "{code}");
    }
}
