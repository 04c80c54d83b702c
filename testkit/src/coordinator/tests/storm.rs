//! Requests of every kind, well-formed and not, in random order.

use http::Method;
use serde_json::json;

use crate::coordinator::fixture::{Lab, TOKEN, seconds};
use crate::coordinator::{Answer, JobRecord, NewJob, tokens};

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(tokens::mix(&mut self.0)).unwrap_or(0) % limit
    }

    fn rarely(&mut self) -> bool {
        self.below(12) == 0
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}

fn body(dice: &mut Dice, path: &str, token: &str, queue_value: &str) -> Vec<u8> {
    let state = dice.pick(&["running", "running", "success", "failed", "pending", "canceled"]);
    let checksum = dice.pick(&[json!("crc32:00000001"), json!(null), json!(7), json!([])]);
    let update = json!({ "token": token, "state": state, "output": { "checksum": checksum, "bytesize": -1 } });
    let request = json!({
        "token": TOKEN,
        "last_update": dice.pick(&["", queue_value]),
        "info": { "features": { "two_phase_job_commit": dice.below(2) == 0, "cancel_gracefully": true } },
    });
    let odd = [json!({ "token": [], "info": [], "state": {}, "exit_code": 1.5 }), json!([1]), json!(null)];
    let mut body = match path {
        _ if dice.rarely() => dice.pick(&odd).to_string(),
        _ if path.contains("trace") => "abcdef"[..dice.below(6)].to_owned(),
        _ if path.contains("request") => request.to_string(),
        _ => update.to_string(),
    }
    .into_bytes();
    if !body.is_empty() && dice.rarely() {
        let at = dice.below(body.len());
        body[at] ^= 1 << dice.below(8);
        body.truncate(at + dice.below(10));
    }
    body
}

fn step(lab: &mut Lab, dice: &mut Dice) -> Option<u16> {
    let newest = lab.gitlab.jobs().last().map_or(0, JobRecord::id);
    let id = newest.saturating_sub(dice.below(3) as u64);
    let token = lab.gitlab.job(id).map(|job| job.token().to_owned()).unwrap_or_default();
    let size = lab.gitlab.job(id).map_or(0, |job| job.trace().len());
    let (method, path) = dice.pick(&[
        (Method::PUT, format!("/jobs/{id}")),
        (Method::PATCH, format!("/jobs/{id}/trace")),
        (Method::PATCH, format!("/jobs/{id}/trace?token={token}&debug_trace=1")),
        (Method::POST, "/jobs/request".to_owned()),
        (Method::POST, "/jobs/request".to_owned()),
        (Method::POST, "/runners".to_owned()),
        (Method::POST, "/runners/verify?token=%ff&a=%".to_owned()),
        (Method::PUT, format!("/jobs/{}", u64::MAX)),
        (Method::GET, "//".to_owned()),
    ]);
    let method = if dice.rarely() { dice.pick(&[Method::GET, Method::PUT, Method::DELETE]) } else { method };
    let queue_value = lab.gitlab.stored_queue_value(lab.now, lab.runner).unwrap_or_default().to_owned();
    let body = body(dice, &path, &token, &queue_value);
    let kind = if path.contains("trace") { "text/plain" } else { "application/json" };
    let kind = if dice.rarely() {
        dice.pick(&["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", ";;"])
    } else {
        kind
    };
    let ranges = ["0-0", "3-", "bytes 1-2/3", "-", "99999999999999999999-1", "_-1"].map(str::to_owned);
    let range = if dice.rarely() { dice.pick(&ranges) } else { format!("{size}-") };
    let headers = [("content-type", kind), ("job-token", token.as_str()), ("content-range", range.as_str())];
    let headers = if dice.rarely() { &headers[..1] } else { &headers };
    match lab.submit(method, &path, headers, &body) {
        Answer::Now(response) => Some(response.status().as_u16()),
        Answer::Held(hold) => {
            if dice.below(3) == 0 {
                lab.gitlab.abandon(hold);
            }
            None
        }
    }
}

#[test]
fn no_request_does_harm() {
    let mut dice = Dice(1);
    let mut lab = Lab::new(|settings| {
        settings.long_poll = Some(seconds(50));
        settings.two_phase_commit = true;
        settings.job_request_conflicts = 3;
        settings.archive_delay = Some(seconds(3));
        settings.trace_size_limit = Some(40);
        (settings.job_request_limit, settings.trace_limit, settings.job_limit) = (0, 0, 0);
    });
    lab.gitlab.queue(lab.now, NewJob::default());
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..5_000 {
        let before: Vec<JobRecord> = {
            let newest = lab.gitlab.jobs().last().map_or(0, JobRecord::id);
            (newest.saturating_sub(3)..=newest).filter_map(|id| lab.gitlab.job(id)).cloned().collect()
        };
        *seen.entry(step(&mut lab, &mut dice)).or_insert(0) += 1;
        if dice.rarely() {
            lab.gitlab.queue(lab.now, NewJob::default());
        }
        if dice.rarely() {
            let newest = lab.gitlab.jobs().last().map_or(0, JobRecord::id);
            lab.gitlab.cancel(lab.now, newest);
        }
        for old in before {
            let new = lab.job(old.id());
            assert!(!old.status().is_final() || new.status() == old.status(), "a final state is final");
            assert!(new.trace().starts_with(old.trace()), "a trace only grows");
        }
        lab.pass(seconds(dice.pick(&[0, 0, 0, 1, 60])));
        while lab.gitlab.poll(lab.now).is_some() {}
        assert!(lab.gitlab.deadline().is_none_or(|deadline| deadline > lab.now), "nothing that is due is left");
    }
    for status in [200, 201, 202, 204, 400, 403, 404, 405, 409, 415, 416] {
        assert!(seen.contains_key(&Some(status)), "{status} was never answered: {seen:?}");
    }
    assert!(seen.contains_key(&None), "nothing was held");
}
