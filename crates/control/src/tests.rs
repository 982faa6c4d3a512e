//! The protocol pinned as text, and the daemon over a real socket in a home of its own: everything that needs no
//! function process. Runs and queries to their end are in the end-to-end tests, which have the binary.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use forebay_catalog::{Catalog, Changes, CommitInfo, TableEntry};
use forebay_types::TableName;
use serde_json::{Value, json};

use crate::api::{self, Actor, Op, Request};
use crate::client::{self, Client};
use crate::home::Home;
use crate::server::Server;
use crate::service::Service;

/// A daemon on a thread, with a lake beside it.
struct Daemon {
    root: tempfile::TempDir,
    home: Home,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(&root.path().join("home")).unwrap();
        home.prepare().unwrap();
        let server = Server::bind(&home).unwrap();
        let thread = Some(std::thread::spawn(move || server.run(Duration::from_secs(3600)).unwrap()));
        Self { root, home, thread }
    }

    fn lake(&self) -> String {
        format!("file://{}", self.root.path().join("lake").display())
    }

    fn catalog(&self) -> Catalog {
        Catalog::open(&self.root.path().join("lake/catalog")).unwrap()
    }

    fn client(&self) -> Client {
        client::running(&self.home).unwrap().expect("the daemon runs").0
    }

    fn try_ask(&self, op: Value) -> Result<Value, api::Error> {
        let author = Actor { name: "ann".into(), email: "ann@example.org".into() };
        let op: Op = serde_json::from_value(op).expect("a request of the protocol");
        let request = Request { v: api::VERSION, lake: self.lake(), author, op };
        self.client().call(&request, &mut |_| ()).map(|answer| answer.result)
    }

    fn ask(&self, op: Value) -> Value {
        let said = op.to_string();
        self.try_ask(op).unwrap_or_else(|error| panic!("{said}: {error:?}"))
    }

    fn code(&self, op: Value) -> String {
        let said = op.to_string();
        self.try_ask(op).expect_err(&said).code
    }

    /// An empty table on `main`, as an import or run would leave it.
    fn put_table(&self, name: &str) {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)]));
        let location = self.root.path().join("lake/tables").join(name).display().to_string();
        let partition_by = forebay_types::parse_partition_fields("n").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let properties = [("comment".to_owned(), "numbers".to_owned())];
        let made = runtime.block_on(forebay_lake::create(&location, &schema, &partition_by, &[], &properties)).unwrap();
        let catalog = self.catalog();
        let head = catalog.resolve(&"main".parse().unwrap()).unwrap().hash;
        let put = [(TableName::parse(name, "default").unwrap(), TableEntry::new(made))].into();
        let changes = Changes { put, ..Changes::default() };
        catalog.commit(&"main".parse().unwrap(), &head, &changes, &CommitInfo::default(), None).unwrap();
    }

    fn project(&self, file: &str, text: &str) -> String {
        let folder = self.root.path().join("project");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("forebay.toml"), "[project]\nname = \"p\"\n").unwrap();
        std::fs::write(folder.join(file), text).unwrap();
        folder.display().to_string()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let stopped = client::stop(&self.home).unwrap_or(false);
        if let Some(thread) = self.thread.take().filter(|_| stopped && !std::thread::panicking()) {
            thread.join().unwrap();
        }
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn branches_and_tags() {
    let daemon = Daemon::start();
    let main = daemon.ask(json!({ "op": "branch.get", "name": "main" }));
    assert_eq!(main["type"], "BRANCH");
    let made = daemon.ask(json!({ "op": "branch.create", "name": "ann.x", "from": "main" }));
    assert_eq!(made["hash"], main["hash"]);
    daemon.ask(json!({ "op": "branch.create", "name": "ann.x", "from": "main", "if_not_exists": true }));
    assert_eq!(daemon.code(json!({ "op": "branch.create", "name": "ann.x", "from": "main" })), "CAT0003");
    daemon.ask(json!({ "op": "tag.create", "name": "v1", "from": "main" }));
    let all = daemon.ask(json!({ "op": "branch.list" }));
    assert_eq!(names(&all), ["ann.x", "main"]);
    assert_eq!(names(&daemon.ask(json!({ "op": "branch.list", "name": "^a.*$" }))), ["ann.x"]);
    assert_eq!(names(&daemon.ask(json!({ "op": "branch.list", "limit": 1 }))), ["ann.x"]);
    assert_eq!(names(&daemon.ask(json!({ "op": "tag.list", "name": "v1" }))), ["v1"]);
    assert_eq!(daemon.ask(json!({ "op": "tag.rename", "name": "v1", "new_name": "v2" }))["name"], "v2");
    assert_eq!(daemon.ask(json!({ "op": "branch.rename", "name": "ann.x", "new_name": "ann.y" }))["name"], "ann.y");

    assert_eq!(daemon.code(json!({ "op": "branch.get", "name": "v2" })), "CTL0014");
    assert_eq!(daemon.code(json!({ "op": "tag.get", "name": "main" })), "CTL0026");
    assert_eq!(daemon.code(json!({ "op": "branch.get", "name": "nobody" })), "CAT0001");
    assert_eq!(daemon.code(json!({ "op": "branch.list", "name": "^($" })), "CTL0021");
    assert_eq!(daemon.code(json!({ "op": "branch.create", "name": "a b", "from": "main" })), "CTL0022");

    assert_eq!(daemon.ask(json!({ "op": "branch.delete", "name": "ann.y" })), json!({ "deleted": true }));
    assert_eq!(daemon.ask(json!({ "op": "branch.delete", "name": "ann.y", "if_exists": true })), json!({ "deleted": false }));
    assert_eq!(daemon.ask(json!({ "op": "tag.delete", "name": "v2" })), json!({ "deleted": true }));
}

#[test]
fn namespaces_commits_and_merges() {
    let daemon = Daemon::start();
    daemon.ask(json!({ "op": "branch.create", "name": "b", "from": "main" }));
    let words = json!({ "op": "namespace.create", "name": "raw", "branch": "b", "message": "Why", "body": "Because", "properties": { "k": "v" } });
    let after = daemon.ask(words);
    assert_eq!(names(&daemon.ask(json!({ "op": "namespace.list", "ref": "b" }))), ["default", "raw"]);
    assert_eq!(names(&daemon.ask(json!({ "op": "namespace.list", "ref": "main" }))), ["default"]);
    daemon.ask(json!({ "op": "namespace.create", "name": "raw", "branch": "b", "if_not_exists": true }));
    assert_eq!(daemon.code(json!({ "op": "namespace.create", "name": "raw", "branch": "b" })), "CAT0003");

    let merged = daemon.ask(json!({ "op": "branch.merge", "source": "b", "into": "main" }));
    assert_eq!(merged["hash"], after["hash"]);
    let log = daemon.ask(json!({ "op": "commit.list", "ref": "main", "properties": { "k": "v" } }));
    assert_eq!(log.as_array().unwrap().len(), 1);
    assert_eq!((&log[0]["message"], &log[0]["author"]["email"]), (&json!("Why\n\nBecause"), &json!("ann@example.org")));
    assert_eq!(daemon.ask(json!({ "op": "commit.list", "ref": "main", "author_name": "^an+$" })).as_array().unwrap().len(), 1);
    assert_eq!(daemon.ask(json!({ "op": "commit.list", "ref": "main", "limit": 1 })).as_array().unwrap().len(), 1);
    assert_eq!(daemon.ask(json!({ "op": "commit.list", "ref": "main", "message": "no" })), json!([]));

    daemon.ask(json!({ "op": "namespace.delete", "name": "raw", "branch": "main" }));
    daemon.ask(json!({ "op": "namespace.delete", "name": "raw", "branch": "main", "if_exists": true }));
    assert_eq!(daemon.code(json!({ "op": "namespace.delete", "name": "raw", "branch": "main" })), "CAT0015");
    assert_eq!(daemon.code(json!({ "op": "branch.merge", "source": "b", "into": "nowhere" })), "CTL0015");
    let at = format!("main@{}", after["hash"].as_str().unwrap());
    assert_eq!(daemon.code(json!({ "op": "namespace.create", "name": "x", "branch": at })), "CTL0014");
}

#[test]
fn tables() {
    let daemon = Daemon::start();
    daemon.put_table("numbers");
    daemon.ask(json!({ "op": "tag.create", "name": "before", "from": "main" }));
    assert_eq!(
        daemon.ask(json!({ "op": "table.list", "ref": "main" })),
        json!([{ "namespace": "default", "name": "numbers", "kind": "TABLE" }])
    );
    assert_eq!(daemon.ask(json!({ "op": "table.list", "ref": "main", "namespace": "raw" })), json!([]));
    let table = daemon.ask(json!({ "op": "table.get", "name": "default.numbers", "ref": "main" }));
    assert_eq!(table["fields"][0]["type"], "long");
    assert_eq!(table["partitions"], json!([{ "name": "n", "transform": "identity" }]));
    assert_eq!((&table["records"], &table["comment"]), (&json!(0), &json!("numbers")));

    let hint = daemon.try_ask(json!({ "op": "table.get", "name": "nubmers", "ref": "main" })).unwrap_err();
    assert_eq!((hint.code.as_str(), hint.hint.as_deref()), ("CTL0019", Some("did you mean `default.numbers`?")));
    assert_eq!(
        daemon.code(json!({ "op": "table.get", "name": "raw.numbers", "ref": "main", "namespace": "default" })),
        "CTL0023"
    );
    let create = json!({ "op": "table.create", "name": "numbers", "search_uri": "/none/*.csv", "branch": "main" });
    assert_eq!(daemon.code(create), "CTL0020");

    daemon.ask(json!({ "op": "table.delete", "name": "numbers", "branch": "main" }));
    assert_eq!(daemon.code(json!({ "op": "table.delete", "name": "numbers", "branch": "main" })), "CTL0019");
    daemon.ask(json!({ "op": "table.delete", "name": "numbers", "branch": "main", "if_exists": true }));
    let diff = daemon.ask(json!({ "op": "branch.diff", "a": "before", "b": "main" }));
    assert_eq!((&diff["added"], &diff["removed"], &diff["changed"]), (&json!([]), &json!(["default.numbers"]), &json!([])));
    let [table] = diff["tables"].as_array().unwrap().as_slice() else { panic!("{diff}") };
    assert_eq!((&table["change"], &table["before"]["records"], &table["after"]), (&json!("removed"), &json!(0), &json!(null)));
    assert_eq!(table["columns"].as_array().unwrap().len(), 2);
    let names = daemon.ask(json!({ "op": "branch.diff", "a": "before", "b": "main", "names_only": true }));
    assert_eq!((&names["removed"], &names["tables"]), (&json!(["default.numbers"]), &json!([])));
    assert_eq!(daemon.code(json!({ "op": "branch.merge", "source": "main", "into": "main" })), "CTL0027");
    assert_eq!(daemon.code(json!({ "op": "commit.list", "ref": "main", "since": "soon" })), "CTL0023");
    assert_eq!(daemon.code(json!({ "op": "commit.revert", "branch": "main" })), "CTL0009");
}

#[test]
fn runs_that_fail_before_a_function_starts() {
    let daemon = Daemon::start();
    let run = |dir: &str, at: &str| daemon.ask(json!({ "op": "run", "project_dir": dir, "ref": at }));
    let project =
        daemon.project("m.py", "import forebay\n\n@forebay.model()\ndef m(x=forebay.Model('nothing')):\n    return x\n");
    for (dir, at, code) in
        [("/nowhere", "main", "CTL0011"), (project.as_str(), "mian", "CTL0015"), (project.as_str(), "main", "PLN0018")]
    {
        let result = run(dir, at);
        assert_eq!((&result["status"], &result["error"]["code"]), (&json!("FAILED"), &json!(code)));
        let job = daemon.ask(json!({ "op": "job.get", "id": result["job_id"] }));
        assert_eq!((&job["status"], &job["error"]["code"]), (&json!("FAILED"), &json!(code)));
    }
    // A run that never began leaves no branch.
    assert_eq!(names(&daemon.ask(json!({ "op": "branch.list" }))), ["main"]);
    assert_eq!(daemon.ask(json!({ "op": "job.list", "statuses": ["FAILED"], "limit": 2 })).as_array().unwrap().len(), 2);
    assert_eq!(daemon.code(json!({ "op": "job.get", "id": "0000" })), "CTL0016");

    let detached = daemon.ask(json!({ "op": "run", "project_dir": project, "ref": "main", "detach": true }));
    assert_eq!(detached["status"], "RUNNING");
    // Stopping waits for the end, whatever it is by now.
    let job = daemon.ask(json!({ "op": "job.stop", "id": detached["job_id"] }));
    assert_ne!(job["status"], "RUNNING");
    assert_eq!(daemon.code(json!({ "op": "plan", "project_dir": project, "ref": "main" })), "PLN0018");
}

/// The smallest service and session, for what a socket cannot show without a race.
#[test]
fn a_cancelled_run_says_so() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path()).unwrap();
    home.prepare().unwrap();
    let service = Arc::new(Service::open(&home).unwrap());
    let lake = service.lake(&home.default_lake()).unwrap();
    let connection = crate::connection::Connection::none();
    let author = Actor { name: "ann".into(), email: String::new() };
    let session = crate::service::Session { service: &service, lake, author, connection: &connection };
    let run = serde_json::from_value(json!({ "project_dir": "/p", "ref": "main" })).unwrap();
    let new = crate::jobs::NewJob { kind: "run", user: "ann", lake: "/l", at: "main" };
    let job = service.jobs.start(&new).unwrap();
    job.cancel().cancel("it was stopped");
    let result = crate::runs::run_job(&session, &run, job);
    let error = result.error.unwrap();
    assert_eq!((result.status.as_str(), error.code.as_str()), ("CANCELLED", "CTL0018"));
    assert_eq!(service.jobs.get(&result.job_id).unwrap().status, "CANCELLED");
    assert_eq!(result.failed_branch, None);
}

#[test]
fn plans_know_the_tables() {
    let daemon = Daemon::start();
    daemon.put_table("numbers");
    let project = daemon.project("m.sql", "SELECT n FROM numbers WHERE n > 1");
    let plan = daemon.ask(json!({ "op": "plan", "project_dir": project, "ref": "main" }));
    assert!(plan["drawing"].as_str().unwrap().contains("numbers"), "{plan}");
    let error = daemon.try_ask(json!({ "op": "query", "sql": "DELETE FROM numbers", "ref": "main" })).unwrap_err();
    assert!(error.code.starts_with("PLN"), "{error:?}");
    let jobs = daemon.ask(json!({ "op": "job.list", "kinds": ["query"] }));
    assert_eq!(jobs[0]["status"], "FAILED");
}

/// What is there when a daemon starts after another was killed in the middle of a run.
struct Killed {
    root: tempfile::TempDir,
    home: Home,
    catalog: Catalog,
    id: String,
}

impl Killed {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(&root.path().join("home")).unwrap();
        home.prepare().unwrap();
        let lake = root.path().join("lake");
        let catalog = Catalog::open(&lake.join("catalog")).unwrap();
        let id = uuid::Uuid::now_v7().to_string();
        let record = json!({
            "id": id, "kind": "run", "user": "ann", "status": "RUNNING", "created_at": "2026-01-01T00:00:00.000Z",
            "finished_at": null, "lake": format!("file://{}", lake.display()), "ref": "main", "error": null, "result": null,
        });
        std::fs::create_dir_all(home.jobs_dir().join(&id)).unwrap();
        std::fs::write(home.jobs_dir().join(&id).join("job.json"), record.to_string()).unwrap();
        let killed = Self { root, home, catalog, id };
        killed.catalog.create_branch(&killed.branch(), &killed.main()).unwrap();
        killed
    }

    fn branch(&self) -> forebay_types::BranchName {
        format!("forebay-run-{}", self.id).parse().unwrap()
    }

    fn main(&self) -> forebay_types::CommitHash {
        self.catalog.resolve(&"main".parse().unwrap()).unwrap().hash
    }

    /// The run's commit on its branch.
    fn commit(&self) -> forebay_types::CommitHash {
        let changes = Changes { create_namespaces: ["made".to_owned()].into(), ..Changes::default() };
        let properties = [("forebay.job".to_owned(), self.id.clone())].into();
        let info = CommitInfo { properties, ..CommitInfo::default() };
        self.catalog.commit(&self.branch(), &self.main(), &changes, &info, None).unwrap()
    }

    fn restart(&self) -> Service {
        Service::open(&self.home).unwrap()
    }
}

#[test]
fn a_killed_run_leaves_nothing_to_merge() {
    let killed = Killed::new();
    let before = killed.main();
    killed.commit();
    let service = killed.restart();
    let job = service.jobs.get(&killed.id).unwrap();
    assert_eq!((job.status.as_str(), job.error.unwrap().code.as_str()), ("FAILED", "CTL0017"));
    assert_eq!(killed.main(), before);
    let left = killed.catalog.resolve(&forebay_types::RefSpec::Name(killed.branch())).unwrap();
    assert_eq!(left.failed_job.as_deref(), Some(killed.id.as_str()));
    let merge =
        killed.catalog.merge(&left.hash, &"main".parse().unwrap(), &CommitInfo::default(), forebay_catalog::FastForward::Allowed);
    assert!(matches!(merge, Err(forebay_catalog::Error::Tainted { .. })));
    assert!(killed.root.path().exists());
}

#[test]
fn a_run_that_was_merged_has_succeeded() {
    let killed = Killed::new();
    let commit = killed.commit();
    killed
        .catalog
        .merge(&commit, &"main".parse().unwrap(), &CommitInfo::default(), forebay_catalog::FastForward::Allowed)
        .unwrap();
    let service = killed.restart();
    let job = service.jobs.get(&killed.id).unwrap();
    assert_eq!((job.status.as_str(), job.error), ("SUCCESS", None));
    assert!(killed.catalog.resolve(&forebay_types::RefSpec::Name(killed.branch())).is_err());
    assert_eq!(killed.main(), commit);
}

/// Every operation, as clients write it today. A change here is a change of protocol.
#[test]
fn requests_keep_their_form() {
    for text in include_str!("golden/requests.jsonl").lines() {
        let request: Request = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let again = serde_json::to_value(&request).unwrap();
        let Value::Object(said) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        for (key, value) in &said {
            assert_eq!(again.get(key), Some(value), "{key} of {text}");
        }
        assert_eq!(serde_json::to_value(serde_json::from_value::<Request>(again.clone()).unwrap()).unwrap(), again);
    }
}

/// Records of jobs that ran before a run told its totals and why bytes were copied.
#[test]
fn records_of_older_versions_load() {
    let node = json!({ "name": "m", "kind": "python", "status": "done", "rows": 3, "bytes": 24, "seconds": 0.5, "bytes_copied": 24,
        "bytes_referenced": 0, "bytes_reshared": 0, "bytes_inline": 0, "cache": "none" });
    let result = json!({ "schema": 1, "job_id": "0", "status": "SUCCESS", "ref": null, "nodes": [node], "error": null });
    let result: api::RunResult = serde_json::from_value(result).unwrap();
    assert_eq!(result.bytes, api::Bytes::default());
    let node = &result.nodes[0];
    assert_eq!((node.copies.len(), node.receive_seconds, node.moved().total()), (0, None, 24));
}

/// Every answer and event, as clients read it today.
#[test]
fn answers_keep_their_form() {
    fn same<T: serde::Serialize + serde::de::DeserializeOwned>(value: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(value.clone()).unwrap()).unwrap()
    }
    for text in include_str!("golden/answers.jsonl").lines() {
        let value: Value = serde_json::from_str(text).unwrap();
        let (kind, value) = (value["is"].as_str().unwrap(), &value["value"]);
        let again = match kind {
            "event" => same::<api::Event>(value),
            "run" => same::<api::RunResult>(value),
            "ref" => same::<api::Ref>(value),
            "commit" => same::<api::Commit>(value),
            "table" => same::<api::Table>(value),
            "query" => same::<api::QueryResult>(value),
            "import" => same::<api::ImportResult>(value),
            "job" => same::<api::Job>(value),
            "error" => same::<api::Error>(value),
            "daemon" => same::<api::Daemon>(value),
            other => panic!("{other} is no kind of answer"),
        };
        assert_eq!(&again, value, "{text}");
    }
}
