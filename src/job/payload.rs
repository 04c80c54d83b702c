//! What a job says about its own payload before it starts.

use super::Job;
use super::event::JobEvent;
use super::outcome::JobResult;
use crate::log::ansi;
use crate::status::FailureReason;
use crate::variables::Variables;

/// How many things a line of the log names. It counts the others.
const SHOWN: usize = 8;

impl Job {
    /// Fails the job with a line in its log, because a part of its payload that decides what runs could not be read.
    pub(super) fn refuse(&mut self) {
        let why = "The runner does not run this job, because what GitLab asked for cannot be read in full.";
        self.write(ansi::error(why));
        self.finish(JobResult::failed(FailureReason::RunnerSystemFailure));
    }

    /// Queues the events about the payload. They come again after a resume.
    pub(super) fn tell_of_payload(&mut self, variables: &Variables) {
        let unexpanded = variables.unexpanded().to_vec();
        if self.assignment.is_damaged() {
            self.events.push_back(JobEvent::PayloadDamaged(self.assignment.losses().to_vec()));
        }
        if !unexpanded.is_empty() {
            self.events.push_back(JobEvent::Unexpanded(unexpanded));
        }
        let unpromised = self.config.info().features().unpromised(self.spec());
        if !unpromised.is_empty() {
            self.events.push_back(JobEvent::NotPromised(unpromised));
        }
    }

    /// Writes the warnings about the payload to the log of a new job, each in one line.
    pub(super) fn warn_of_payload(&mut self) {
        if let Some(losses) = self.assignment.losses_in_words() {
            self.write(ansi::warning(&format!("The runner could not read all of this job: {losses}.")));
        }
        let warnings = self.events.iter().filter_map(|event| match event {
            JobEvent::Unexpanded(names) => {
                Some(format!("These are too long to be expanded and stay as they are written: {}.", in_words(names)))
            }
            JobEvent::NotPromised(what) => {
                let what: Vec<String> = what.iter().map(ToString::to_string).collect();
                Some(format!("This runner did not promise what the job asks for: {}.", in_words(&what)))
            }
            _ => None,
        });
        for warning in warnings.collect::<Vec<_>>() {
            self.write(ansi::warning(&warning));
        }
    }
}

fn in_words(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
