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
    /// Drawn by the kernel when it starts: one for each machine, and for all of its containers. Empty where there is none.
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

    pub(super) fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        text.resize(text.len().max(SIZE), b' ');
        Ok(text)
    }

    /// Whether it is the same lease of the same process, whenever that was heard of.
    pub(super) fn is(&self, other: &Self) -> bool {
        Self { heard_of: other.heard_of, ..self.clone() } == *other
    }

    pub(super) fn is_of_this_machine(&self, us: &Self) -> bool {
        if self.boot_id.is_empty() && us.boot_id.is_empty() {
            !self.host.is_empty() && self.host == us.host
        } else {
            self.boot_id == us.boot_id
        }
    }

    /// A lock tells of all processes of this machine; of all others, and where there are no locks, only time does.
    pub(super) fn is_dead(&self, us: &Self, locked: bool) -> bool {
        let silent = us.heard_of.saturating_sub(self.heard_of) >= PATIENCE.as_secs();
        silent || (locked && self.is_of_this_machine(us))
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
