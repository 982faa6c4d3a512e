//! Job records: what ran, how it ended, what it printed. They outlive the daemon.
//!
//! ```text
//! <state>/jobs/<uuid v7>/job.json    one api::Job, replaced in one step
//! <state>/jobs/<uuid v7>/log.jsonl   {"timestamp","node","stream","line"} a line
//! <state>/jobs/<uuid v7>/environments/<hash>.lock   exact packages of an environment, with the hashes of their files
//! ```
//!
//! Invariants: only the daemon that holds the home's lock writes here; a record that says `RUNNING` while no
//! daemon runs belongs to a daemon that was killed, and [`Jobs::open`] ends it. Ids sort by time.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::api;
use crate::cancel::Cancel;
use crate::config::replace_file;
use crate::error::{Error, Result};
use crate::limits::{JOB_LOG_BYTES_MAX, JOBS_KEPT_MAX};

/// The job is at work.
pub const RUNNING: &str = "RUNNING";
/// It did what was asked.
pub const SUCCESS: &str = "SUCCESS";
/// It did not, and changed nothing.
pub const FAILED: &str = "FAILED";
/// It was ended early, and changed nothing.
pub const CANCELLED: &str = "CANCELLED";

/// The records of one home.
#[derive(Debug)]
pub struct Jobs {
    dir: PathBuf,
    running: Mutex<HashMap<String, Running>>,
    ended: Condvar,
}

#[derive(Debug, Clone)]
struct Running {
    cancel: Cancel,
}

/// What a new job is about.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// `run query table-create table-plan-create table-plan-apply table-import external-table-create`
    pub kind: &'static str,
    /// Who asked.
    pub user: &'a str,
    /// URI of the lake.
    pub lake: &'a str,
    /// Ref it works at.
    pub at: &'a str,
}

/// Which jobs a list holds; an empty list of ids, kinds or statuses lets all pass.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// Ids or their prefixes.
    pub ids: &'a [String],
    /// Kinds.
    pub kinds: &'a [String],
    /// Statuses.
    pub statuses: &'a [String],
}

impl Jobs {
    /// Opens the records and ends those of a daemon that was killed. These are returned as they are now.
    pub fn open(dir: PathBuf) -> Result<(Self, Vec<api::Job>)> {
        std::fs::create_dir_all(&dir).map_err(Error::storage("create the folder", &dir))?;
        let jobs = Self { dir, running: Mutex::default(), ended: Condvar::new() };
        let mut orphans = jobs.read_all()?;
        orphans.retain(|job| job.status == RUNNING);
        for job in &mut orphans {
            job.status = FAILED.to_owned();
            job.finished_at = Some(now());
            job.error = Some(Error::DaemonKilled.into());
            jobs.write(job)?;
        }
        jobs.prune()?;
        Ok((jobs, orphans))
    }

    /// Starts a job. Dropping the handle without [`JobHandle::finish`] ends it as failed.
    pub fn start(self: &Arc<Self>, new: &NewJob<'_>) -> Result<JobHandle> {
        self.prune()?;
        let job = api::Job {
            id: uuid::Uuid::now_v7().to_string(),
            kind: new.kind.to_owned(),
            user: new.user.to_owned(),
            status: RUNNING.to_owned(),
            created_at: now(),
            finished_at: None,
            lake: new.lake.to_owned(),
            at: Some(new.at.to_owned()),
            error: None,
            result: None,
        };
        let dir = self.dir.join(&job.id);
        std::fs::create_dir(&dir).map_err(Error::storage("create the folder", &dir))?;
        self.write(&job)?;
        let path = dir.join("log.jsonl");
        let log = File::options().create(true).append(true).open(&path).map_err(Error::storage("create", path))?;
        let cancel = Cancel::default();
        self.lock().insert(job.id.clone(), Running { cancel: cancel.clone() });
        let log = Mutex::new(Log { file: log, bytes: 0 });
        Ok(JobHandle { jobs: Arc::clone(self), job: Some(job), cancel, log, environments: Mutex::default() })
    }

    /// Replaces the record of a job that does not run.
    pub fn amend(&self, job: &api::Job) -> Result<()> {
        self.write(job)
    }

    /// How many jobs run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.lock().len()
    }

    /// Jobs that pass, newest first.
    pub fn list(&self, wanted: &Wanted<'_>) -> Result<Vec<api::Job>> {
        let passes = |list: &[String], value: &str| list.is_empty() || list.iter().any(|item| item.eq_ignore_ascii_case(value));
        let mut jobs = self.read_all()?;
        jobs.retain(|job| {
            (wanted.ids.is_empty() || wanted.ids.iter().any(|id| job.id.starts_with(id.as_str())))
                && passes(wanted.kinds, &job.kind)
                && passes(wanted.statuses, &job.status)
        });
        jobs.sort_unstable_by(|a, b| b.id.cmp(&a.id));
        Ok(jobs)
    }

    /// The job of that id, or of the only id with that prefix.
    pub fn get(&self, id: &str) -> Result<api::Job> {
        let mut ids: Vec<String> = self.ids()?.into_iter().filter(|known| !id.is_empty() && known.starts_with(id)).collect();
        let missing = |matches| Error::NoJob { id: id.to_owned(), matches };
        match (ids.pop(), ids.is_empty()) {
            (Some(id), true) => self.read(&id).ok_or_else(|| missing(Vec::new())),
            (Some(last), false) => {
                ids.push(last);
                ids.sort_unstable();
                ids.truncate(5);
                Err(missing(ids))
            }
            (None, _) => Err(missing(Vec::new())),
        }
    }

    /// What a job printed. A last line that a kill cut off is left out.
    pub fn logs(&self, id: &str) -> Result<Vec<Value>> {
        let path = self.dir.join(self.get(id)?.id).join("log.jsonl");
        let bytes = std::fs::read(&path).map_err(Error::storage("read", path))?;
        let lines = bytes.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Cancels a job and waits until it has ended. A job that has ended is returned as it is.
    pub fn stop(&self, id: &str) -> Result<api::Job> {
        let id = self.get(id)?.id;
        let running = self.lock().get(&id).cloned();
        if let Some(running) = running {
            running.cancel.cancel("it was stopped");
            let mut guard = self.lock();
            while guard.contains_key(&id) {
                guard = self.ended.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.get(&id)
    }

    /// Cancels every running job and waits until all have ended.
    pub fn stop_all(&self, why: &'static str) {
        let cancels: Vec<Cancel> = self.lock().values().map(|running| running.cancel.clone()).collect();
        for cancel in cancels {
            cancel.cancel(why);
        }
        let mut guard = self.lock();
        while !guard.is_empty() {
            guard = self.ended.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ids(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.dir).map_err(Error::storage("read the folder", &self.dir))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| uuid::Uuid::parse_str(name).is_ok()).collect())
    }

    fn read_all(&self) -> Result<Vec<api::Job>> {
        Ok(self.ids()?.iter().filter_map(|id| self.read(id)).collect())
    }

    /// A record that cannot be read (a crash of the machine) counts as absent.
    fn read(&self, id: &str) -> Option<api::Job> {
        serde_json::from_slice(&std::fs::read(self.dir.join(id).join("job.json")).ok()?).ok()
    }

    fn write(&self, job: &api::Job) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(job).expect("a job is JSON");
        replace_file(&self.dir.join(&job.id).join("job.json"), &bytes)
    }

    /// Removes the oldest ended jobs beyond the cap.
    fn prune(&self) -> Result<()> {
        let mut ids = self.ids()?;
        if ids.len() < JOBS_KEPT_MAX {
            return Ok(());
        }
        ids.sort_unstable();
        let excess = ids.len() + 1 - JOBS_KEPT_MAX;
        let running: Vec<String> = self.lock().keys().cloned().collect();
        for id in ids.iter().filter(|id| !running.contains(id)).take(excess) {
            remove(&self.dir.join(id));
        }
        Ok(())
    }
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(dir = %dir.display(), %error, "could not remove an old job");
    }
}

#[derive(Debug)]
struct Log {
    file: File,
    bytes: u64,
}

/// A running job, owned by the thread that does its work.
#[derive(Debug)]
pub struct JobHandle {
    jobs: Arc<Jobs>,
    job: Option<api::Job>,
    cancel: Cancel,
    log: Mutex<Log>,
    environments: Mutex<Vec<api::Environment>>,
}

impl JobHandle {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.job.as_ref().expect("the record is taken only by `finish`").id
    }

    /// The switch that ends it.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Adds a line to its log. A full disk loses the line, never the job.
    pub fn log(&self, node: &str, stream: &str, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.bytes > JOB_LOG_BYTES_MAX {
            return;
        }
        let mut entry = json!({ "timestamp": now(), "node": node, "stream": stream, "line": line }).to_string();
        entry.push('\n');
        log.bytes += entry.len() as u64;
        if log.bytes > JOB_LOG_BYTES_MAX {
            let last = "the log is full; what follows is not kept";
            entry = json!({ "timestamp": now(), "node": "", "stream": "system", "line": last }).to_string() + "\n";
        }
        if let Err(error) = log.file.write_all(entry.as_bytes()) {
            tracing::warn!(job = self.id(), %error, "could not write the log of a job");
        }
    }

    /// Remembers an environment that its functions have, and keeps its lock.
    pub fn keep_environment(&self, environment: &forebay_worker::Environment, pinned: bool) {
        let mut kept = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().any(|known| known.hash == environment.hash) {
            return;
        }
        let packages = environment.packages.iter().cloned().collect();
        kept.push(api::Environment { hash: environment.hash.clone(), python: environment.version.clone(), packages, pinned });
        let folder = self.jobs.dir.join(self.id()).join("environments");
        let file = folder.join(format!("{}.lock", environment.hash));
        let write = || std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, environment.lock_text()));
        if let Err(error) = write() {
            tracing::warn!(job = self.id(), %error, "could not keep the lock of an environment");
        }
    }

    /// The environments that its functions have had so far.
    #[must_use]
    pub fn environments(&self) -> Vec<api::Environment> {
        self.environments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the job: writes its record, then wakes who waits for it.
    pub fn finish(mut self, status: &str, error: Option<api::Error>, result: Option<Value>) {
        self.end(status, error, result);
    }

    fn end(&mut self, status: &str, error: Option<api::Error>, result: Option<Value>) {
        let Some(mut job) = self.job.take() else { return };
        job.status = status.to_owned();
        job.finished_at = Some(now());
        job.error = error;
        job.result = result;
        if let Err(error) = self.jobs.write(&job) {
            tracing::error!(job = job.id, %error, "could not write the record of a job");
        }
        self.jobs.lock().remove(&job.id);
        self.jobs.ended.notify_all();
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        let why = "the job ended without a result".to_owned();
        self.end(FAILED, Some(Error::Defect { op: "job".to_owned(), why }.into()), None);
    }
}

/// The time as records and protocol write it: RFC 3339, UTC, milliseconds.
#[must_use]
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use forebay_types::Coded;

    use super::*;

    fn open(dir: &Path) -> (Arc<Jobs>, Vec<api::Job>) {
        let (jobs, orphans) = Jobs::open(dir.to_owned()).unwrap();
        (Arc::new(jobs), orphans)
    }

    fn start(jobs: &Arc<Jobs>, kind: &'static str) -> JobHandle {
        jobs.start(&NewJob { kind, user: "ann", lake: "file:///l", at: "main" }).unwrap()
    }

    #[test]
    fn records_list_newest_first_and_filter() {
        let dir = tempfile::tempdir().unwrap();
        let (jobs, _) = open(dir.path());
        let ids: Vec<String> = ["run", "query", "run"]
            .map(|kind| {
                let job = start(&jobs, kind);
                let id = job.id().to_owned();
                job.finish(SUCCESS, None, Some(json!({ "n": 1 })));
                id
            })
            .to_vec();
        let listed: Vec<String> = jobs.list(&Wanted::default()).unwrap().into_iter().map(|job| job.id).collect();
        assert_eq!(listed, [ids[2].clone(), ids[1].clone(), ids[0].clone()]);
        let kinds = ["QUERY".to_owned()];
        assert_eq!(jobs.list(&Wanted { kinds: &kinds, ..Wanted::default() }).unwrap().len(), 1);
        assert_eq!(jobs.get(&ids[1][..35]).unwrap().result, Some(json!({ "n": 1 })));
    }

    #[test]
    fn ids_that_fit_none_or_many() {
        let dir = tempfile::tempdir().unwrap();
        let (jobs, _) = open(dir.path());
        assert_eq!(jobs.get("0").unwrap_err().report().code.0, "CTL0016");
        let (a, b) = (start(&jobs, "run"), start(&jobs, "run"));
        let report = jobs.get(&a.id()[..1]).unwrap_err().report();
        assert!(report.hint.unwrap().contains(b.id()));
    }

    #[test]
    fn a_killed_daemon_leaves_failed_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let (jobs, _) = open(dir.path());
        let job = start(&jobs, "run");
        job.log("m", "stdout", "hello");
        let id = job.id().to_owned();
        // What a kill leaves behind: the record as it was, the log cut off in a line.
        std::mem::forget(job);
        let log = dir.path().join(&id).join("log.jsonl");
        File::options().append(true).open(log).unwrap().write_all(b"{\"timest").unwrap();

        let (jobs, orphans) = open(dir.path());
        assert_eq!(orphans.len(), 1);
        let job = jobs.get(&id).unwrap();
        assert_eq!((job.status.as_str(), job.error.unwrap().code.as_str()), (FAILED, "CTL0017"));
        let logs = jobs.logs(&id).unwrap();
        assert_eq!((logs.len(), &logs[0]["line"]), (1, &json!("hello")));
        assert!(open(dir.path()).1.is_empty());
    }

    #[test]
    fn stop_waits_for_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (jobs, _) = open(dir.path());
        let job = start(&jobs, "run");
        let id = job.id().to_owned();
        let cancel = job.cancel().clone();
        // The work: blocks until it is cancelled.
        let (cancelled, seen) = std::sync::mpsc::channel();
        cancel.on_cancel(move || cancelled.send(()).unwrap());
        let work = std::thread::spawn(move || {
            seen.recv().unwrap();
            job.finish(CANCELLED, None, None);
        });
        assert_eq!(jobs.running(), 1);
        assert_eq!(jobs.stop(&id).unwrap().status, CANCELLED);
        assert_eq!(jobs.running(), 0);
        assert_eq!(jobs.stop(&id).unwrap().status, CANCELLED);
        jobs.stop_all("the end");
        work.join().unwrap();
    }

    #[test]
    fn a_dropped_job_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let (jobs, _) = open(dir.path());
        drop(start(&jobs, "run"));
        let listed = jobs.list(&Wanted::default()).unwrap();
        assert_eq!((listed[0].status.as_str(), listed[0].error.as_ref().unwrap().code.as_str()), (FAILED, "CTL0010"));
    }

    #[test]
    fn old_jobs_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let (jobs, _) = open(dir.path());
        let oldest_running = start(&jobs, "run");
        for _ in 0..JOBS_KEPT_MAX + 3 {
            start(&jobs, "query").finish(SUCCESS, None, None);
        }
        let listed = jobs.list(&Wanted::default()).unwrap();
        assert_eq!(listed.len(), JOBS_KEPT_MAX);
        assert_eq!(listed.last().unwrap().id, oldest_running.id());
    }
}
