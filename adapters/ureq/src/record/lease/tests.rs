//! Who has a lease, and who has not.

use std::fs;
use std::sync::Barrier;

use super::*;

fn holder() -> Holder {
    Holder { host: "node-7".into(), boot_id: "b".into(), pid: 12, run: 1, number: 0, heard_of: 1_000_000 }
}

/// A file system without locks.
fn lockless(_: &File) -> Result<String, TryLockError> {
    Err(TryLockError::Error(io::ErrorKind::Unsupported.into()))
}

/// A file system whose locks are each machine's affair.
fn local(_: &File) -> Result<String, TryLockError> {
    Ok(format!("machine of {:?}", thread::current().id()))
}

fn settled(claim: Claim) -> Result<Lease, FileError> {
    claim.settle(|_| Ok(()))
}

fn write(path: &Path, holder: &Holder) {
    fs::write(path, holder.text().unwrap()).unwrap();
}

#[test]
fn who_is_dead_holds_nothing() {
    for (theirs, ours, seconds, dead) in [
        ("b/1", "b/1", 1, true),
        ("b/1", "b/2", 1, false),
        ("b/1", "c/1", 1, false),
        ("b/1", UNKNOWN, 299, false),
        ("b/1", UNKNOWN, 300, true),
        ("b/1", "c/1", 300, true),
        (UNKNOWN, "b/1", 1, false),
        (UNKNOWN, UNKNOWN, 1, false),
    ] {
        let holder = Holder { boot_id: theirs.into(), ..holder() };
        assert_eq!(holder.is_dead(ours, 1_000_000 + seconds), dead, "{theirs} {ours} {seconds}");
    }
}

#[test]
fn a_second_holder_is_told_who_is_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    for lock in [lock, lockless] {
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
        let take = || {
            barrier.wait();
            Claim::stake_as(&Holder::us(), &path, lock).and_then(settled)
        };
        let taken: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
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
    first.renew_if_due().unwrap();
    // Asleep, and nobody came.
    first.oversleep();
    first.renew_if_due().unwrap();
    // A clock that was set back is no reason to fall silent.
    first.us.heard_of += 1000;
    first.renew_if_due().unwrap();
    assert!(first.us.heard_of <= since_1970());
    let other = Holder { heard_of: since_1970(), ..holder() };
    write(&path, &other);
    first.renew_if_due().unwrap();
    first.oversleep();
    assert!(first.renew_if_due().unwrap_err().contains("process 12 on \"node-7\""));
    drop(first);
    let kept: Holder = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(kept, other, "it is not ours to give");
    fs::remove_file(&path).unwrap();
    let mut second = Lease::take(&path).unwrap();
    fs::remove_file(&path).unwrap();
    second.oversleep();
    assert!(second.renew_if_due().unwrap_err().contains("taken or removed"));
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
    lease.renew_if_due().unwrap();
    assert!(lease.us.heard_of.abs_diff(since_1970()) < 2, "it was opened anew");
    assert!(matches!(Lease::take(&path), Err(FileError::Held { .. })), "it is no longer locked");

    // Another has the lock, and says nothing yet.
    lease.file = dumb();
    let other = File::open(&path).unwrap();
    other.lock().unwrap();
    lease.us.heard_of -= 31;
    assert!(lease.renew_if_due().unwrap_err().contains("could not be renewed"));
    drop((lease, other));

    fs::remove_file(&path).unwrap();
    let mut lease = Lease::take(&path).unwrap();
    lease.file = dumb();
    // What can neither be read nor written.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    lease.us.heard_of -= 170;
    lease.renew_if_due().unwrap();
    lease.us.heard_of -= 10;
    assert!(lease.renew_if_due().unwrap_err().contains("could not be renewed for 18"));
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
    assert_eq!(lease.us.boot_id, boot_id(&lease.file));
    assert_ne!(lease.us.boot_id, UNKNOWN);
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
        let confirming = scope.spawn(|| late.renew_if_due());
        thread::sleep(SETTLE / 3);
        write(&path, &Holder { heard_of: since_1970(), ..holder() });
        assert!(confirming.join().unwrap().unwrap_err().contains("process 12 on \"node-7\""));
    });
    assert!(late.renew_if_due().is_err(), "it goes on as if nothing had been");
}
