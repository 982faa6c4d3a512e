//! From a policy and a host to the steps into the sandbox. Pure.
//!
//! ```text
//! new user and process namespace ─▶ unshare ─▶ sources ─▶ become ─▶ root, folders, links, attach, /tmp, /dev, /proc
//!                                                          ─▶ pivot ─▶ drop rights ─▶ landlock ─▶ seccomp ─▶ the function
//! ```
//!
//! What the host lacks is left out, and the rest is made up for as far as that goes: without a root of its own, landlock
//! allows the same paths; without a network of its own, seccomp refuses sockets.

use std::path::{Path, PathBuf};

use crate::limits::{APART_ID_FIRST, APART_IDS, INSIDE_ID, ZYGOTE_ID_FIRST, ZYGOTE_IDS};
use crate::policy::{Feature, Host, Identity, Policy};
use crate::step::{Bind, Plan, Step};

/// Version of landlock that knows scopes.
pub(crate) const SCOPES_SINCE: u32 = 6;

/// Devices that do no harm.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Folders that functions of any kind may write to.
const SCRATCH: [&str; 2] = ["/tmp", "/dev/shm"];

/// Links that programs expect.
const LINKS: [(&str, &str); 6] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/etc/mtab", "/proc/self/mounts"),
    ("/var/tmp", "/tmp"),
];

/// The steps for one function; `number` tells functions of one supervisor apart.
#[must_use]
pub fn plan(policy: &Policy, host: &Host, number: u32) -> Plan {
    let user = host.has(Feature::Users).then(|| outside(policy.identity, host, number));
    let files = host.has(Feature::Files);
    let network = !policy.internet && host.has(Feature::Network);
    let ipc = host.has(Feature::Ipc);
    let mut steps = Vec::new();
    if files || network || ipc {
        steps.push(Step::Unshare { files, network, ipc });
    }
    if files {
        steps.push(Step::Sources(sources(policy, host)));
    }
    if let Some((uid, _)) = user {
        steps.push(Step::Become { id: INSIDE_ID, leave_groups: uid != host.uid });
    }
    if network {
        steps.push(Step::Loopback);
    }
    if files {
        root(policy, host, &mut steps);
    }
    if host.has(Feature::Calls) {
        steps.push(Step::Drop);
    }
    // Our own program may be one whose file has been replaced; the kernel's rules for paths know no path to it.
    if policy.identity == Identity::Apart && host.has(Feature::Landlock) && host.landlock > 0 {
        steps.push(landlock(policy, host, files));
    }
    if host.has(Feature::Calls) {
        steps.push(Step::Calls { no_sockets: !policy.internet && !network, joins: false });
    }
    Plan { user, processes: host.has(Feature::Processes), others: None, steps }
}

/// How a zygote is confined, and what its children's sandboxes are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nest {
    /// The sandbox of the zygote's first process, which keeps the right to make others inside.
    pub plan: Plan,
    /// What the zygote itself goes through beyond that, before its program is executed.
    pub inside: Vec<Step>,
    /// The host as it looks from in there, for the plans of children.
    pub host: Host,
}

/// The sandbox of a zygote: that of a function, of which its first process keeps the rights to make sandboxes within it. What is
/// `hidden` is there for these only. `None`: this host does not allow it.
#[must_use]
pub fn nest(policy: &Policy, host: &Host, number: u32, hidden: &Path) -> Option<Nest> {
    use Feature::{Calls, Files, Ipc, Network, Processes, Users};
    if policy.internet || ![Users, Files, Processes, Network, Ipc, Calls].iter().all(|feature| host.has(*feature)) {
        return None;
    }
    let mut policy = policy.clone();
    policy.read.push(hidden.to_owned());
    let mut plan = plan(&policy, host, number);
    plan.steps.retain(|step| !is_giving_up(step));
    let mut inside =
        vec![Step::Unshare { files: true, network: false, ipc: false }, Step::Forget(vec![hidden.to_owned()]), Step::Drop];
    if host.has(Feature::Landlock) && host.landlock >= SCOPES_SINCE {
        inside.push(Step::Scopes);
    }
    inside.push(Step::Calls { no_sockets: false, joins: true });
    let mut within = host.clone();
    if plan.user == Some((host.uid, host.gid)) {
        (within.uid, within.gid) = (INSIDE_ID, INSIDE_ID);
    } else {
        let id = ZYGOTE_ID_FIRST + number % ZYGOTE_IDS;
        plan.user = Some((id, id));
        plan.others = Some((APART_ID_FIRST, APART_IDS));
    }
    Some(Nest { plan, inside, host: within })
}

/// Where the sandbox of every child of a zygote begins, whatever function it will be for: its user, its processes, and namespaces.
/// `number` tells functions of one supervisor apart.
#[must_use]
pub fn beginning(within: &Host, number: u32) -> Plan {
    let user = Some(outside(Identity::Apart, within, number));
    Plan { user, processes: true, others: None, steps: vec![Step::Unshare { files: true, network: true, ipc: true }] }
}

/// What a zygote's child does itself when it has joined its sandbox: all that a process can only do for itself.
#[must_use]
pub fn landing(plan: &Plan) -> Vec<Step> {
    plan.steps.iter().filter(|step| matches!(step, Step::Become { .. }) || is_giving_up(step)).cloned().collect()
}

fn is_giving_up(step: &Step) -> bool {
    matches!(step, Step::Drop | Step::Landlock { .. } | Step::Calls { .. })
}

/// Who the function is to the rest of the host.
fn outside(identity: Identity, host: &Host, number: u32) -> (u32, u32) {
    match identity {
        Identity::Apart if host.uid == 0 && host.has(Feature::Identity) => {
            let id = APART_ID_FIRST + number % APART_IDS;
            (id, id)
        }
        Identity::Apart | Identity::Own => (host.uid, host.gid),
    }
}

/// The parts of the host, each once; a part of a part is left out unless it may be changed and the other may not.
fn sources(policy: &Policy, host: &Host) -> Vec<Bind> {
    let mut binds: Vec<Bind> = Vec::new();
    let wanted = host.system.iter().map(|path| (path, false));
    let wanted = wanted.chain(policy.read.iter().map(|path| (path, false))).chain(policy.write.iter().map(|path| (path, true)));
    let mut wanted: Vec<(&PathBuf, bool)> = wanted.collect();
    // Outer ones first: they are attached in this order, and would hide the inner ones.
    wanted.sort_by_key(|(path, write)| (path.components().count(), *write));
    for (path, write) in wanted {
        // What lies in a folder that may be changed, and may not be itself, is put over it.
        let covered = binds.iter().rev().find(|bind| path.starts_with(&bind.path)).is_some_and(|bind| bind.write == write);
        let inside_tmp = SCRATCH.iter().any(|scratch| Path::new(scratch).starts_with(path));
        if !covered && !inside_tmp {
            binds.push(Bind { path: path.clone(), write });
        }
    }
    binds.extend(DEVICES.iter().map(|device| Bind { path: (*device).into(), write: true }));
    if !host.has(Feature::Processes) {
        // The host's processes are seen; landlock, and the user id, keep them from being touched.
        binds.push(Bind { path: "/proc".into(), write: false });
    }
    binds
}

fn root(policy: &Policy, host: &Host, steps: &mut Vec<Step>) {
    steps.push(Step::Root);
    for scratch in SCRATCH {
        steps.push(Step::Memory { path: scratch.into(), bytes: policy.tmp_bytes });
    }
    for folder in ["/tmp/home", "/proc", "/etc", "/run", "/var", "/sys"] {
        steps.push(Step::Folder(folder.into()));
    }
    let passwd = format!(
        "root:x:0:0::/:/bin/sh\nforebay:x:{INSIDE_ID}:{INSIDE_ID}::/tmp/home:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    );
    let text = |path: &str, text: String| Step::Text { path: path.into(), text };
    steps.push(text("/etc/passwd", passwd));
    steps.push(text("/etc/group", format!("root:x:0:\nforebay:x:{INSIDE_ID}:\nnogroup:x:65534:\n")));
    steps.push(text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".into()));
    steps.push(text("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n".into()));
    if policy.internet {
        steps.push(text("/etc/resolv.conf", host.resolv.clone()));
    }
    steps.push(Step::Attach);
    let ours = LINKS.iter().map(|(path, to)| (Path::new(path), Path::new(to)));
    let links = host.links.iter().chain(&policy.links).map(|(path, to)| (path.as_path(), to.as_path()));
    steps.extend(links.chain(ours).map(|(path, to)| Step::Link { path: path.to_owned(), to: to.to_owned() }));
    if host.has(Feature::Processes) {
        steps.push(Step::Proc);
    }
    steps.push(Step::Pivot);
}

fn landlock(policy: &Policy, host: &Host, own_root: bool) -> Step {
    let mut read: Vec<PathBuf> = vec!["/".into()];
    if !own_root {
        read = host.system.iter().chain(&policy.read).cloned().chain(["/proc".into()]).collect();
        // Where a link leads is what counts: its own folder need not be readable.
        read.extend(host.links.iter().map(|(path, _)| path.clone()));
    }
    // The host's own `/tmp` belongs to everybody: what a function may use instead is in its policy.
    let scratch = SCRATCH.iter().filter(|folder| own_root || **folder != "/tmp").chain(&DEVICES).map(PathBuf::from);
    Step::Landlock { version: host.landlock, read, write: scratch.chain(policy.write.iter().cloned()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            read: vec!["/cache/envs/e".into(), "/usr/lib/x".into(), "/data".into()],
            write: vec!["/data/out".into()],
            links: vec![("/cache/python".into(), "/usr/bin/python3".into())],
            internet: false,
            identity: Identity::Apart,
            tmp_bytes: 7,
            processes_max: 5,
        }
    }

    fn host(uid: u32) -> Host {
        Host {
            uid,
            gid: uid,
            landlock: 4,
            system: vec!["/usr".into(), "/etc/ssl/certs".into()],
            links: vec![("/lib".into(), "usr/lib".into())],
            ..Host::default()
        }
    }

    fn text(plan: &Plan) -> String {
        plan.steps.iter().map(|step| format!("{step}\n")).collect()
    }

    #[test]
    fn everything_a_host_can_do() {
        let plan = plan(&policy(), &host(0), 3);
        assert_eq!((plan.user, plan.processes), (Some((APART_ID_FIRST + 3, APART_ID_FIRST + 3)), true));
        let expected = "namespaces of its own: mounts, network, ipc
take hold of /usr /data /data/out(rw) /etc/ssl/certs /cache/envs/e /dev/null(rw) /dev/zero(rw) /dev/full(rw) /dev/random(rw) /dev/urandom(rw)
become 1000 without groups
start the loopback device
a new root
memory /tmp of 7
memory /dev/shm of 7
folder /tmp/home
folder /proc
folder /etc
folder /run
folder /var
folder /sys
file /etc/passwd
file /etc/group
file /etc/nsswitch.conf
file /etc/hosts
attach
link /lib -> usr/lib
link /cache/python -> /usr/bin/python3
link /dev/fd -> /proc/self/fd
link /dev/stdin -> /proc/self/fd/0
link /dev/stdout -> /proc/self/fd/1
link /dev/stderr -> /proc/self/fd/2
link /etc/mtab -> /proc/self/mounts
link /var/tmp -> /tmp
mount /proc
leave the old root
drop all rights
landlock 4: read /; write /tmp /dev/shm /dev/null /dev/zero /dev/full /dev/random /dev/urandom /data/out
forbid calls
";
        assert_eq!(text(&plan), expected);
    }

    #[test]
    fn the_network_is_the_hosts_if_it_may_be_used() {
        let plan = plan(&Policy { internet: true, ..policy() }, &host(1234), 3);
        assert_eq!(plan.user, Some((1234, 1234)), "an ordinary user stays itself");
        let text = text(&plan);
        assert!(text.contains("own: mounts, ipc\n") && text.contains("/etc/resolv.conf"), "{text}");
        assert!(text.contains("become 1000\n") && !text.contains("sockets"), "{text}");
    }

    #[test]
    fn without_user_namespaces_landlock_and_seccomp_do_what_they_can() {
        let mut host = host(1234);
        host.lose(Feature::Users, "No space left on device");
        let plan = plan(&policy(), &host, 3);
        assert_eq!((plan.user, plan.processes), (None, false));
        assert_eq!(host.lost[&Feature::Network], "it needs user namespaces");
        let expected = "drop all rights
landlock 4: read /usr /etc/ssl/certs /cache/envs/e /usr/lib/x /data /proc /lib; write /dev/shm /dev/null /dev/zero /dev/full /dev/random /dev/urandom /data/out
forbid calls and sockets
";
        assert_eq!(text(&plan), expected);
    }

    #[test]
    fn what_is_read_only_stays_so_inside_what_is_not() {
        let policy = Policy { read: vec!["/home/env".into()], write: vec!["/home".into(), "/home/out".into()], ..policy() };
        let binds = sources(&policy, &Host { system: vec![], ..host(0) });
        let binds: Vec<String> = binds.iter().map(|bind| format!("{}{}", bind.path.display(), bind.write)).collect();
        assert_eq!(binds[..2], ["/hometrue", "/home/envfalse"]);
        assert_eq!(binds.len(), 2 + DEVICES.len());
    }

    #[test]
    fn a_host_that_allows_nothing_gets_a_plan_without_steps() {
        let mut host = host(0);
        Feature::ALL.iter().for_each(|feature| host.lose(*feature, "no"));
        assert_eq!(plan(&policy(), &host, 0), Plan { user: None, processes: false, others: None, steps: vec![] });
    }

    #[test]
    fn a_zygote_keeps_the_right_to_make_sandboxes_and_gives_all_others_up() {
        let host = Host { landlock: 6, ..host(0) };
        let nest = nest(&policy(), &host, 3, Path::new("/home/projects")).unwrap();
        assert_eq!(nest.plan.user, Some((ZYGOTE_ID_FIRST + 3, ZYGOTE_ID_FIRST + 3)));
        assert_eq!(nest.plan.others, Some((APART_ID_FIRST, APART_IDS)));
        let outer = text(&nest.plan);
        assert!(outer.contains("/home/projects") && outer.ends_with("leave the old root\n"), "{outer}");
        let inside: String = nest.inside.iter().map(|step| format!("{step}\n")).collect();
        let expected = "namespaces of its own: mounts\nforget /home/projects\ndrop all rights\nlandlock: nobody outside\n\
                        forbid calls, not joining\n";
        assert_eq!(inside, expected);
        let child = plan(&policy(), &nest.host, 9);
        assert_eq!(child.user, Some((APART_ID_FIRST + 9, APART_ID_FIRST + 9)));
        let landing: String = landing(&child).iter().map(|step| format!("{step}\n")).collect();
        assert!(landing.starts_with("become 1000 without groups\ndrop all rights\nlandlock 6"), "{landing}");
        assert!(landing.ends_with("forbid calls\n"), "{landing}");
    }

    #[test]
    fn an_ordinary_users_zygote_and_its_children_are_that_user() {
        let nest = nest(&policy(), &host(1234), 3, Path::new("/home/projects")).unwrap();
        assert_eq!((nest.plan.user, nest.plan.others), (Some((1234, 1234)), None));
        assert_eq!(plan(&policy(), &nest.host, 9).user, Some((INSIDE_ID, INSIDE_ID)));
    }

    #[test]
    fn there_is_no_zygote_where_anything_is_missing_or_the_network_is_allowed() {
        for feature in [Feature::Users, Feature::Files, Feature::Processes, Feature::Network, Feature::Ipc, Feature::Calls] {
            let mut host = host(0);
            host.lose(feature, "no");
            assert_eq!(nest(&policy(), &host, 3, Path::new("/p")), None, "{feature}");
        }
        assert_eq!(nest(&Policy { internet: true, ..policy() }, &host(0), 3, Path::new("/p")), None);
    }

    #[test]
    fn our_own_code_writes_as_the_user_it_works_for() {
        let plan = plan(&Policy { identity: Identity::Own, ..policy() }, &host(0), 3);
        assert_eq!(plan.user, Some((0, 0)));
    }
}
