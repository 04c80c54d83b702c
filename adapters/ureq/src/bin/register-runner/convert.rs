//! Takes over what the Python package `gitlab_runner_api` saved. Asks nobody, and leaves the old file as it is.

use std::path::Path;

use gitlab_runner_api_ureq::{Job, JobRecord, Runner};
use serde_json::{Value, json};

use crate::args::{check_free, check_name, text_in};
use crate::failure::Failure;
use crate::words::shown;
use crate::{Done, done};

pub(crate) fn convert(old: &Path, new: &Path, overwrite: bool) -> Result<Done, Failure> {
    let text = text_in(old, "OLD")?;
    if old.canonicalize().is_ok_and(|old| new.canonicalize().is_ok_and(|new| old == new)) {
        let text = format!("{} is the old file, which stays as it is: name another for the new one", shown(new, "NEW"));
        return Err(Failure::usage(text));
    }
    match kind(&text) {
        Some(Kind::Runner) => runner(old, new, overwrite),
        Some(Kind::Job) => job(old, &text, new, overwrite),
        None => Err(Failure::file(format!(
            "{}: this is neither a runner nor a job of the Python package, or it is damaged; the file was not changed",
            shown(old, "OLD")
        ))),
    }
}

enum Kind {
    Runner,
    Job,
}

/// Both are a list whose first member is a version. A job goes on with its runner, which is a list written out as a text; a
/// runner with its address.
fn kind(text: &str) -> Option<Kind> {
    let members: Vec<Value> = serde_json::from_str(text).ok()?;
    let second = members.get(1)?.as_str()?;
    Some(if second.trim_start().starts_with('[') { Kind::Job } else { Kind::Runner })
}

fn runner(old: &Path, new: &Path, overwrite: bool) -> Result<Done, Failure> {
    let runner = Runner::load_python(old)?;
    check_name(new)?;
    check_free(new, overwrite)?;
    runner.save(new)?;
    let text = format!("{}: Runner {} is now in {}", runner.url(), runner.id(), new.display());
    Ok(done(&runner, new, text))
}

fn job(old: &Path, text: &str, new: &Path, overwrite: bool) -> Result<Done, Failure> {
    if overwrite {
        return Err(Failure::usage(format!("{} is a job: --overwrite is for runners alone", shown(old, "OLD"))));
    }
    let bad = |error| Failure::file(format!("{}: {error}; the file was not changed", shown(old, "OLD")));
    let record = JobRecord::from_python(text).map_err(bad)?;
    Job::store(&record, new)?;
    let (url, id) = (record.server().as_str(), record.assignment().id());
    let text = format!("{url}: Job {id} is now in {}; let the Python program go no further with it", new.display());
    Ok(Done { text, json: json!({ "url": url, "job_id": id, "folder": new.display().to_string() }) })
}
