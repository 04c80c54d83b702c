//! Who may send what a record says.
//!
//! Two processes that go on with one record at the same time can splice its log: GitLab compares sizes, not bytes. A lock on
//! a file keeps them apart where the file system knows locks. On many cluster file systems a lock is one machine's affair, or
//! there is none; so the file also says who holds it, and since when nothing was heard of that.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gitlab_runner_api_files::FileError;
use serde::{Deserialize, Serialize};

/// A holder on another machine that was not heard of for so long is dead.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often a holder says that it lives.
const REFRESH: Duration = Duration::from_secs(30);

/// Held as long as it lives, and given back when it is dropped. What the operating system ends, it gives back itself.
#[derive(Debug)]
pub(crate) struct Lease {
    file: File,
    told: Duration,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    boot_id: String,
    pid: u32,
    /// Seconds since 1970.
    heard_of: u64,
}

impl Lease {
    /// Takes the lease of a record, unless somebody holds it who lives.
    pub(crate) fn take(path: &Path) -> Result<Self, FileError> {
        let failed = |error| FileError::io(path, error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed)?;
        let locked = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                let holder = read(&mut file).map_err(failed)?;
                return Err(FileError::bad(path, held_by(holder.as_ref())));
            }
            // There are no locks here: what the file says is all there is.
            Err(TryLockError::Error(_)) => false,
        };
        let us = Holder::us();
        if let Some(holder) = read(&mut file).map_err(failed)?.filter(|holder| holder.holds_against(&us, locked)) {
            return Err(FileError::bad(path, held_by(Some(&holder))));
        }
        let mut lease = Self { file, told: Duration::ZERO };
        lease.say(&us).map_err(failed)?;
        Ok(lease)
    }

    /// Says that its holder lives, if it is time to.
    pub(crate) fn refresh(&mut self) -> io::Result<()> {
        if since_1970().saturating_sub(self.told) < REFRESH { Ok(()) } else { self.say(&Holder::us()) }
    }

    fn say(&mut self, holder: &Holder) -> io::Result<()> {
        let text = serde_json::to_vec(holder)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_data()?;
        self.told = Duration::from_secs(holder.heard_of);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // An empty file is held by nobody. Should that fail, the lock is gone all the same.
        _ = self.file.set_len(0);
    }
}

impl Holder {
    fn us() -> Self {
        let line = |path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let named = || ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        Self {
            host: line("/proc/sys/kernel/hostname")
                .or_else(|| line("/etc/hostname"))
                .or_else(named)
                .unwrap_or_default(),
            boot_id: line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            pid: std::process::id(),
            heard_of: since_1970().as_secs(),
        }
    }

    /// Whether somebody else still holds it. A lock tells of all processes of this machine.
    fn holds_against(&self, us: &Self, locked: bool) -> bool {
        let here = self.host == us.host;
        let dead = here && (locked || self.boot_id != us.boot_id || self.pid == us.pid);
        !dead && us.heard_of.saturating_sub(self.heard_of) < PATIENCE.as_secs()
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What the file says; nothing if it says nothing that can be read, as that of a process that died while it wrote.
fn read(file: &mut File) -> io::Result<Option<Holder>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

fn held_by(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { host, pid, .. }) => {
            format!(
                "this job is held by process {pid} on {host:?}; end that first, or wait until it is dead for 5 minutes"
            )
        }
        None => "this job is held by another process of this machine; end that first".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Holder {
        Holder { host: "node-7".into(), boot_id: "b".into(), pid: 12, heard_of: 1_000_000 }
    }

    #[test]
    fn who_is_dead_holds_nothing() {
        let us = |host: &str, boot_id: &str, seconds: u64| Holder {
            host: host.into(),
            boot_id: boot_id.into(),
            pid: 99,
            heard_of: 1_000_000 + seconds,
        };
        for (us, locked, held) in [
            (us("node-7", "b", 1), true, false),
            (us("node-7", "b", 1), false, true),
            (us("node-7", "b", 301), false, false),
            (us("node-7", "c", 1), false, false),
            (us("node-8", "c", 1), true, true),
            (us("node-8", "c", 299), true, true),
            (us("node-8", "c", 300), true, false),
        ] {
            assert_eq!(holder().holds_against(&us, locked), held, "{us:?} {locked}");
        }
    }

    #[test]
    fn a_second_holder_is_told_who_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let first = Lease::take(&path).unwrap();
        let refused = Lease::take(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        let mut again = Lease::take(&path).unwrap();
        again.refresh().unwrap();
        drop(again);
        std::fs::write(&path, "{\"host\":\"no").unwrap();
        Lease::take(&path).unwrap();
        std::fs::write(&path, serde_json::to_vec(&Holder { heard_of: u64::MAX, ..holder() }).unwrap()).unwrap();
        assert!(Lease::take(&path).unwrap_err().to_string().contains("process 12 on \"node-7\""));
    }
}
