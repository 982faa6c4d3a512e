//! The transaction of a run, with tables that no function wrote: what lands, and what is left when it does not.

use forebay_types::TableName;

use super::*;
use crate::api::Actor;
use crate::home::Home;

/// A service, a lake and a project of one model that is written to `default.t`.
struct Lab {
    root: tempfile::TempDir,
    service: Arc<Service>,
    lake: Arc<crate::service::Lake>,
    connection: Connection,
    run: api::Run,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(&root.path().join("home")).unwrap();
        home.prepare().unwrap();
        let service = Arc::new(Service::open(&home).unwrap());
        let lake = service.lake(&format!("file://{}", root.path().join("lake").display()), &StorageOptions::default()).unwrap();
        let project = root.path().join("project");
        std::fs::create_dir(&project).unwrap();
        std::fs::write(project.join("forebay.toml"), "[project]\nname = \"p\"\n").unwrap();
        std::fs::write(project.join("t.sql"), "-- forebay: materialization_strategy=REPLACE\nSELECT 1 AS x\n").unwrap();
        let run = serde_json::from_value(json!({ "project_dir": project, "ref": "main" })).unwrap();
        Self { root, service, lake, connection: Connection::none(), run }
    }

    fn session(&self) -> Session<'_> {
        let author = Actor { name: "ann".into(), email: String::new() };
        let (lake, storage) = (Arc::clone(&self.lake), StorageOptions::default());
        Session { service: &self.service, lake, author, storage, connection: &self.connection }
    }

    fn job(&self) -> JobHandle {
        self.service.jobs.start(&NewJob { kind: "run", user: "ann", lake: &self.lake.uri, at: "main" }).unwrap()
    }

    fn head(&self, branch: &str) -> Ref {
        self.lake.catalog.resolve(&branch.parse().unwrap()).unwrap()
    }

    fn tables(&self, at: &Ref) -> Vec<String> {
        let tree = self.lake.catalog.tree(&at.hash).unwrap();
        tree.tables.iter().map(|(table, entry)| format!("{table} {}", entry.metadata_location)).collect()
    }

    /// Every commit in the store that `main` does not contain, whether a ref names it or not.
    fn loose_commits(&self) -> Vec<forebay_catalog::Commit> {
        let catalog = &self.lake.catalog;
        let known: Vec<_> = catalog.log(&self.head("main").hash).map(|commit| commit.unwrap().hash).collect();
        let folders = std::fs::read_dir(self.root.path().join("lake/catalog/objects")).unwrap();
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
        let names = files.filter_map(|file| file.unwrap().file_name().to_str()?.parse().ok());
        names.filter(|hash| !known.contains(hash)).filter_map(|hash| catalog.get_commit(&hash).ok()).collect()
    }
}

fn written(location: &str) -> WrittenTable {
    let table = TableName::parse("t", "default").unwrap();
    WrittenTable { table, metadata_location: location.to_owned(), base: None }
}

#[test]
fn a_run_lands_as_one_commit() {
    let lab = Lab::new();
    let (session, job, at) = (lab.session(), lab.job(), lab.head("main"));
    let attempt = Attempt { session: &session, run: &lab.run, secrets: Secrets::default(), job: &job };
    let planned = planned(&session, &lab.run, None, &at).unwrap();
    attempt.publish(&planned, &at, &[]).unwrap();
    assert_eq!(lab.head("main").hash, at.hash, "nothing was written, so there is no commit");
    attempt.publish(&planned, &at, &[written("/t/1.json")]).unwrap();
    let commit = lab.lake.catalog.get_commit(&lab.head("main").hash).unwrap();
    assert_eq!((commit.parents.as_slice(), commit.message.as_str()), ([at.hash].as_slice(), "Run p\n\n- default.t"));
    assert_eq!(commit.properties[JOB_PROPERTY], job.id());
    assert!(lab.loose_commits().is_empty());
}

#[test]
fn a_run_that_loses_leaves_its_tables_to_look_at_and_nothing_to_merge() {
    let lab = Lab::new();
    let (session, job, at) = (lab.session(), lab.job(), lab.head("main"));
    let attempt = Attempt { session: &session, run: &lab.run, secrets: Secrets::default(), job: &job };
    let planned = planned(&session, &lab.run, None, &at).unwrap();
    let temporary = Temporary::create(&session, job.id(), &at).unwrap();
    // Another run of the same project was first.
    attempt.publish(&planned, &at, &[written("/t/first.json")]).unwrap();
    let lost = attempt.publish(&planned, &at, &[written("/t/second.json")]).unwrap_err();
    assert_eq!((lost.code.as_str(), lost.hint.is_some()), ("CAT0004", true));
    assert_eq!(attempt.leave(&planned, &temporary, &at, &[written("/t/second.json")]), ["default.t"]);

    let left = lab.head(temporary.name.as_str());
    assert_eq!(lab.tables(&left), ["default.t /t/second.json"]);
    assert_eq!(left.failed_job.as_deref(), Some(job.id()));
    let loose = lab.loose_commits();
    assert_eq!(loose.len(), 1);
    for commit in loose {
        let merge = lab.lake.catalog.merge(
            &commit.hash,
            &"main".parse().unwrap(),
            &CommitInfo::default(),
            forebay_catalog::FastForward::Allowed,
        );
        assert!(matches!(merge, Err(forebay_catalog::Error::Tainted { .. })), "{commit:?}");
    }
    assert_eq!(lab.tables(&lab.head("main")), ["default.t /t/first.json"]);
}

#[test]
fn a_branch_is_marked_even_if_its_tables_cannot_be_kept() {
    let lab = Lab::new();
    let (session, job, at) = (lab.session(), lab.job(), lab.head("main"));
    let attempt = Attempt { session: &session, run: &lab.run, secrets: Secrets::default(), job: &job };
    let planned = planned(&session, &lab.run, None, &at).unwrap();
    let temporary = Temporary::create(&session, job.id(), &at).unwrap();
    // Somebody wrote to the branch of a run under way; its tables would be in conflict with theirs.
    let theirs = attempt.changes(&planned, &at, &[written("/t/theirs.json")]).unwrap();
    lab.lake.catalog.commit(&temporary.name, &at.hash, &theirs, &CommitInfo::default(), None).unwrap();
    assert_eq!(attempt.leave(&planned, &temporary, &at, &[written("/t/ours.json")]), Vec::<String>::new());
    assert_eq!(lab.head(temporary.name.as_str()).failed_job.as_deref(), Some(job.id()));
}

#[test]
fn reasons_of_copies_have_their_names() {
    use forebay_sipc::call::CopyReason::{Compacted, Elsewhere, Rebased, Rewritten};
    assert_eq!([Elsewhere, Rewritten, Rebased, Compacted].map(forebay_sipc::call::CopyReason::as_str), api::COPY_REASONS);
}
