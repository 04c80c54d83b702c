//! Nothing is kept for ever. That no request takes longer because there are many jobs, runners or held requests, the bench
//! `server` shows.

use http::Method;
use serde_json::json;

use crate::coordinator::fixture::{Lab, TOKEN, body, seconds};
use crate::coordinator::{Coordinator, NewJob};

/// How many things each collection has. A new field of [`Coordinator`] must be named here: either it is one of these, or it does
/// not grow.
fn sizes(gitlab: &Coordinator) -> Vec<(&'static str, usize)> {
    let Coordinator {
        settings: _,
        clock: _,
        // What a test adds stays until the test removes it.
        registrations: _,
        users: _,
        runners,
        runner_tokens,
        next_runner: _,
        next_manager: _,
        jobs,
        next_job: _,
        ended,
        ended_logs,
        ended_artifacts,
        swept: _,
        running,
        pending,
        dependent,
        needed_by,
        timers,
        holds,
        next_request: _,
        records,
        next_record: _,
        journal,
        limits,
        // A counter for each endpoint and status.
        stats: _,
        repository: _,
    } = gitlab;
    vec![
        ("runners", runners.len()),
        ("managers", runners.values().map(|runner| runner.managers.len()).sum()),
        ("tokens", runner_tokens.len()),
        ("jobs", jobs.len()),
        ("ended", ended.len()),
        ("logs of ended jobs", ended_logs.len()),
        ("files of ended jobs", ended_artifacts.len()),
        ("running", *running),
        ("pending", pending.len()),
        ("dependent", dependent.len()),
        ("dependencies", needed_by.len()),
        ("timers", timers.len()),
        ("held requests", holds.len()),
        ("records", records.len()),
        ("journal", usize::from(journal.is_some())),
        ("limits", limits.len()),
    ]
}

/// A job that ends in each way, with all that a runner may do meanwhile.
fn round(lab: &mut Lab, number: u64) {
    let system_id = format!("s_{number}");
    let queued = lab.gitlab.queue(lab.now, NewJob::new("first"));
    let second = lab.gitlab.queue(lab.now, NewJob::new("second").with_dependency(queued).with_tag("rare"));
    let ask =
        json!({ "token": TOKEN, "system_id": system_id, "info": { "features": { "two_phase_job_commit": true } } });
    let id = body(&lab.request_job(&ask))["id"].as_u64().expect("a job");
    match number % 5 {
        // It is not accepted, and neither is its retry.
        0 => {}
        1 => {
            lab.put(id, json!({ "state": "running" }));
            lab.patch(id, 0, "log");
            lab.put(id, json!({ "state": "success" }));
        }
        2 => {
            lab.put(id, json!({ "state": "running" }));
            lab.put(id, json!({ "state": "failed" }));
            lab.gitlab.retry(lab.now, id);
        }
        // It times out.
        3 => _ = lab.put(id, json!({ "state": "running" })),
        _ => lab.gitlab.force_cancel(lab.now, id),
    }
    let value = lab.gitlab.stored_queue_value(lab.now, lab.runner).expect("a queue value");
    let hold = lab.hold(&value);
    if number.is_multiple_of(2) {
        lab.gitlab.abandon(hold);
    }
    lab.json(Method::POST, "/jobs/request", &json!({ "token": format!("nobody's {number}") }));
    let runner = lab.gitlab.make_runner();
    lab.gitlab.reset_runner_token(runner);
    lab.gitlab.remove_runner(runner);
    lab.pass(seconds(3 * 3600));
    while lab.gitlab.poll(lab.now).is_some() {}
    let unended: Vec<u64> = lab.gitlab.jobs().filter(|job| !job.status().is_final()).map(|job| job.id()).collect();
    assert!(unended.len() <= 3, "{unended:?}");
    for id in unended.into_iter().chain([second]) {
        lab.gitlab.force_cancel(lab.now, id);
    }
}

#[test]
fn nothing_is_kept_for_ever() {
    let mut lab = Lab::new(|settings| {
        settings.kept_jobs = 10;
        settings.kept_requests = 20;
        settings.record_requests = true;
        settings.two_phase_commit = true;
        settings.long_poll = Some(seconds(50));
    });
    let mut largest = Vec::new();
    // Each round takes three hours, and a manager stays for a week.
    for number in 0..400 {
        round(&mut lab, number);
        let now = sizes(&lab.gitlab);
        if number < 100 {
            let most = |(before, now): (&(&'static str, usize), &(&'static str, usize))| (now.0, before.1.max(now.1));
            largest = if largest.is_empty() { now } else { largest.iter().zip(&now).map(most).collect() };
        } else {
            for ((name, most), (_, size)) in largest.iter().zip(&now) {
                assert!(size <= most, "{name}: {size} in round {number}, at most {most} in the first 100");
            }
        }
    }
    let managers = largest.iter().find(|(name, _)| *name == "managers");
    assert!(managers.is_some_and(|(_, most)| *most < 60), "{largest:?}");
}

#[test]
fn a_job_that_times_out_ends_those_that_wait_for_it() {
    let mut lab = Lab::new(|_| {});
    let first = lab.running_job(&[]);
    let second = lab.gitlab.queue(lab.now, NewJob::new("second").with_dependency(first));
    lab.pass(seconds(3 * 3600));
    lab.gitlab.poll(lab.now);
    assert_eq!((lab.status(first), lab.status(second)), ("failed", "skipped"));
}

#[test]
fn a_long_chain_of_jobs_is_skipped_without_a_call_for_each() {
    let mut lab = Lab::new(|_| {});
    let first = lab.gitlab.queue(lab.now, NewJob::new("first"));
    let last =
        (0..20_000).fold(first, |before, _| lab.gitlab.queue(lab.now, NewJob::new("next").with_dependency(before)));
    lab.gitlab.force_cancel(lab.now, first);
    assert_eq!(lab.status(last), "skipped");
}
