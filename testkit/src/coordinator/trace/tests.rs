use http::Method;

use crate::coordinator::fixture::{Lab, body, header, seconds};
use crate::coordinator::settings::{ReplayRule, minutes};

#[test]
fn every_offset_is_answered_as_gitlab_answers_it() {
    // Stored before: five bytes.
    for (rule, start, text, status, stored) in [
        (ReplayRule::TailRepeatAccepted, 5, "fgh", 202, 8),
        (ReplayRule::TailRepeatAccepted, 6, "gh", 416, 5),
        (ReplayRule::TailRepeatAccepted, 2, "cde", 202, 5),
        (ReplayRule::TailRepeatAccepted, 0, "abcde", 202, 5),
        (ReplayRule::TailRepeatAccepted, 2, "XXX", 202, 5),
        (ReplayRule::TailRepeatAccepted, 2, "cdef", 416, 5),
        (ReplayRule::TailRepeatAccepted, 0, "abc", 416, 5),
        (ReplayRule::TailRepeatAccepted, 5, "", 202, 5),
        (ReplayRule::TailRepeatAccepted, 4, "", 416, 5),
        (ReplayRule::TailRepeatAccepted, 6, "", 416, 5),
        (ReplayRule::Strict416, 5, "fgh", 202, 8),
        (ReplayRule::Strict416, 2, "cde", 416, 5),
        (ReplayRule::Strict416, 5, "", 202, 5),
    ] {
        let case = format!("{rule:?} {start} {text:?}");
        let mut lab = Lab::new(|settings| settings.replay = rule);
        let id = lab.running_job(&[]);
        assert_eq!(header(&lab.patch(id, 0, ""), "range"), Some("0-0"));
        assert_eq!(lab.patch(id, 0, "abcde").status(), 202);
        let response = lab.patch(id, start, text);
        assert_eq!(response.status(), status, "{case}");
        assert_eq!(header(&response, "range"), Some(format!("0-{stored}").as_str()), "{case}");
        assert_eq!(lab.trace(id), &"abcdefgh"[..stored], "{case}");
        if status == 202 {
            assert_eq!(header(&response, "job-status"), Some("running"), "{case}");
            assert_eq!(header(&response, "x-gitlab-trace-update-interval"), Some("60"), "{case}");
        } else {
            assert_eq!(body(&response)["error"], "416 Range Not Satisfiable", "{case}");
            assert_eq!(header(&response, "job-status"), None, "{case}");
        }
    }
}

#[test]
fn only_the_start_of_the_range_counts() {
    for (range, stored) in
        [("3-3", "abcd"), ("3-99/1000", "abcd"), ("3", "abcd"), ("bytes 3-3/4", "abc"), ("-4", "abc")]
    {
        let mut lab = Lab::new(|_| {});
        let id = lab.running_job(&[]);
        lab.patch(id, 0, "abc");
        let token = lab.job(id).token().to_owned();
        let headers = [("content-type", "text/plain"), ("job-token", &token), ("content-range", range)];
        lab.call(Method::PATCH, &format!("/jobs/{id}/trace"), &headers, b"d");
        assert_eq!(lab.trace(id), stored, "{range}");
    }
}

#[test]
fn a_patch_needs_a_range_and_a_plain_body() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    let (path, token) = (format!("/jobs/{id}/trace"), lab.job(id).token().to_owned());
    let response = lab.call(Method::PATCH, &path, &[("content-type", "text/plain"), ("job-token", &token)], b"x");
    assert_eq!(
        (response.status().as_u16(), &body(&response)["error"]),
        (400, &"400 Missing header Content-Range".into())
    );
    let headers = [("content-type", "application/json"), ("job-token", &token), ("content-range", "0-0")];
    assert_eq!(lab.call(Method::PATCH, &path, &headers, b"x").status(), 415);
    assert_eq!(lab.trace(id), "");
}

#[test]
fn a_trace_may_shrink() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    lab.patch(id, 0, "abcdef");
    lab.gitlab.forget_trace_tail(id, 2);
    let response = lab.patch(id, 6, "g");
    assert_eq!((response.status().as_u16(), header(&response, "range")), (416, Some("0-2")));
    assert_eq!(lab.patch(id, 2, "cdefg").status(), 202);
    lab.gitlab.forget_trace_tail(id, 100);
    assert_eq!(lab.trace(id), "abcdefg");
}

#[test]
fn the_size_limit_looks_at_the_announced_end_and_fails_the_job() {
    const MIB: u64 = 1 << 20;
    for (limit, start, length, allowed) in [
        (10, 0, 9, true),
        (10, 0, 10, false),
        (2 * MIB, 2 * MIB - 1, 0, true),
        (2 * MIB, 2 * MIB - 1, 1, false),
        // Nothing of that is stored: the server checks before it looks at the offset.
        (10, u64::MAX, 5, false),
    ] {
        let mut lab = Lab::new(|settings| settings.trace_size_limit = Some(limit));
        let id = lab.running_job(&[]);
        let token = lab.job(id).token().to_owned();
        let headers = [("content-type", "text/plain"), ("job-token", &token), ("content-range", &format!("{start}-"))];
        let response = lab.call(Method::PATCH, &format!("/jobs/{id}/trace"), &headers, &vec![b'a'; length]);
        if allowed {
            assert_ne!(response.status(), 403, "{limit} {start} {length}");
            continue;
        }
        assert_eq!(response.status(), 403, "{limit} {start} {length}");
        assert_eq!((header(&response, "job-status"), &body(&response)["error"]), (None, &"403 Forbidden".into()));
        assert_eq!((lab.status(id), lab.job(id).failure_reason()), ("failed", Some("trace_size_exceeded")));
        assert_eq!(header(&lab.patch(id, 0, "a"), "job-status"), Some("failed"));
    }
}

#[test]
fn a_locked_trace_is_a_conflict() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    lab.gitlab.lock_trace(id, lab.now.saturating_add(seconds(2)));
    let response = lab.patch(id, 0, "a");
    assert_eq!((response.status().as_u16(), &body(&response)["message"]), (409, &"409 Conflict: Resource lock".into()));
    assert_eq!(header(&response, "job-status"), None);
    lab.pass(seconds(2));
    assert_eq!(lab.patch(id, 0, "a").status(), 202);
}

#[test]
fn a_watched_log_is_asked_for_more_often() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    for (watched, interval) in [(false, "60"), (true, "3"), (false, "60")] {
        lab.gitlab.watch(id, watched);
        assert_eq!(header(&lab.patch(id, 0, ""), "x-gitlab-trace-update-interval"), Some(interval));
    }
}

#[test]
fn the_job_token_is_masked_and_keeps_its_length() {
    for mask in [true, false] {
        let mut lab = Lab::new(|settings| settings.mask_job_token = mask);
        let id = lab.running_job(&[]);
        let token = lab.job(id).token().to_owned();
        let text = format!("a{token}{token}b");
        assert_eq!(lab.patch(id, 0, &text).status(), 202);
        let expected = if mask { text.replace(&token, &"x".repeat(token.len())) } else { text.clone() };
        assert_eq!(lab.trace(id), expected);
        // A token cut in two by patches stays readable.
        lab.patch(id, text.len() as u64, &token[..4]);
        lab.patch(id, text.len() as u64 + 4, &token[4..]);
        assert!(lab.trace(id).ends_with(&token));
    }
}

#[test]
fn only_the_first_patch_marks_a_debug_trace() {
    for (start, flag, marked) in [("0-0", "true", true), ("0-0", "false", false), ("1-1", "true", false)] {
        let mut lab = Lab::new(|_| {});
        let id = lab.running_job(&[]);
        let token = lab.job(id).token().to_owned();
        let headers = [("content-type", "text/plain"), ("content-range", start)];
        let path = format!("/jobs/{id}/trace?token={token}&debug_trace={flag}");
        lab.call(Method::PATCH, &path, &headers, b"a");
        assert_eq!(lab.job(id).debug_trace(), marked, "{start} {flag}");
    }
}

#[test]
fn who_may_call_about_a_job() {
    type Prepare = fn(&mut Lab, u64);
    let nothing: Prepare = |_, _| {};
    let expired: Prepare = |lab, _| lab.pass(minutes(65));
    let finished: Prepare = |lab, id| assert_eq!(lab.put(id, serde_json::json!({ "state": "success" })).status(), 200);
    let erased: Prepare = |lab, id| lab.gitlab.erase(id);
    let deleted: Prepare = |lab, id| lab.gitlab.delete_project(id);
    let no_sweep = u64::MAX;
    for (prepare, own_token, message, job_status, after) in [
        (nothing, true, None, Some("running"), "running"),
        (nothing, false, Some("403 Forbidden"), None, "running"),
        (expired, true, Some("403 Forbidden - Job token has expired"), Some("failed"), "failed"),
        (finished, true, Some("403 Forbidden - Job is not processing on runner"), Some("success"), "success"),
        (finished, false, Some("403 Forbidden"), None, "success"),
        (erased, true, Some("403 Forbidden - Job has been erased!"), None, "running"),
        (deleted, true, Some("403 Forbidden - Project has been deleted!"), None, "running"),
    ] {
        for method in [Method::PUT, Method::PATCH] {
            let mut lab = Lab::new(|settings| settings.stuck_after = seconds(no_sweep));
            let id = lab.running_job(&[]);
            let other = lab.running_job(&[]);
            prepare(&mut lab, id);
            let token = lab.job(if own_token { id } else { other }).token().to_owned();
            let response = if method == Method::PUT {
                lab.json(
                    method.clone(),
                    &format!("/jobs/{id}"),
                    &serde_json::json!({ "token": token, "state": "running" }),
                )
            } else {
                let headers = [("content-type", "text/plain"), ("job-token", &token), ("content-range", "0-0")];
                lab.call(method.clone(), &format!("/jobs/{id}/trace"), &headers, b"a")
            };
            let case = format!("{method} {message:?}");
            assert_eq!(header(&response, "job-status"), job_status, "{case}");
            assert_eq!(lab.status(id), after, "{case}");
            match message {
                Some(message) => {
                    assert_eq!((response.status().as_u16(), &body(&response)["message"]), (403, &message.into()))
                }
                None => assert!(response.status().is_success(), "{case}"),
            }
            if after == "failed" {
                assert_eq!(lab.job(id).failure_reason(), Some("job_token_expired"));
            }
        }
    }
}

#[test]
fn jobs_nobody_knows_are_forbidden_not_missing() {
    let mut lab = Lab::new(|_| {});
    let id = lab.running_job(&[]);
    let token = lab.job(id).token().to_owned();
    let headers = [("content-type", "text/plain"), ("job-token", &token), ("content-range", "0-0")];
    assert_eq!(lab.call(Method::PATCH, "/jobs/1/trace", &headers, b"a").status(), 403);
    // The parameter wins over the header.
    assert_eq!(lab.call(Method::PATCH, &format!("/jobs/{id}/trace?token=wrong"), &headers, b"a").status(), 403);
    assert_eq!(lab.call(Method::PATCH, &format!("/jobs/{id}/trace"), &headers[..1], b"a").status(), 403);
}

#[test]
fn the_token_of_a_job_is_revoked_or_expires() {
    let mut lab = Lab::new(|_| {});
    let revoked = lab.running_job(&[]);
    assert_eq!(lab.patch(revoked, 0, "a").status(), 202);
    lab.gitlab.revoke_job_token(revoked);
    let answer = lab.patch(revoked, 1, "b");
    assert_eq!((answer.status().as_u16(), header(&answer, "job-status"), lab.status(revoked)), (403, None, "running"));

    let expired = lab.running_job(&[]);
    lab.gitlab.expire_job_token(expired, lab.now.saturating_add(seconds(5)));
    assert_eq!(lab.patch(expired, 0, "a").status(), 202);
    lab.pass(seconds(5));
    let answer = lab.patch(expired, 1, "b");
    assert_eq!((answer.status().as_u16(), header(&answer, "job-status")), (403, Some("failed")));
    assert_eq!(lab.job(expired).failure_reason(), Some("job_token_expired"));
}
