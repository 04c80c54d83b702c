//! Who holds a lease, as its file says.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A holder that was not heard of for so long is dead.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// What stands for no machine at all.
pub(super) const UNKNOWN: &str = "?";

/// How long the file is, whoever writes it: of two who write at the same moment, it says one or the other.
const SIZE: usize = 512;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) host: String,
    /// Within what its lock tells of it: one start of a kernel, and one mount. [`UNKNOWN`] if it has no lock.
    pub(super) boot_id: String,
    pub(super) pid: u32,
    /// Drawn by each process: process numbers come again.
    #[serde(default)]
    pub(super) run: u64,
    /// Which of its leases.
    #[serde(default)]
    pub(super) number: u64,
    /// Seconds since 1970.
    pub(super) heard_of: u64,
}

impl Holder {
    pub(super) fn us() -> Self {
        static RUN: OnceLock<u64> = OnceLock::new();
        static LEASES: AtomicU64 = AtomicU64::new(0);
        Self {
            host: host(),
            boot_id: UNKNOWN.to_owned(),
            pid: std::process::id(),
            run: *RUN.get_or_init(|| getrandom::u64().unwrap_or_default()),
            number: LEASES.fetch_add(1, Ordering::Relaxed),
            heard_of: since_1970(),
        }
    }

    pub(super) fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        text.resize(text.len().max(SIZE), b' ');
        Ok(text)
    }

    /// Whether it is the same lease of the same process, whatever else is known of it.
    pub(super) fn is(&self, other: &Self) -> bool {
        (&self.host, self.pid, self.run, self.number) == (&other.host, other.pid, other.run, other.number)
    }

    /// A lock tells of all who could have it; of all others, and where there are no locks, only time does. `boot_id` is where
    /// we have the lock.
    pub(super) fn is_dead(&self, boot_id: &str, now: u64) -> bool {
        let silent = now.saturating_sub(self.heard_of) >= PATIENCE.as_secs();
        silent || (self.boot_id == boot_id && boot_id != UNKNOWN)
    }

    pub(super) fn name(&self) -> String {
        match self.pid {
            0 => "somebody whose name cannot be read".to_owned(),
            pid => format!("process {pid} on {:?}", self.host),
        }
    }

    pub(super) fn words(&self, now: u64) -> String {
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

/// Names all that a lock on this file tells of: the processes of one kernel, containers included, by one mount.
pub(super) fn boot_id(file: &File) -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| host());
    match (kernel.trim(), mount(file)) {
        ("", _) | (_, None) => UNKNOWN.to_owned(),
        (kernel, Some(mount)) => format!("{kernel}/{mount:x}"),
    }
}

#[cfg(unix)]
fn mount(file: &File) -> Option<u64> {
    file.metadata().ok().map(|meta| std::os::unix::fs::MetadataExt::dev(&meta))
}

/// Locks are the server's there, and tell of all machines.
#[cfg(not(unix))]
fn mount(_: &File) -> Option<u64> {
    Some(0)
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

pub(super) fn since_1970() -> u64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the file says. If that cannot be read, as where a machine died that was writing, somebody was there when it was written.
pub(super) fn read(file: &mut File) -> io::Result<Holder> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    let written = seconds(file.metadata()?.modified()?);
    let nobody =
        Holder { host: String::new(), boot_id: UNKNOWN.to_owned(), pid: 0, run: 0, number: 0, heard_of: written };
    Ok(serde_json::from_slice(&text).unwrap_or(nobody))
}
