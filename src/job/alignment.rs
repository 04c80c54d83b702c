//! Where the bytes of a job lie in GitLab's log.
//!
//! As a rule both logs are the same, and so are the offsets. They differ if somebody else has written to the same log, and if bytes
//! of ours were lost for good. What is different then holds from an offset on, and not for the whole log:
//!
//! ```text
//!   offsets of the job      0              10    13
//!                           |==============|=====|
//!                           |               \     \
//!   offsets at GitLab       0              10 15    18
//!                           |==============|##|=====|         ## somebody else's bytes
//! ```
//!
//! If GitLab then loses the end of its log and has 8 bytes left, the job goes on with its own byte 8. With one shift for the whole
//! log it would go on with byte 3, and bytes 3 to 8 would be there twice.

use serde::{Deserialize, Serialize};

/// The largest number of shifts that are remembered. Usually there is none, and each one means that another client has written to the same
/// log. If there are more, the job forgets where its oldest bytes lie, and does not send them again.
const MOST_SHIFTS: usize = 32;

/// From the byte `ours` on, up to the next shift, the bytes of the job lie in GitLab's log from `server` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
struct Shift {
    ours: u64,
    server: u64,
}

impl From<(u64, u64)> for Shift {
    fn from((ours, server): (u64, u64)) -> Self {
        Self { ours, server }
    }
}

impl From<Shift> for (u64, u64) {
    fn from(Shift { ours, server }: Shift) -> Self {
        (ours, server)
    }
}

/// Maps offsets of the job's log to offsets of GitLab's log.
///
/// Both offsets grow from shift to shift, and GitLab's grow at least as much as ours, since what lies between our bytes is somebody
/// else's. Without any shift, all offsets are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Alignment {
    /// A slice and not a `Vec`: it rarely changes, and there may be thousands of jobs, so the spare capacity would cost more.
    shifts: Box<[Shift]>,
}

/// Where an end of GitLab's log lies in ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the first of our bytes that is known.
    Before,
    /// Our bytes up to this offset are there, and nothing behind them.
    Ours(u64),
    /// Somebody else's bytes are at the end. Our next byte is the one at this offset.
    Foreign(u64),
}

impl Alignment {
    /// Whether GitLab's log is ours, byte by byte, so that our checksum is the one of GitLab's log.
    pub(super) fn is_exact(&self) -> bool {
        self.shifts.is_empty()
    }

    /// The first of our bytes that is known. What was before is lost for good.
    pub(super) fn floor(&self) -> u64 {
        self.shifts.first().map_or(0, |first| first.ours)
    }

    /// GitLab's offset for one of ours.
    pub(super) fn at_server(&self, offset: u64) -> u64 {
        let behind = self.shifts.partition_point(|shift| shift.ours <= offset);
        match behind.checked_sub(1).and_then(|last| self.shifts.get(last)) {
            Some(shift) => shift.server.saturating_add(offset - shift.ours),
            None => self.shifts.first().map_or(offset, |first| first.server),
        }
    }

    /// Finds an end of GitLab's log in ours.
    pub(super) fn locate(&self, server_end: u64) -> Place {
        if self.shifts.is_empty() {
            return Place::Ours(server_end);
        }
        let behind = self.shifts.partition_point(|shift| shift.server <= server_end);
        let Some(shift) = behind.checked_sub(1).and_then(|last| self.shifts.get(last)) else { return Place::Before };
        let ours = shift.ours.saturating_add(server_end - shift.server);
        match self.shifts.get(behind) {
            Some(next) if next.ours < ours => Place::Foreign(next.ours),
            _ => Place::Ours(ours),
        }
    }

    /// GitLab's log ends at `server_end`: shifts behind it are removed, because GitLab no longer has those bytes. Returns whether there
    /// were any.
    pub(super) fn cut(&mut self, server_end: u64) -> bool {
        let mut shifts = std::mem::take(&mut self.shifts).into_vec();
        let before = shifts.len();
        shifts.retain(|shift| shift.server <= server_end);
        let changes = shifts.len() < before;
        self.set(shifts);
        changes
    }

    /// Our byte at `offset` is the first behind what GitLab's log has now, and goes to `server_end`.
    pub(super) fn shift(&mut self, offset: u64, server_end: u64) {
        let mut shifts = std::mem::take(&mut self.shifts).into_vec();
        if shifts.is_empty() {
            shifts.push(Shift { ours: 0, server: 0 });
        }
        shifts.retain(|shift| shift.ours < offset);
        shifts.push(Shift { ours: offset, server: server_end });
        if shifts.len() > MOST_SHIFTS {
            shifts.remove(0);
        }
        self.set(shifts);
    }

    /// Our bytes before `offset` are lost for good, and the one there goes to `server_end`.
    pub(super) fn restart(&mut self, offset: u64, server_end: u64) {
        self.set(vec![Shift { ours: offset, server: server_end }]);
    }

    /// Replaces the shifts. A single shift that changes no offset is left out.
    fn set(&mut self, shifts: Vec<Shift>) {
        let shifts_nothing = shifts == [Shift { ours: 0, server: 0 }];
        self.shifts = if shifts_nothing { Box::default() } else { shifts.into_boxed_slice() };
    }

    /// Whether a stored value can be that of a log of which this much is acknowledged.
    pub(super) fn is_sound(&self, acknowledged: u64) -> bool {
        let countable = |shift: &Shift| shift.ours <= acknowledged && shift.server <= u64::MAX / 2;
        let grows = |pair: &[Shift]| match pair {
            [before, after] => {
                before.ours < after.ours
                    && after.server.checked_sub(before.server).is_some_and(|there| there >= after.ours - before.ours)
            }
            _ => true,
        };
        self.shifts.len() <= MOST_SHIFTS && self.shifts.iter().all(countable) && self.shifts.windows(2).all(grows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ours 10, foreign 5, ours.
    fn shifted() -> Alignment {
        let mut alignment = Alignment::default();
        alignment.shift(10, 15);
        alignment
    }

    #[test]
    fn a_shift_holds_from_its_offset_on() {
        let alignment = shifted();
        assert!(!alignment.is_exact() && alignment.is_sound(10) && !alignment.is_sound(9));
        assert_eq!([0, 9, 10, 13].map(|ours| alignment.at_server(ours)), [0, 9, 15, 18]);
        let places = [0, 8, 10, 12, 15, 18].map(|end| alignment.locate(end));
        assert_eq!(
            places,
            [Place::Ours(0), Place::Ours(8), Place::Ours(10), Place::Foreign(10), Place::Ours(10), Place::Ours(13)]
        );
    }

    #[test]
    fn what_gitlab_loses_takes_its_shift_with_it() {
        let mut alignment = shifted();
        alignment.cut(15);
        assert_eq!(alignment.at_server(10), 15);
        alignment.cut(10);
        assert!(alignment.is_exact());
        // A part of the foreign bytes is left.
        let mut alignment = shifted();
        alignment.shift(10, 12);
        assert_eq!((alignment.at_server(10), alignment.locate(11)), (12, Place::Foreign(10)));
    }

    #[test]
    fn nothing_is_known_before_what_was_lost_for_good() {
        let mut alignment = shifted();
        alignment.restart(20, 17);
        assert_eq!(
            (alignment.floor(), alignment.locate(16), alignment.locate(19)),
            (20, Place::Before, Place::Ours(22))
        );
        assert_eq!(alignment.at_server(22), 19);
        alignment.shift(20, 3);
        assert_eq!((alignment.floor(), alignment.at_server(20)), (20, 3));
    }

    #[test]
    fn the_oldest_of_too_many_shifts_is_forgotten() {
        let mut alignment = Alignment::default();
        for number in 1..=100 {
            alignment.shift(number, 10 * number);
            assert!(alignment.is_sound(number) && alignment.shifts.len() <= MOST_SHIFTS, "{alignment:?}");
        }
        assert_eq!((alignment.floor(), alignment.locate(10)), (69, Place::Before));
        assert_eq!(alignment.locate(1001), Place::Ours(101));
    }
}
