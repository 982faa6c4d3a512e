//! What this host allows: looked at once, and tried.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::launcher::Launcher;
use crate::limits::{PROBES_MAX, TMP_BYTES_MAX};
use crate::order::{Ending, Order, Role};
use crate::policy::{Feature, Host, Identity, Policy};
use crate::{plan, sys};

/// Folders whose programs and libraries functions may use.
const FOLDERS: [&str; 3] = ["/usr", "/nix/store", "/gnu/store"];

/// Folders that are links into `/usr`, or folders of their own on older systems.
const MAYBE_LINKS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of `/etc` programs need, and that holds no secrets.
const ETC: [&str; 14] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.conf",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/crypto-policies",
];

/// Looks at the host, without trying anything.
#[must_use]
pub fn look() -> Host {
    let (uid, gid) = sys::who();
    let mut host = Host { uid, gid, landlock: sys::landlock_version(), ..Host::default() };
    host.system.extend(FOLDERS.iter().map(PathBuf::from).filter(|folder| folder.is_dir()));
    for path in MAYBE_LINKS.iter().chain(&ETC).map(Path::new) {
        match std::fs::read_link(path) {
            Ok(to) => {
                // A link out of what is there would lead nowhere.
                let real = std::fs::canonicalize(path).unwrap_or_default();
                if host.is_system(&real) {
                    host.links.push((path.to_owned(), to));
                } else if real.exists() {
                    host.system.push(real.clone());
                    host.links.push((path.to_owned(), real));
                }
            }
            Err(_) if path.exists() => host.system.push(path.to_owned()),
            Err(_) => {}
        }
    }
    host.resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if host.landlock == 0 {
        host.lose(Feature::Landlock, "the kernel does not have it, or it is switched off");
    }
    host
}

/// Tries every layer, with a function that does nothing, and gives those up that the host refuses.
///
/// # Errors
/// [`Error::Launcher`], or a refusal that has nothing to do with the sandbox.
pub fn probe(launcher: &Launcher, mut host: Host) -> Result<Host, Error> {
    let policy = Policy {
        read: vec![],
        write: vec![],
        links: vec![],
        internet: false,
        identity: Identity::Apart,
        tmp_bytes: TMP_BYTES_MAX,
        processes_max: 0,
    };
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(Error::Launcher)?;
    for _ in 0..PROBES_MAX {
        let order = Order { plan: plan(&policy, &host, 0), groups: vec![], limits: vec![], command: None, role: Role::Function };
        let refusal = match launcher.start(&order, [null.as_fd(); 3]) {
            Ok(mut function) => {
                sys::wait_readable([function.pidfd()]).map_err(Error::Launcher)?;
                match function.ending() {
                    Some(Ending::Refused(refusal)) => refusal,
                    Some(Ending::Ended { .. }) => return Ok(host),
                    None => return Err(Error::Launcher(io::Error::other("a trial was killed"))),
                }
            }
            Err(Error::Refused(refusal)) => refusal,
            Err(error) => return Err(error),
        };
        let Some(feature) = refusal.feature.filter(|feature| host.has(*feature)) else { return Err(Error::Refused(refusal)) };
        let error = io::Error::from_raw_os_error(refusal.errno);
        host.lose(feature, &format!("could not {}: {error}", refusal.what.chars().take(100).collect::<String>()));
    }
    Ok(host)
}
