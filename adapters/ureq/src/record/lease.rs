//! Who may send what a record says.
//!
//! Two processes that go on with one record at the same time can splice its log: GitLab compares sizes, not bytes. A lock on
//! a file keeps them apart where the file system knows locks. On many cluster file systems a lock is one machine's affair, or
//! there is none; so the file also says who holds it, and when that was last heard of. It is made whole or not at all, and
//! removed by who gives it back: of any number who find none, on however many machines, one makes it. The file of a holder who
//! died stays, and is taken over.

mod holder;

use std::fs::{File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use gitlab_runner_api_common::{FileError, form};

use holder::{Holder, PATIENCE, UNKNOWN, boot_id, read, since_1970};

/// How often a holder says that it lives, and looks whether it still is the holder.
pub(crate) const REFRESH: Duration = Duration::from_secs(30);

/// So far the clocks of two machines may be apart: somewhere, a holder is dead so much earlier.
const SKEW: Duration = Duration::from_secs(120);

/// Several can find one and the same holder dead. So long after, the last to write has the lease; who wrote later than half of
/// it after it looked does not.
const SETTLE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 3 });

/// How often it is looked again when others were faster.
const ATTEMPTS: usize = 10;

const ERROR_LOCK_VIOLATION: i32 = 33;

const TOO_SLOW: &str = "the file system is too slow to tell who has this job; try again later";

/// Held as long as it lives, and given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    file: File,
    us: Holder,
    /// Why it is not ours any more, or not yet. Then it is not ours to give back either.
    lost: Option<String>,
}

/// How a file is locked, and what that tells of: see [`boot_id`].
type Lock = fn(&File) -> Result<String, TryLockError>;

fn lock(file: &File) -> Result<String, TryLockError> {
    file.try_lock().map(|()| boot_id(file))
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
    /// What our lock tells of.
    boot_id: String,
    /// When that is known; none if nobody else can have thought that it is free.
    settled_at: Option<Instant>,
}

impl Claim {
    /// Claims the lease of a record, unless somebody holds it who lives.
    pub(crate) fn stake(path: &Path) -> Result<Self, FileError> {
        Self::stake_as(&Holder::us(), path, lock)
    }

    fn stake_as(us: &Holder, path: &Path, lock: Lock) -> Result<Self, FileError> {
        for _ in 0..ATTEMPTS {
            // Looked at first, so that nothing is written beside a lease that is held.
            if let Some(claim) = Self::take_over(us, path, lock)? {
                return Ok(claim);
            }
            if let Some(lease) = Lease::make(us, path, lock).map_err(|error| FileError::io(path, error))? {
                return Ok(Self { boot_id: lease.us.boot_id.clone(), lease, settled_at: None });
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
        let boot_id = match lock(&file) {
            Ok(boot_id) => boot_id,
            Err(TryLockError::WouldBlock) => {
                let by = read(&mut file).map_or_else(|_| "another process".to_owned(), |holder| holder.name());
                return Err(FileError::held(path, format!("this job is held by {by}; end that first")));
            }
            Err(TryLockError::Error(_)) => UNKNOWN.to_owned(),
        };
        let holder = read(&mut file).map_err(failed)?;
        let now = since_1970();
        // Ours if it was made, and a server's word that it was got lost.
        if !holder.is(us) && !holder.is_dead(&boot_id, now) {
            return Err(FileError::held(path, holder.words(now)));
        }
        let contested = is_contested(now.saturating_sub(holder.heard_of));
        // As long as it is not settled, nobody is to think that a lock tells enough of us.
        let claimant = if contested { UNKNOWN } else { &boot_id };
        let us = Holder { boot_id: claimant.to_owned(), heard_of: now, ..us.clone() };
        let lost = contested.then(|| "it is not settled yet who has this job; try again".to_owned());
        let mut lease = Lease { path: path.to_owned(), file, us, lost };
        lease.say().map_err(failed)?;
        if contested && looked.elapsed() > SETTLE / 2 {
            lease.keep_others_from_it();
            return Err(FileError::held(path, TOO_SLOW));
        }
        let settled_at = contested.then(|| Instant::now() + SETTLE);
        match lease.fate().map_err(failed)? {
            Fate::Ours => Ok(Some(Self { lease, boot_id, settled_at })),
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
        let Self { mut lease, boot_id, settled_at } = self;
        let path = lease.path.clone();
        let Some(at) = settled_at else {
            // It may have waited for its turn.
            lease.renew_if_due().map_err(|by| FileError::held(&path, by))?;
            return Ok(lease);
        };
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let is_ours = || match lease.fate()? {
            Fate::Ours => Ok(()),
            Fate::Gone | Fate::Others(_) => Err(io::ErrorKind::WouldBlock.into()),
        };
        let replaced = is_ours().and_then(|()| replace(&is_ours));
        match replaced.map_err(Trouble::Failed).and_then(|()| lease.renew(boot_id)) {
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
        let mut us = Holder { heard_of: since_1970(), ..us.clone() };
        let content = |file: &File| {
            // Nobody can have locked it, and where there are no locks, what it says is all there is.
            us.boot_id = lock(file).unwrap_or_else(|_| UNKNOWN.to_owned());
            us.text()
        };
        match form::create(path, content) {
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
    pub(crate) fn renew_if_due(&mut self) -> Result<(), String> {
        if let Some(by) = &self.lost {
            return Err(by.clone());
        }
        if since_1970().abs_diff(self.us.heard_of) < REFRESH.as_secs() {
            return Ok(());
        }
        let by = match self.renew(self.us.boot_id.clone()) {
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

    /// Says that we live, and here, and makes sure that nobody else has thought otherwise.
    fn renew(&mut self, boot_id: String) -> Result<(), Trouble> {
        let looked = Watch::start();
        self.must_be_ours()?;
        let us = Holder { boot_id, heard_of: since_1970(), ..self.us.clone() };
        let before = std::mem::replace(&mut self.us, us);
        if let Err(error) = self.say_anew() {
            self.us = before;
            return Err(Trouble::Failed(error));
        }
        if !is_contested(since_1970().abs_diff(before.heard_of)) {
            return Ok(());
        }
        // Somebody may have looked before we spoke, and speak after.
        if looked.elapsed() > SETTLE / 2 {
            self.keep_others_from_it();
            return Err(Trouble::Lost(TOO_SLOW.to_owned()));
        }
        thread::sleep(SETTLE);
        self.must_be_ours()
    }

    /// What was written so late that somebody may have the lease by now: others are kept from it until that has found out.
    fn keep_others_from_it(&mut self) {
        if self.must_be_ours().is_ok() {
            (self.us.boot_id, self.us.heard_of) = (UNKNOWN.to_owned(), since_1970());
            _ = self.say();
        }
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
            self.us.boot_id = match lock(&self.file) {
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                boot_id => boot_id.unwrap_or_else(|_| UNKNOWN.to_owned()),
            };
            self.say()
        })
    }

    fn fate(&self) -> io::Result<Fate> {
        match File::open(&self.path).and_then(|mut file| read(&mut file)) {
            Ok(holder) if holder.is(&self.us) => Ok(Fate::Ours),
            Ok(holder) => Ok(Fate::Others(holder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Fate::Gone),
            // Who has the lock there keeps even itself from reading.
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(ERROR_LOCK_VIOLATION) => Ok(Fate::Ours),
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
pub(crate) fn is_orphaned(path: &Path) -> bool {
    let silent = |holder: Holder| since_1970().saturating_sub(holder.heard_of) >= PATIENCE.as_secs();
    File::open(path).and_then(|mut file| read(&mut file)).is_ok_and(silent)
}

#[cfg(test)]
mod tests;
