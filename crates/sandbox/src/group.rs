//! Limits of a whole function, by the kernel's control groups: version 2 where it is ours to use, else version 1, else none.
//!
//! ```text
//! <own group of the supervisor>/forebay-<process>-<n>/       all functions of a supervisor
//!                                                    /f<n>   one function: memory, processes
//! ```
//!
//! Memory counts where it is first touched, and stays counted while a descriptor of it is open; what a function leaves behind
//! (its result) moves up to the supervisor's group when the function's own is removed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// In the folder of a group: its processes. Who writes a number there moves that one.
const PROCESSES: &str = "cgroup.procs";

/// How functions are limited on this host.
#[derive(Debug)]
pub struct Groups {
    version: Version,
    /// The folder of all functions, by controller; with version 2 both are one.
    memory: Option<PathBuf>,
    processes: Option<PathBuf>,
    /// Version 2: where this process has moved to.
    here: Option<PathBuf>,
    number: AtomicU64,
}

/// Which control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The group of one function. Removed when it is dropped, which must be after the function's end.
#[derive(Debug)]
pub struct Group {
    version: Version,
    memory: Option<PathBuf>,
    processes: Option<PathBuf>,
}

/// Where a controller's groups are, and which is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    version: Version,
    folder: PathBuf,
}

impl Groups {
    /// Opens the groups of this process; all functions together may use `memory_bytes_max`.
    ///
    /// # Errors
    /// Why there are none for memory.
    pub fn open(memory_bytes_max: Option<u64>) -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("`{path}`: {error}"));
        let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let name = format!("forebay-{}-{}", std::process::id(), OPENED.fetch_add(1, Ordering::Relaxed));
        if let Some(place) = place(&mounts, &own, None) {
            let controllers = fs::read_to_string(place.folder.join("cgroup.controllers")).unwrap_or_default();
            if controllers.split_ascii_whitespace().any(|controller| controller == "memory") {
                return second(&place.folder, &name, memory_bytes_max);
            }
        }
        let memory = place(&mounts, &own, Some("memory")).ok_or("no group of this process limits memory")?;
        let memory = first(&memory.folder, &name).map_err(|error| told(&memory.folder, &error))?;
        if let Some(bytes) = memory_bytes_max {
            write(&memory.join("memory.limit_in_bytes"), bytes).map_err(|error| told(&memory, &error))?;
        }
        let processes = place(&mounts, &own, Some("pids")).and_then(|pids| first(&pids.folder, &name).ok());
        Ok(Self { version: Version::One, memory: Some(memory), processes, here: None, number: AtomicU64::new(0) })
    }

    /// In a few words, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let version = if self.version == Version::Two { 2 } else { 1 };
        let what = if self.processes.is_some() { "memory and processes" } else { "memory" };
        format!("control groups (version {version}) limit {what}")
    }

    /// Whether they limit the number of processes.
    #[must_use]
    pub fn limit_processes(&self) -> bool {
        self.processes.is_some()
    }

    /// A group for one function.
    ///
    /// # Errors
    /// The system's.
    pub fn create(&self, memory_bytes: Option<u64>, processes_max: u64) -> io::Result<Group> {
        let name = format!("f{}", self.number.fetch_add(1, Ordering::Relaxed));
        let make = |folder: &Option<PathBuf>| {
            let Some(folder) = folder else { return Ok(None) };
            let folder = folder.join(&name);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(Some(folder)),
            }
        };
        let memory = make(&self.memory)?;
        let processes = if self.processes == self.memory { memory.clone() } else { make(&self.processes)? };
        let group = Group { version: self.version, memory, processes };
        if let (Some(folder), Some(bytes)) = (&group.memory, memory_bytes) {
            match self.version {
                Version::One => write(&folder.join("memory.limit_in_bytes"), bytes)?,
                Version::Two => write(&folder.join("memory.max"), bytes)?,
            }
            // One process of a function without the others is a function that waits for ever: they end together. Where this is
            // not known (before Linux 4.19), and in version 1, the supervisor ends them: see `tell_out_of_memory`.
            if self.version == Version::Two {
                let _ = write(&folder.join("memory.oom.group"), 1);
            }
            // Memory that is swapped out is used all the same. Without swap there is no such file.
            let _ = match self.version {
                Version::One => write(&folder.join("memory.memsw.limit_in_bytes"), bytes),
                Version::Two => write(&folder.join("memory.swap.max"), 0),
            };
        }
        if let Some(folder) = &group.processes {
            write(&folder.join("pids.max"), processes_max)?;
        }
        Ok(group)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if let (Version::Two, Some(own), Some(here)) = (self.version, self.memory.as_deref().and_then(Path::parent), &self.here) {
            let _ = fs::write(own.join("cgroup.procs"), std::process::id().to_string());
            let _ = fs::remove_dir(here);
        }
        for folder in [&self.memory, &self.processes].into_iter().flatten() {
            // One that is still in use is removed by the next supervisor.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Group {
    /// The files by which a process of one thread joins: it writes a `0`.
    ///
    /// In version 1 it moves its one thread. Whoever moves a process, or another, makes the kernel wait until every processor has
    /// passed through the scheduler: 5 to 16 ms where this was measured, against 0.1 ms.
    #[must_use]
    pub fn doors(&self) -> Vec<PathBuf> {
        let door = if self.version == Version::One { "tasks" } else { PROCESSES };
        self.folders().map(|folder| folder.join(door)).collect()
    }

    /// The doors for a process that does not see them; none with version 2, where it is [admitted](Self::admit).
    ///
    /// # Errors
    /// The system's.
    pub fn open_doors(&self) -> io::Result<Vec<OwnedFd>> {
        if self.version == Version::Two {
            return Ok(Vec::new());
        }
        let open = |door: PathBuf| fs::File::options().write(true).open(door).map(OwnedFd::from);
        self.doors().into_iter().map(open).collect()
    }

    /// Takes a process in, by its descriptor, unless it is a member already. What it holds stays where it was counted.
    ///
    /// # Errors
    /// The system's.
    pub fn admit(&self, pidfd: BorrowedFd<'_>) -> io::Result<()> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        let process = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim).unwrap_or_default();
        // It has ended.
        if process == "-1" {
            return Ok(());
        }
        self.folders().map(|folder| folder.join(PROCESSES)).try_for_each(|members| {
            if fs::read_to_string(&members)?.lines().any(|member| member == process) {
                Ok(())
            } else {
                fs::write(members, process)
            }
        })
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        let processes = self.processes.as_ref().filter(|_| self.processes != self.memory);
        self.memory.iter().chain(processes)
    }

    /// The most memory that was in use at a time, in bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        let file = if self.version == Version::One { "memory.max_usage_in_bytes" } else { "memory.peak" };
        fs::read_to_string(self.memory.as_ref()?.join(file)).ok()?.trim().parse().ok()
    }

    /// Has the kernel count `event` (an eventfd) up when the group's memory is used up and it has to kill a process. With version 2
    /// it kills all of them itself, and there is nothing to tell.
    ///
    /// # Errors
    /// The system's.
    pub fn tell_out_of_memory(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        let Some(folder) = self.memory.as_ref().filter(|_| self.version == Version::One) else { return Ok(()) };
        let control = fs::File::open(folder.join("memory.oom_control"))?;
        fs::write(folder.join("cgroup.event_control"), format!("{} {}", event.as_raw_fd(), control.as_raw_fd()))
    }

    /// Whether the kernel has killed a process of the group because its memory was used up.
    #[must_use]
    pub fn ran_out_of_memory(&self) -> bool {
        let file = if self.version == Version::One { "memory.oom_control" } else { "memory.events" };
        let text = self.memory.as_ref().and_then(|folder| fs::read_to_string(folder.join(file)).ok());
        text.is_some_and(|text| counter(&text, "oom_kill") > 0)
    }

    /// Whether a process was refused because there were too many.
    #[must_use]
    pub fn ran_out_of_processes(&self) -> bool {
        let text = self.processes.as_ref().and_then(|folder| fs::read_to_string(folder.join("pids.events")).ok());
        text.is_some_and(|text| counter(&text, "max") > 0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in [&self.memory, &self.processes].into_iter().flatten() {
            // It is gone already where both are one; one that is busy is removed by the next supervisor.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn told(folder: &Path, error: &io::Error) -> String {
    format!("the group `{}` is not ours to divide: {error}", folder.display())
}

fn write(file: &Path, value: u64) -> io::Result<()> {
    fs::write(file, value.to_string())
}

/// The number behind a word, in lines of both.
fn counter(text: &str, word: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Our part of a group of version 1.
fn first(own: &Path, name: &str) -> io::Result<PathBuf> {
    remove_stale(own);
    let folder = own.join(name);
    fs::create_dir(&folder).or_else(|error| if folder.is_dir() { Ok(()) } else { Err(error) })?;
    Ok(folder)
}

/// Our part of a group of version 2. A group whose members are limited may hold no process itself, so this process moves into
/// a group beside those of functions.
fn second(own: &Path, name: &str, memory_bytes_max: Option<u64>) -> Result<Groups, String> {
    remove_stale(own);
    let folder = own.join(name);
    let here = own.join(format!("{name}-supervisor"));
    let join = |group: &Path| fs::write(group.join("cgroup.procs"), std::process::id().to_string());
    let divide = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(&here)?;
        join(&here)?;
        fs::write(own.join("cgroup.subtree_control"), "+memory +pids")?;
        fs::write(folder.join("cgroup.subtree_control"), "+memory +pids")?;
        memory_bytes_max.map_or(Ok(()), |bytes| write(&folder.join("memory.max"), bytes))
    };
    divide().map_err(|error| {
        // Back to where it was; what cannot be undone does no harm.
        let _ = join(own);
        let _ = fs::remove_dir(&here);
        let _ = fs::remove_dir(&folder);
        told(own, &error)
    })?;
    let memory = Some(folder.clone());
    Ok(Groups { version: Version::Two, memory, processes: Some(folder), here: Some(here), number: AtomicU64::new(0) })
}

/// Removes the groups of supervisors that have gone.
fn remove_stale(own: &Path) {
    for entry in own.read_dir().into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some(process) = name.strip_prefix("forebay-").and_then(|rest| rest.split('-').next()) else { continue };
        if process.parse::<u32>().is_err() || Path::new("/proc").join(process).exists() {
            continue;
        }
        for function in entry.path().read_dir().into_iter().flatten().filter_map(Result::ok) {
            let _ = fs::remove_dir(function.path());
        }
        let _ = fs::remove_dir(entry.path());
    }
}

/// The folder of this process's group: of a controller of version 1, or (without one) of version 2. From the texts of
/// `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn place(mounts: &str, own: &str, controller: Option<&str>) -> Option<Place> {
    let has = |list: &str| controller.is_some_and(|wanted| list.split(',').any(|name| name == wanted));
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = if controller.is_some() { has(controllers) } else { number == "0" && controllers.is_empty() };
        ours.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, at) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let version = match (kind, controller) {
            ("cgroup2", None) => Version::Two,
            ("cgroup", Some(_)) if has(options) => Version::One,
            _ => return None,
        };
        // A container may see a part of the tree only, as its whole.
        let below = Path::new(path).strip_prefix(root).or_else(|_| Path::new(path).strip_prefix("/")).ok()?;
        Some(Place { version, folder: Path::new(at).join(below) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 23 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
31 23 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
34 23 0:30 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
39 23 0:35 /docker/abc /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
";
    const OWN: &str = "8:pids:/docker/abc/x\n4:memory:/jobs/one\n1:cpu,cpuacct:/\n0::/user.slice\n";

    #[test]
    fn groups_are_found() {
        let found = |controller| place(MOUNTS, OWN, controller).map(|place| place.folder.display().to_string());
        assert_eq!(found(Some("memory")).as_deref(), Some("/sys/fs/cgroup/memory/jobs/one"));
        assert_eq!(found(Some("pids")).as_deref(), Some("/sys/fs/cgroup/pids/x"));
        assert_eq!(found(None).as_deref(), Some("/sys/fs/cgroup/unified/user.slice"));
        assert_eq!(found(Some("hugetlb")), None);
        assert_eq!(place("", OWN, None), None);
    }

    #[test]
    fn counters_are_read() {
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(counter("low 0\noom 1\noom_kill 2\noom_group_kill 0\n", "oom_kill"), 2);
        assert_eq!(counter("max 0\n", "max"), 0);
    }

    #[test]
    fn groups_of_those_who_have_gone_are_removed() {
        let own = tempfile::tempdir().unwrap();
        let gone = own.path().join("forebay-999999999");
        let here = own.path().join(format!("forebay-{}", std::process::id()));
        fs::create_dir_all(gone.join("f0")).unwrap();
        fs::create_dir_all(here.join("f0")).unwrap();
        fs::create_dir_all(own.path().join("forebay-x")).unwrap();
        remove_stale(own.path());
        assert!(!gone.exists() && here.join("f0").exists() && own.path().join("forebay-x").exists());
    }

    /// Version 2 as files: what is written where. The kernel's part of it is not there.
    #[test]
    fn a_group_of_version_2_is_divided() {
        let own = tempfile::tempdir().unwrap();
        let groups = second(own.path(), "forebay-1", Some(1 << 30)).unwrap();
        let read = |path: &str| fs::read_to_string(own.path().join(path)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+memory +pids");
        assert_eq!(read("forebay-1/cgroup.subtree_control"), "+memory +pids");
        assert_eq!(read("forebay-1/memory.max"), (1 << 30).to_string());
        assert_eq!(read("forebay-1-supervisor/cgroup.procs"), std::process::id().to_string());
        let group = groups.create(Some(5000), 7).unwrap();
        assert_eq!((read("forebay-1/f0/memory.max"), read("forebay-1/f0/pids.max")), ("5000".into(), "7".into()));
        assert_eq!(read("forebay-1/f0/memory.oom.group"), "1");
        assert_eq!(group.doors(), [own.path().join("forebay-1/f0/cgroup.procs")]);
        assert!(group.open_doors().unwrap().is_empty());
        assert!(!group.ran_out_of_memory());
        fs::write(own.path().join("forebay-1/f0/memory.events"), "oom 1\noom_kill 1\n").unwrap();
        assert!(group.ran_out_of_memory());
    }
}
