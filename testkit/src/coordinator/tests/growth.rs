//! Nothing is kept for ever, and no request takes longer because there are many jobs, runners or held requests.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::coordinator::fixture::{Lab, TOKEN, body, seconds, work};
use crate::coordinator::{Answer, Coordinator, NewJob};

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

/// The shortest time of several rounds of an act. The others were disturbed by something else on the machine.
fn shortest(mut act: impl FnMut()) -> Duration {
    let time = || {
        let start = Instant::now();
        for _ in 0..10 {
            act();
        }
        start.elapsed()
    };
    std::iter::repeat_with(time).take(12).min().expect("some rounds")
}

/// How long a job takes, from the queue to its end, and a job request for which there is no job.
fn time_of_a_job(lab: &mut Lab) -> Duration {
    shortest(|| {
        let id = lab.gitlab.queue(lab.now, NewJob::new("measured").with_runner(lab.runner));
        assert_eq!(body(&lab.request_job(&work(&[])))["id"], id);
        lab.patch(id, 0, "log");
        lab.put(id, json!({ "state": "success" }));
        assert_eq!(lab.request_job(&work(&[])).status(), 204);
        assert!(lab.gitlab.deadline().is_none_or(|at| at > lab.now) && lab.gitlab.poll(lab.now).is_none());
    })
}

/// Puts so many of something there that has nothing to do with the job whose time is taken.
type Fill = fn(&mut Lab, usize);

#[test]
fn no_request_takes_longer_because_there_are_many_of_something() {
    let fills: [(&str, usize, Fill); 5] = [
        ("runners", 10_000, |lab, many| {
            for number in 0..many {
                lab.gitlab.add_runner(&format!("glrt-{number}"));
            }
        }),
        ("jobs for others", 3000, |lab, many| {
            for _ in 0..many {
                lab.gitlab.queue(lab.now, NewJob::new("other").with_tag("rare"));
            }
        }),
        ("jobs that wait for one", 3000, |lab, many| {
            let first = lab.gitlab.queue(lab.now, NewJob::new("first").with_tag("rare"));
            for _ in 0..many {
                lab.gitlab.queue(lab.now, NewJob::new("next").with_dependency(first));
            }
        }),
        ("jobs that are needed and have ended", 1500, |lab, many| {
            for _ in 0..many {
                let needed = lab.running_job(&[]);
                lab.put(needed, json!({ "state": "success" }));
                lab.gitlab.queue(lab.now, NewJob::new("next").with_dependency(needed).with_tag("rare"));
            }
        }),
        ("held requests", 10_000, |lab, many| {
            let other = lab.gitlab.make_runner();
            let token = lab.gitlab.runner_token(other).expect("a runner").to_owned();
            lab.request_job(&json!({ "token": token }));
            let value = lab.gitlab.stored_queue_value(lab.now, other);
            let request = json!({ "token": token, "last_update": value }).to_string();
            let json = [("content-type", "application/json")];
            for _ in 0..many {
                let answer = lab.submit(Method::POST, "/jobs/request", &json, request.as_bytes());
                assert!(matches!(answer, Answer::Held(_)));
            }
        }),
    ];
    for (what, many, fill) in fills {
        let [with_few, with_many] = [10, many].map(|count| {
            let mut lab = Lab::new(|settings| {
                settings.job_request_limit = 0;
                settings.record_requests = true;
                settings.kept_requests = 100;
                settings.kept_jobs = 100;
                settings.long_poll = Some(seconds(50));
            });
            fill(&mut lab, count);
            time_of_a_job(&mut lab)
        });
        assert!(with_many < with_few * 4, "{with_few:?} with 10 {what}, {with_many:?} with {many}");
    }
}
