//! Who may send what a record says.
//!
//! Two processes that go on with one record at the same time can splice its log: GitLab compares sizes, not bytes. A lock on
//! a file keeps them apart where the file system knows locks. On many cluster file systems a lock is one machine's affair, or
//! there is none; so the file also says who holds it, and when that was last heard of.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gitlab_runner_api_files::FileError;
use serde::{Deserialize, Serialize};

/// A holder on another machine that was not heard of for so long is dead.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often a holder says that it lives, and looks whether it still is the holder.
pub(crate) const REFRESH: Duration = Duration::from_secs(30);

/// Where there are no locks, two can find a lease free at the same moment. So long after, the last to write has it.
const SETTLE: Duration = Duration::from_millis(100);

/// Held as long as it lives, and given back when it is dropped. What the operating system ends, it gives back itself.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    file: File,
    us: Holder,
    lost: bool,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    boot_id: String,
    pid: u32,
    /// Drawn by each process: process numbers come again.
    #[serde(default)]
    run: u64,
    /// Seconds since 1970.
    heard_of: u64,
}

impl Lease {
    /// Takes the lease of a record, unless somebody holds it who lives.
    pub(crate) fn take(path: &Path) -> Result<Self, FileError> {
        Self::take_with(path, File::try_lock)
    }

    fn take_with(path: &Path, lock: impl FnOnce(&File) -> Result<(), TryLockError>) -> Result<Self, FileError> {
        let failed = |error| FileError::io(path, error);
        let opened = super::private().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(failed)?;
        let us = Holder::us();
        let locked = match lock(&file) {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                let holder = read(&mut file).map_err(failed)?;
                let by = holder.map_or_else(|| "another process of this machine".to_owned(), |holder| holder.name());
                return Err(FileError::held(path, format!("this job is held by {by}; end that first")));
            }
            // There are no locks here: what the file says is all there is.
            Err(TryLockError::Error(_)) => false,
        };
        if let Some(holder) = read(&mut file).map_err(failed)?.filter(|holder| holder.holds_against(&us, locked)) {
            return Err(FileError::held(path, holder.words(us.heard_of)));
        }
        let mut lease = Self { path: path.to_owned(), file, us, lost: false };
        lease.say().map_err(failed)?;
        if !locked {
            thread::sleep(SETTLE);
        }
        // Somebody else may have been as fast, or have removed what was just locked.
        match lease.taken_over() {
            Some(by) => Err(FileError::held(path, by)),
            None => Ok(lease),
        }
    }

    /// Says that its holder lives, if it is time to.
    ///
    /// A holder that was not heard of, as a machine that was suspended, may have lost its lease: who has it now is the error.
    /// That a file system refuses for once says nothing.
    pub(crate) fn confirm(&mut self) -> Result<(), String> {
        let now = since_1970();
        if now.saturating_sub(self.us.heard_of) < REFRESH.as_secs() {
            return Ok(());
        }
        if let Some(by) = self.taken_over() {
            self.lost = true;
            return Err(by);
        }
        self.us.heard_of = now;
        _ = self.say();
        Ok(())
    }

    /// Who else holds it, if the file in its place says so.
    fn taken_over(&self) -> Option<String> {
        match File::open(&self.path).and_then(|mut file| read(&mut file)) {
            Ok(Some(holder)) if !holder.is(&self.us) => Some(holder.words(since_1970())),
            // Another had it meanwhile, and is done with it.
            Ok(None) => Some("its lease was another's meanwhile, and was given back".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some("its lease was removed while the job was held".to_owned())
            }
            _ => None,
        }
    }

    /// As after a long suspend.
    #[cfg(test)]
    pub(super) fn oversleep(&mut self) {
        self.us.heard_of -= 400;
    }

    fn say(&mut self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.us)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_data()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // An empty file is held by nobody. Should that fail, the lock is gone all the same.
        if !self.lost && self.taken_over().is_none() {
            _ = self.file.set_len(0);
        }
    }
}

impl Holder {
    fn us() -> Self {
        static RUN: OnceLock<u64> = OnceLock::new();
        let line = |path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let named = || ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let host = line("/proc/sys/kernel/hostname").or_else(|| line("/etc/hostname")).or_else(named);
        Self {
            host: host.unwrap_or_default(),
            boot_id: line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            pid: std::process::id(),
            run: *RUN.get_or_init(|| getrandom::u64().unwrap_or_default()),
            heard_of: since_1970(),
        }
    }

    /// Whether it is the same process, whenever it was heard of.
    fn is(&self, other: &Self) -> bool {
        let Self { host, boot_id, pid, run, heard_of: _ } = self;
        (host, boot_id, pid, run) == (&other.host, &other.boot_id, &other.pid, &other.run)
    }

    /// Whether somebody else still holds it. A lock tells of all processes of this machine.
    fn holds_against(&self, us: &Self, locked: bool) -> bool {
        let restarted = self.host == us.host && self.boot_id != us.boot_id;
        let this_machine = self.host == us.host && !restarted;
        let succeeded = this_machine && self.pid == us.pid && self.run != us.run;
        let dead = restarted || succeeded || (this_machine && locked);
        !dead && us.heard_of.saturating_sub(self.heard_of) < PATIENCE.as_secs()
    }

    fn name(&self) -> String {
        format!("process {} on {:?}", self.pid, self.host)
    }

    fn words(&self, now: u64) -> String {
        let name = self.name();
        match now.checked_sub(self.heard_of) {
            Some(ago) => format!(
                "this job is held by {name}, last heard of {ago} s ago; end that first, or wait until it was silent for {} s",
                PATIENCE.as_secs()
            ),
            None => format!(
                "this job is held by {name}, whose clock is ahead of this machine's; end that first, and remove this file if it \
                 is dead"
            ),
        }
    }
}

fn since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the file says; nothing if it says nothing that can be read, as that of a process that died while it wrote.
fn read(file: &mut File) -> io::Result<Option<Holder>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn holder() -> Holder {
        Holder { host: "node-7".into(), boot_id: "b".into(), pid: 12, run: 1, heard_of: 1_000_000 }
    }

    /// A file system without locks.
    fn lockless(_: &File) -> Result<(), TryLockError> {
        Err(TryLockError::Error(io::ErrorKind::Unsupported.into()))
    }

    fn write(path: &Path, holder: &Holder) {
        fs::write(path, serde_json::to_vec(holder).unwrap()).unwrap();
    }

    #[test]
    fn who_is_dead_holds_nothing() {
        let us = |host: &str, boot_id: &str, pid: u32, run: u64, seconds: u64| {
            let (host, boot_id) = (host.into(), boot_id.into());
            Holder { host, boot_id, pid, run, heard_of: 1_000_000 + seconds }
        };
        for (us, locked, held) in [
            (us("node-7", "b", 99, 2, 1), true, false),
            (us("node-7", "b", 99, 2, 1), false, true),
            (us("node-7", "b", 99, 2, 301), false, false),
            (us("node-7", "b", 12, 2, 1), false, false),
            (us("node-7", "b", 12, 1, 1), false, true),
            (us("node-7", "c", 99, 2, 1), false, false),
            (us("node-8", "c", 99, 2, 1), true, true),
            (us("node-8", "c", 99, 2, 299), true, true),
            (us("node-8", "c", 99, 2, 300), true, false),
        ] {
            assert_eq!(holder().holds_against(&us, locked), held, "{us:?} {locked}");
        }
    }

    #[test]
    fn a_second_holder_is_told_who_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        for lock in [|file: &File| file.try_lock(), lockless] {
            let first = Lease::take_with(&path, lock).unwrap();
            let refused = Lease::take_with(&path, lock).unwrap_err();
            assert!(matches!(refused, FileError::Held { .. }), "{refused}");
            assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
            drop(first);
            drop(Lease::take_with(&path, lock).unwrap());
        }
        fs::write(&path, "{\"host\":\"no").unwrap();
        drop(Lease::take(&path).unwrap());
        write(&path, &Holder { heard_of: u64::MAX, ..holder() });
        let refused = Lease::take(&path).unwrap_err().to_string();
        assert!(refused.contains("process 12 on \"node-7\"") && refused.contains("remove this file"), "{refused}");
    }

    #[test]
    fn who_was_silent_for_too_long_finds_out_that_it_lost_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let mut first = Lease::take_with(&path, lockless).unwrap();
        first.confirm().unwrap();
        // Asleep, and nobody came.
        first.oversleep();
        first.confirm().unwrap();
        let other = Holder { heard_of: since_1970(), ..holder() };
        write(&path, &other);
        first.confirm().unwrap();
        first.oversleep();
        assert!(first.confirm().unwrap_err().contains("process 12 on \"node-7\""));
        drop(first);
        assert_eq!(
            serde_json::from_slice::<Holder>(&fs::read(&path).unwrap()).unwrap(),
            other,
            "it is not ours to give"
        );
        fs::write(&path, "").unwrap();
        let mut third = Lease::take_with(&path, lockless).unwrap();
        fs::write(&path, "").unwrap();
        third.oversleep();
        assert!(third.confirm().unwrap_err().contains("given back"));
        drop(third);
        fs::remove_file(&path).unwrap();
        let mut second = Lease::take(&path).unwrap();
        fs::remove_file(&path).unwrap();
        second.oversleep();
        assert!(second.confirm().unwrap_err().contains("removed"));
    }
}
