//! Makes a stream valid UTF-8.

use bytes::Bytes;
use std::str;

const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// The UTF-8 stage of one stream. Each byte that is not part of a valid sequence becomes one U+FFFD, as in the official runner. It holds back
/// the bytes of an incomplete sequence, at most three.
#[derive(Debug, Default)]
pub(super) struct Repair {
    held: Vec<u8>,
}

impl Repair {
    pub(super) fn push(&mut self, mut chunk: Bytes, out: &mut dyn FnMut(Bytes)) {
        while !self.held.is_empty() && !chunk.is_empty() {
            self.held.extend_from_slice(&chunk.split_to(1));
            let held = std::mem::take(&mut self.held);
            self.push_whole(held.into(), out);
        }
        if !chunk.is_empty() {
            self.push_whole(chunk, out);
        }
    }

    pub(super) fn end(&mut self, out: &mut dyn FnMut(Bytes)) {
        if !self.held.is_empty() {
            out(REPLACEMENT.repeat(self.held.len()).into());
            self.held.clear();
        }
    }

    /// The bytes of a sequence that is not complete.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Where another stopped.
    pub(super) fn resume(held: Vec<u8>) -> Self {
        Self { held }
    }

    /// With nothing held back.
    fn push_whole(&mut self, mut chunk: Bytes, out: &mut dyn FnMut(Bytes)) {
        let Err(error) = str::from_utf8(&chunk) else { return out(chunk) };
        let mut repaired = Vec::new();
        let mut error = Some(error);
        while let Some(wrong) = error {
            let valid = chunk.split_to(wrong.valid_up_to());
            let Some(length) = wrong.error_len() else {
                self.held = chunk.split_off(0).into();
                if repaired.is_empty() && !valid.is_empty() {
                    return out(valid);
                }
                repaired.extend_from_slice(&valid);
                break;
            };
            repaired.extend_from_slice(&valid);
            _ = chunk.split_to(length);
            repaired.extend_from_slice(&REPLACEMENT.repeat(length));
            error = str::from_utf8(&chunk).err();
        }
        repaired.extend_from_slice(&chunk);
        if !repaired.is_empty() {
            out(repaired.into());
        }
    }
}
