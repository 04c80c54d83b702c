//! Who may send what a record says.
//!
//! Two processes that go on with one record at the same time can splice its log: GitLab compares sizes, not bytes. A lock on
//! a file keeps them apart where the file system knows locks. On many cluster file systems a lock is one machine's affair, or
//! there is none; so the file also says who holds it, and when that was last heard of. It is made whole or not at all, and
//! removed by who gives it back: of any number who find none, on however many machines, one makes it. The file of a holder who
//! died stays, and is taken over.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gitlab_runner_api_files::{FileError, form};
use serde::{Deserialize, Serialize};

/// A holder that was not heard of for so long is dead.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often a holder says that it lives, and looks whether it still is the holder.
pub(crate) const REFRESH: Duration = Duration::from_secs(30);

/// So far the clocks of two machines may be apart: somewhere, a holder is dead so much earlier.
const SKEW: Duration = Duration::from_secs(120);

/// Several can find one and the same holder dead. So long after, the last to write has the lease; who wrote later than half of
/// it after it looked does not.
const SETTLE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 3 });

/// How often it is looked again when others were faster.
const ATTEMPTS: usize = 10;

const TOO_SLOW: &str = "the file system is too slow to tell who has this job; try again later";

/// What stands for no machine at all.
const UNKNOWN: &str = "?";

/// How long the file is, whoever writes it: of two who write at the same moment, it says one or the other.
const SIZE: usize = 512;

/// Held as long as it lives, and given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    file: File,
    us: Holder,
    /// Why it is not ours any more, or not yet. Then it is not ours to give back either.
    lost: Option<String>,
}

/// How a file is locked, for [`Lease`] to find out what that is worth.
type Lock = fn(&File) -> Result<(), TryLockError>;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    /// Drawn by the kernel when it starts: one for each machine, and for all of its containers. Empty where there is none.
    boot_id: String,
    pid: u32,
    /// Drawn by each process: process numbers come again.
    #[serde(default)]
    run: u64,
    /// Which of its leases.
    #[serde(default)]
    number: u64,
    /// Seconds since 1970.
    heard_of: u64,
}

/// What the file in its place says.
enum Fate {
    Ours,
    Gone,
    Others(Holder),
}

/// Why a lease could not be renewed.
enum Trouble {
    Lost(String),
    Failed(io::Error),
}

/// A lease that is taken, if nobody turns out to have been faster.
#[derive(Debug)]
pub(crate) struct Claim {
    lease: Lease,
    /// When that is known; none if nobody else can have thought that it is free.
    settled_at: Option<Instant>,
}

impl Claim {
    /// Claims the lease of a record, unless somebody holds it who lives.
    pub(crate) fn stake(path: &Path) -> Result<Self, FileError> {
        Self::stake_as(&Holder::us(), path, File::try_lock)
    }

    fn stake_as(us: &Holder, path: &Path, lock: Lock) -> Result<Self, FileError> {
        for _ in 0..ATTEMPTS {
            // Looked at first, so that nothing is written beside a lease that is held.
            if let Some(claim) = Self::take_over(us, path, lock)? {
                return Ok(claim);
            }
            if let Some(lease) = Lease::make(us, path, lock).map_err(|error| FileError::io(path, error))? {
                return Ok(Self { lease, settled_at: None });
            }
        }
        Err(FileError::held(path, "this job goes from one process to the next; try again"))
    }

    /// Takes the lease of somebody who is dead; none if there is none.
    fn take_over(us: &Holder, path: &Path, lock: Lock) -> Result<Option<Self>, FileError> {
        let failed = |error| FileError::io(path, error);
        let looked = Watch::start();
        let mut file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let locked = match lock(&file) {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                let by = read(&mut file).map_or_else(|_| "another process".to_owned(), |holder| holder.name());
                return Err(FileError::held(path, format!("this job is held by {by}; end that first")));
            }
            Err(TryLockError::Error(_)) => false,
        };
        let holder = read(&mut file).map_err(failed)?;
        // Ours if it was made, and a server's word that it was got lost.
        if !holder.is(us) && !holder.is_dead(us, locked) {
            return Err(FileError::held(path, holder.words(us.heard_of)));
        }
        let mut us = Holder { heard_of: since_1970(), ..us.clone() };
        let contested = is_contested(us.heard_of.saturating_sub(holder.heard_of));
        if contested {
            // As long as it is not settled: nobody is to think that a lock tells enough of us.
            us.boot_id = UNKNOWN.to_owned();
        }
        let lost = contested.then(|| "it is not settled yet who has this job; try again".to_owned());
        let mut lease = Lease { path: path.to_owned(), file, us, lost };
        lease.say().map_err(failed)?;
        if contested && looked.elapsed() > SETTLE / 2 {
            // Who has taken it meanwhile finds out that it lost it. What we wrote keeps others from it until then.
            return Err(FileError::held(path, TOO_SLOW));
        }
        let settled_at = contested.then(|| Instant::now() + SETTLE);
        match lease.fate().map_err(failed)? {
            Fate::Ours => Ok(Some(Self { lease, settled_at })),
            // Its holder was giving it back.
            Fate::Gone => Ok(None),
            Fate::Others(holder) => Err(FileError::held(path, holder.words(since_1970()))),
        }
    }

    /// Waits until it is known who has the lease, three seconds at most. Of many claims, each has waited for all.
    ///
    /// If its last holder was silent for so long that it may not know that it is dead, `replace` is called then, to put out of
    /// its reach what it may be about to change. It is given what tells whether the lease is still ours.
    pub(crate) fn settle(
        self,
        replace: impl FnOnce(&dyn Fn() -> io::Result<()>) -> io::Result<()>,
    ) -> Result<Lease, FileError> {
        let Self { mut lease, settled_at } = self;
        let path = lease.path.clone();
        let Some(at) = settled_at else {
            // It may have waited for its turn.
            lease.confirm().map_err(|by| FileError::held(&path, by))?;
            return Ok(lease);
        };
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let is_ours = || match lease.fate()? {
            Fate::Ours => Ok(()),
            Fate::Gone | Fate::Others(_) => Err(io::ErrorKind::WouldBlock.into()),
        };
        let replaced = is_ours().and_then(|()| replace(&is_ours));
        let boot_id = Holder::us().boot_id;
        match replaced.map_err(Trouble::Failed).and_then(|()| lease.renew(Holder { boot_id, ..lease.us.clone() })) {
            Ok(()) => {
                lease.lost = None;
                Ok(lease)
            }
            Err(Trouble::Failed(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(FileError::held(&path, "another process was faster; try again"))
            }
            Err(Trouble::Failed(error)) => Err(FileError::io(&path, error)),
            Err(Trouble::Lost(by)) => Err(FileError::held(&path, by)),
        }
    }
}

impl Lease {
    /// Takes the lease of a record, unless somebody holds it who lives.
    pub(crate) fn take(path: &Path) -> Result<Self, FileError> {
        Claim::stake(path)?.settle(|_| Ok(()))
    }

    /// Makes the file; none if there is one.
    fn make(us: &Holder, path: &Path, lock: Lock) -> io::Result<Option<Self>> {
        let us = Holder { heard_of: since_1970(), ..us.clone() };
        // Nobody can have locked it, and where there are no locks, what it says is all there is.
        match form::create(path, &us.text()?, |file| _ = lock(file)) {
            Ok(file) => Ok(Some(Self { path: path.to_owned(), file, us, lost: None })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            // Whoever had the record meanwhile has cleared it of what was not finished.
            Err(error) if error.kind() == io::ErrorKind::NotFound && form::folder(path).is_dir() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says that its holder lives, if it is time to.
    ///
    /// A holder that was not heard of, as a machine that was suspended, may have lost its lease: who has it now is the error.
    /// One that cannot make itself heard gives it up before others think it dead.
    pub(crate) fn confirm(&mut self) -> Result<(), String> {
        if let Some(by) = &self.lost {
            return Err(by.clone());
        }
        if since_1970().abs_diff(self.us.heard_of) < REFRESH.as_secs() {
            return Ok(());
        }
        let by = match self.renew(self.us.clone()) {
            Ok(()) => return Ok(()),
            Err(Trouble::Lost(by)) => by,
            Err(Trouble::Failed(error)) => {
                let silence = since_1970().abs_diff(self.us.heard_of);
                if !is_contested(silence) && error.kind() != io::ErrorKind::WouldBlock {
                    return Ok(());
                }
                format!("its lease could not be renewed for {silence} s: {error}")
            }
        };
        self.lost = Some(by.clone());
        Err(by)
    }

    /// Says that we live, in these words, and makes sure that nobody else has thought otherwise.
    fn renew(&mut self, us: Holder) -> Result<(), Trouble> {
        let looked = Watch::start();
        self.must_be_ours()?;
        let before = std::mem::replace(&mut self.us, Holder { heard_of: since_1970(), ..us });
        if let Err(error) = self.say_anew() {
            self.us = before;
            return Err(Trouble::Failed(error));
        }
        if !is_contested(since_1970().abs_diff(before.heard_of)) {
            return Ok(());
        }
        // Somebody may have looked before we spoke, and speak after.
        if looked.elapsed() > SETTLE / 2 {
            return Err(Trouble::Lost(TOO_SLOW.to_owned()));
        }
        thread::sleep(SETTLE);
        self.must_be_ours()
    }

    fn must_be_ours(&self) -> Result<(), Trouble> {
        match self.fate() {
            Ok(Fate::Ours) => Ok(()),
            Ok(Fate::Gone) => Err(Trouble::Lost("its lease was taken or removed while the job was held".to_owned())),
            Ok(Fate::Others(holder)) => Err(Trouble::Lost(holder.words(since_1970()))),
            Err(error) => Err(Trouble::Failed(error)),
        }
    }

    /// Writes it; anew if a server that was away may have forgotten our open file, and our lock with it.
    fn say_anew(&mut self) -> io::Result<()> {
        self.say().or_else(|error| {
            self.file = File::options().read(true).write(true).open(&self.path).map_err(|_| error)?;
            match self.file.try_lock() {
                Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                _ => self.say(),
            }
        })
    }

    fn fate(&self) -> io::Result<Fate> {
        match File::open(&self.path).and_then(|mut file| read(&mut file)) {
            Ok(holder) if holder.is(&self.us) => Ok(Fate::Ours),
            Ok(holder) => Ok(Fate::Others(holder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Fate::Gone),
            Err(error) => Err(error),
        }
    }

    /// As after a long suspend.
    #[cfg(test)]
    pub(super) fn oversleep(&mut self) {
        self.us.heard_of -= 400;
    }

    fn say(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.us.text()?)?;
        self.file.sync_data()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.lost.is_none() && matches!(self.fate(), Ok(Fate::Ours)) {
            // Should that fail, the lock is gone all the same.
            _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Measures how long something took, also for who was suspended meanwhile: one clock stands still then, and the other may be set.
struct Watch(Instant, SystemTime);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    fn elapsed(&self) -> Duration {
        self.1.elapsed().map_or(Duration::MAX, |span| span.max(self.0.elapsed()))
    }
}

/// Whether somebody, by its own clock, can think a holder dead that was silent for so many seconds.
fn is_contested(silence: u64) -> bool {
    silence.saturating_add(SKEW.as_secs()) >= PATIENCE.as_secs()
}

/// Whether it is a lease at all.
pub(crate) fn is_lease(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|text| serde_json::from_slice::<Holder>(&text).is_ok())
}

/// Whether the lease was neither given back nor renewed for so long that its holder is dead, wherever it is.
pub(crate) fn is_forsaken(path: &Path) -> bool {
    let silent = |holder: Holder| since_1970().saturating_sub(holder.heard_of) >= PATIENCE.as_secs();
    File::open(path).and_then(|mut file| read(&mut file)).is_ok_and(silent)
}

impl Holder {
    fn us() -> Self {
        static RUN: OnceLock<u64> = OnceLock::new();
        static LEASES: AtomicU64 = AtomicU64::new(0);
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            host: host(),
            boot_id: boot_id.trim().to_owned(),
            pid: std::process::id(),
            run: *RUN.get_or_init(|| getrandom::u64().unwrap_or_default()),
            number: LEASES.fetch_add(1, Ordering::Relaxed),
            heard_of: since_1970(),
        }
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        text.resize(text.len().max(SIZE), b' ');
        Ok(text)
    }

    /// Whether it is the same lease of the same process, whenever that was heard of.
    fn is(&self, other: &Self) -> bool {
        Self { heard_of: other.heard_of, ..self.clone() } == *other
    }

    fn is_of_this_machine(&self, us: &Self) -> bool {
        if self.boot_id.is_empty() && us.boot_id.is_empty() {
            !self.host.is_empty() && self.host == us.host
        } else {
            self.boot_id == us.boot_id
        }
    }

    /// A lock tells of all processes of this machine; of all others, and where there are no locks, only time does.
    fn is_dead(&self, us: &Self, locked: bool) -> bool {
        let silent = us.heard_of.saturating_sub(self.heard_of) >= PATIENCE.as_secs();
        silent || (locked && self.is_of_this_machine(us))
    }

    fn name(&self) -> String {
        match self.pid {
            0 => "somebody whose name cannot be read".to_owned(),
            pid => format!("process {pid} on {:?}", self.host),
        }
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

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

fn since_1970() -> u64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the file says. If that cannot be read, as where a machine died that was writing, somebody was there when it was written.
fn read(file: &mut File) -> io::Result<Holder> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    let written = seconds(file.metadata()?.modified()?);
    let nobody =
        Holder { host: String::new(), boot_id: UNKNOWN.to_owned(), pid: 0, run: 0, number: 0, heard_of: written };
    Ok(serde_json::from_slice(&text).unwrap_or(nobody))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Barrier;

    use super::*;

    fn holder() -> Holder {
        Holder { host: "node-7".into(), boot_id: "b".into(), pid: 12, run: 1, number: 0, heard_of: 1_000_000 }
    }

    /// A file system without locks.
    fn lockless(_: &File) -> Result<(), TryLockError> {
        Err(TryLockError::Error(io::ErrorKind::Unsupported.into()))
    }

    /// A file system whose locks are each machine's affair.
    fn local(_: &File) -> Result<(), TryLockError> {
        Ok(())
    }

    fn settled(claim: Claim) -> Result<Lease, FileError> {
        claim.settle(|_| Ok(()))
    }

    fn write(path: &Path, holder: &Holder) {
        fs::write(path, holder.text().unwrap()).unwrap();
    }

    #[test]
    fn who_is_dead_holds_nothing() {
        let us = |host: &str, boot_id: &str, seconds: u64| {
            let (host, boot_id) = (host.into(), boot_id.into());
            Holder { host, boot_id, pid: 12, run: 2, number: 0, heard_of: 1_000_000 + seconds }
        };
        let unnamed = |host: &str| Holder { boot_id: String::new(), ..us(host, "", 0) };
        for (holder, us, locked, dead) in [
            (holder(), us("node-7", "b", 1), true, true),
            (holder(), us("node-7", "b", 1), false, false),
            (holder(), us("node-7", "b", 299), false, false),
            (holder(), us("node-7", "b", 300), false, true),
            // Another container of this machine, and another machine of that name.
            (holder(), us("pod-1", "b", 1), true, true),
            (holder(), us("node-7", "c", 1), true, false),
            (holder(), us("node-8", "c", 299), true, false),
            (holder(), us("node-8", "c", 300), true, true),
            // Systems that tell less of themselves.
            (holder(), us("node-7", "", 1), true, false),
            (unnamed("mac"), us("mac", "", 1), true, true),
            (unnamed("mac"), us("pc", "", 1), true, false),
            (unnamed(""), us("", "", 1), true, false),
        ] {
            assert_eq!(holder.is_dead(&us, locked), dead, "{holder:?} {us:?} {locked}");
        }
    }

    #[test]
    fn a_second_holder_is_told_who_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        for lock in [File::try_lock, lockless] {
            let take = || Claim::stake_as(&Holder::us(), &path, lock).and_then(settled);
            let first = take().unwrap();
            let refused = take().unwrap_err();
            assert!(matches!(refused, FileError::Held { .. }), "{refused}");
            assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
            drop(first);
            drop(take().unwrap());
            assert!(!path.exists());
        }
        write(&path, &Holder { heard_of: u64::MAX, ..holder() });
        let refused = Lease::take(&path).unwrap_err().to_string();
        assert!(refused.contains("process 12 on \"node-7\"") && refused.contains("remove this file"), "{refused}");
    }

    /// As a machine leaves it that lost its power while it wrote.
    #[test]
    fn a_lease_that_cannot_be_read_is_as_old_as_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        for text in ["", "{\"host\":\"no"] {
            fs::write(&path, text).unwrap();
            let refused = Lease::take(&path).unwrap_err().to_string();
            assert!(refused.contains("name cannot be read") && refused.contains("s ago"), "{refused}");
            let long_ago = SystemTime::now() - PATIENCE;
            File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
            drop(Lease::take(&path).unwrap());
        }
    }

    /// However many come at once, and whether they find no lease or a dead holder's.
    #[test]
    fn one_of_many_who_come_at_once_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        for (turn, lock) in [lockless, local].into_iter().cycle().take(4).enumerate() {
            let was_there = turn % 4 >= 2;
            if was_there {
                write(&path, &holder());
            }
            let barrier = Barrier::new(8);
            let take = |machine: u8| {
                let us = Holder { boot_id: machine.to_string(), ..Holder::us() };
                barrier.wait();
                Claim::stake_as(&us, &path, lock).and_then(settled)
            };
            let taken: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|machine| scope.spawn(move || take(machine))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let holders = taken.iter().filter(|lease| lease.is_ok()).count();
            assert!(holders == 1 || (was_there && holders == 0), "turn {turn}: {taken:?}");
            drop(taken);
            _ = fs::remove_file(&path);
        }
    }

    #[test]
    fn who_was_silent_for_too_long_finds_out_that_it_lost_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let mut first = Claim::stake_as(&Holder::us(), &path, lockless).and_then(settled).unwrap();
        first.confirm().unwrap();
        // Asleep, and nobody came.
        first.oversleep();
        first.confirm().unwrap();
        // A clock that was set back is no reason to fall silent.
        first.us.heard_of += 1000;
        first.confirm().unwrap();
        assert!(first.us.heard_of <= since_1970());
        let other = Holder { heard_of: since_1970(), ..holder() };
        write(&path, &other);
        first.confirm().unwrap();
        first.oversleep();
        assert!(first.confirm().unwrap_err().contains("process 12 on \"node-7\""));
        drop(first);
        let kept: Holder = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept, other, "it is not ours to give");
        fs::remove_file(&path).unwrap();
        let mut second = Lease::take(&path).unwrap();
        fs::remove_file(&path).unwrap();
        second.oversleep();
        assert!(second.confirm().unwrap_err().contains("taken or removed"));
    }

    /// A server that was away has forgotten the open file; or the disk takes nothing any more.
    #[test]
    fn who_cannot_renew_its_lease_gives_it_up_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let mut lease = Lease::take(&path).unwrap();
        let dumb = || File::open(&path).unwrap();
        lease.file = dumb();
        lease.us.heard_of -= 179;
        lease.confirm().unwrap();
        assert!(lease.us.heard_of.abs_diff(since_1970()) < 2, "it was opened anew");
        assert!(matches!(Lease::take(&path), Err(FileError::Held { .. })), "it is no longer locked");

        // Another has the lock, and says nothing yet.
        lease.file = dumb();
        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        lease.us.heard_of -= 31;
        assert!(lease.confirm().unwrap_err().contains("could not be renewed"));
        drop((lease, other));

        fs::remove_file(&path).unwrap();
        let mut lease = Lease::take(&path).unwrap();
        lease.file = dumb();
        // What can neither be read nor written.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        lease.us.heard_of -= 170;
        lease.confirm().unwrap();
        lease.us.heard_of -= 10;
        assert!(lease.confirm().unwrap_err().contains("could not be renewed for 18"));
    }

    /// Killed or failed before it was settled: nobody may think that a lock tells enough of it.
    #[test]
    fn a_claim_that_was_not_settled_is_of_no_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        write(&path, &holder());
        drop(Claim::stake(&path).unwrap());
        assert!(matches!(Claim::stake(&path), Err(FileError::Held { by, .. }) if by.contains("s ago")));
        write(&path, &holder());
        let full = Claim::stake(&path).unwrap().settle(|_| Err(io::ErrorKind::StorageFull.into()));
        assert!(matches!(full, Err(FileError::Io { .. })));
        assert!(matches!(Claim::stake(&path), Err(FileError::Held { by, .. }) if by.contains("s ago")));
        write(&path, &holder());
        let slept = Claim::stake(&path).unwrap().settle(|is_ours| {
            is_ours()?;
            write(&path, &Holder { heard_of: since_1970(), ..holder() });
            is_ours()
        });
        assert!(matches!(slept, Err(FileError::Held { .. })));
        write(&path, &holder());
        let lease = Lease::take(&path).unwrap();
        assert!(lease.us.is_of_this_machine(&Holder::us()));
        drop(lease);
        assert!(!path.exists());
    }

    /// One that was silent for long, and whom nobody has taken for dead yet: somebody may be about to.
    #[test]
    fn who_comes_back_late_waits_for_those_who_think_it_dead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let mut late = Lease::take(&path).unwrap();
        late.oversleep();
        thread::scope(|scope| {
            let confirming = scope.spawn(|| late.confirm());
            thread::sleep(SETTLE / 3);
            write(&path, &Holder { heard_of: since_1970(), ..holder() });
            assert!(confirming.join().unwrap().unwrap_err().contains("process 12 on \"node-7\""));
        });
        assert!(late.confirm().is_err(), "it goes on as if nothing had been");
    }
}
