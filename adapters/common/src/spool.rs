//! The log of a running job in a temporary file.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

/// How long an adapter tries to read the log of a job again when that fails. After that, a mark in the log takes the place of these bytes.
pub const READ_FOR: Duration = Duration::from_secs(600);

/// How many bytes of a log may be only in memory before they are moved to a file. Most logs are smaller, and never have a file.
const WORTHWHILE: u64 = 2 << 20;

/// The log of a running job in a temporary file, in case GitLab loses a part of it and needs it again.
///
/// The file has no name, and is in the system's folder for temporary files. It is removed when the spool is dropped or the process ends.
/// It contains what GitLab gets: secrets are already hidden.
///
/// If the file cannot be created or written, because the disk is full or the folder is missing, the log stays in memory.
#[derive(Default)]
pub struct Spool {
    /// The part of the log that the record of a resumed job contains, and the offset at which it begins.
    before: (u64, Bytes),
    /// The file, and the offset of the log at which it begins.
    file: Option<(u64, File)>,
    /// The offset of the log at which the file ends.
    end: u64,
    /// Whether writing has failed, so that the file is not used for more of the log.
    is_broken: bool,
}

impl Spool {
    /// Returns the spool of a job that was resumed with this part of its log, which begins at `start`.
    #[must_use]
    pub fn after(start: u64, log: Bytes) -> Self {
        Self { before: (start, log), ..Self::default() }
    }

    /// The offset at which the part of the log begins that the spool has. Nobody has the bytes before.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.before.0
    }

    /// Whether this many bytes of log in memory should be moved to the file.
    #[must_use]
    #[inline]
    pub fn is_worthwhile(&self, unsaved: u64) -> bool {
        unsaved >= WORTHWHILE && !self.is_broken
    }

    /// Appends bytes of the log that begin at `offset`. Returns where they end.
    ///
    /// # Errors
    ///
    /// The error of the operating system. [`Spool::is_worthwhile`] returns false from then on.
    pub fn append(&mut self, offset: u64, chunks: &[Bytes]) -> io::Result<u64> {
        let appended = self.try_append(offset, chunks);
        self.is_broken |= appended.is_err();
        appended
    }

    fn try_append(&mut self, offset: u64, chunks: &[Bytes]) -> io::Result<u64> {
        let (start, file) = match &mut self.file {
            Some((start, file)) => (start, file),
            none => {
                let (start, file) = none.insert((offset, tempfile::tempfile()?));
                self.end = offset;
                (start, file)
            }
        };
        if offset != self.end {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a part of the log is missing"));
        }
        file.seek(SeekFrom::Start(offset - *start))?;
        write_all(file, chunks)?;
        self.end += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        Ok(self.end)
    }

    /// Returns a part of the log, or `None` if the spool does not have all of it.
    ///
    /// # Errors
    ///
    /// The error of the operating system.
    pub fn read(&mut self, range: Range<u64>) -> io::Result<Option<Bytes>> {
        let (start, before) = &self.before;
        if range.start < *start {
            return Ok(None);
        }
        let within = |at: u64| usize::try_from(at - *start).unwrap_or(usize::MAX).min(before.len());
        let head = before.slice(within(range.start)..within(range.end.max(range.start)));
        let from = range.start.max(start.saturating_add(before.len() as u64));
        if from >= range.end {
            let is_whole = head.len() as u64 == range.end.saturating_sub(range.start);
            return Ok(is_whole.then_some(head));
        }
        let Some((file_start, file)) = self.file.as_mut().filter(|(at, _)| *at <= from && range.end <= self.end) else {
            return Ok(None);
        };
        file.seek(SeekFrom::Start(from - *file_start))?;
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut part = Vec::with_capacity(length);
        part.extend_from_slice(&head);
        file.take(range.end - from).read_to_end(&mut part)?;
        if part.len() < length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(part.into()))
    }
}

/// Writes all buffers with few calls to the operating system.
fn write_all(file: &mut File, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = slices.as_mut_slice();
    // With an empty buffer in front, a write returns 0, which looks like a file that takes nothing.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Shows sizes only, because the content of a log may be confidential.
impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.before.0..self.before.0 + self.before.1.len() as u64;
        let file = self.file.as_ref().map(|(start, _)| *start..self.end);
        f.debug_struct("Spool").field("before", &before).field("file", &file).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str, size: usize) -> Vec<Bytes> {
        text.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect()
    }

    #[test]
    fn what_was_appended_is_read_back_in_any_part_and_order() {
        let log: String = (0..5_000).map(|number| format!("line {number}\n")).collect();
        let at = |offset: usize| offset as u64;
        for (record_start, record_end) in [(0, 0), (0, 700), (300, 700)] {
            let mut spool = Spool::after(at(record_start), log[record_start..record_end].to_owned().into());
            let mut end = record_end;
            for size in [1, 5_000, 0, 17, 20_000] {
                let next = end + size;
                assert_eq!(spool.append(at(end), &chunks(&log[end..next], 999)).unwrap(), at(next));
                end = next;
                for (from, to) in [(record_start, end), (650, end), (end - 1, end), (record_start, 600), (end, end)] {
                    let Some(wanted) = log.get(from..to).filter(|_| record_start <= from && to <= end) else {
                        continue;
                    };
                    assert_eq!(spool.read(at(from)..at(to)).unwrap().unwrap(), wanted, "{from}..{to} of {spool:?}");
                }
            }
            assert_eq!(spool.read(at(record_start)..at(end) + 1).unwrap(), None);
            if record_start > 0 {
                assert_eq!(spool.read(0..at(end)).unwrap(), None);
                assert_eq!(spool.read(0..10).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_small_log_has_no_file() {
        let spool = Spool::default();
        assert!(!spool.is_worthwhile(WORTHWHILE - 1) && spool.is_worthwhile(WORTHWHILE));
    }

    #[test]
    fn after_a_failure_the_log_stays_where_it_is() {
        let mut spool = Spool::default();
        spool.append(0, &chunks("abc", 2)).unwrap();
        spool.append(9, &chunks("x", 1)).unwrap_err();
        assert!(!spool.is_worthwhile(u64::MAX));
        assert_eq!(spool.read(0..3).unwrap().unwrap(), "abc");
        assert!(!format!("{spool:?}").contains("abc"));
    }
}
