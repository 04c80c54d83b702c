use http::Method;
use serde_json::json;

use crate::coordinator::fixture::{Lab, TOKEN, body, seconds, work};
use crate::coordinator::settings::minutes;

#[test]
fn registration() {
    let registration = |extra: serde_json::Value| {
        let mut request = json!({ "token": "reg", "description": "d", "info": { "name": "n" }, "tag_list": "a, b" });
        request.as_object_mut().expect("an object").extend(extra.as_object().cloned().unwrap_or_default());
        request
    };
    let unknown = json!({ "message": "403 Forbidden - invalid token supplied" });
    let untagged =
        json!({ "message": { "tags_list": ["can not be empty when runner is not allowed to pick untagged jobs"] } });
    for (request, status, answer) in [
        (registration(json!({ "run_untagged": false })), 201, None),
        (registration(json!({ "maximum_timeout": "" })), 201, None),
        (registration(json!({ "token": "wrong" })), 403, Some(unknown)),
        (json!({}), 400, Some(json!({ "error": "token is missing" }))),
        (registration(json!({ "tag_list": [], "run_untagged": false })), 400, Some(untagged)),
        (
            registration(json!({ "paused": true, "active": true })),
            400,
            Some(json!({ "error": "paused, active are mutually exclusive" })),
        ),
        (
            registration(json!({ "access_level": "all" })),
            400,
            Some(json!({ "error": "access_level does not have a valid value" })),
        ),
    ] {
        let mut lab = Lab::new(|_| {});
        lab.gitlab.set_registration_token("reg");
        let response = lab.json(Method::POST, "/runners", &request);
        assert_eq!(response.status(), status, "{request}");
        match answer {
            Some(answer) => assert_eq!(body(&response), answer),
            None => {
                let created = body(&response);
                assert!(created["id"].as_u64().is_some_and(|id| id != lab.runner));
                assert!(created["token_expires_at"].is_null());
                assert_eq!(
                    lab.json(Method::POST, "/runners/verify", &json!({ "token": created["token"] })).status(),
                    200
                );
            }
        }
    }

    let mut lab = Lab::new(|_| {});
    assert_eq!(lab.json(Method::POST, "/runners", &registration(json!({}))).status(), 403);
    lab.gitlab.settings_mut().registration_allowed = false;
    assert_eq!(lab.json(Method::POST, "/runners", &registration(json!({}))).status(), 410);
}

#[test]
fn verification() {
    let mut lab = Lab::new(|_| {});
    for (request, status, answer) in [
        (json!({ "token": TOKEN }), 200, json!({ "id": lab.runner, "token": TOKEN, "token_expires_at": null })),
        (json!({ "token": "wrong" }), 403, json!({ "message": "403 Forbidden" })),
        (json!({}), 400, json!({ "error": "token is missing" })),
        (
            json!({ "token": TOKEN, "system_id": "s".repeat(65) }),
            400,
            json!({ "error": "system_id must be less than 64 characters" }),
        ),
    ] {
        let response = lab.json(Method::POST, "/runners/verify", &request);
        assert_eq!((response.status().as_u16(), body(&response)), (status, answer), "{request}");
    }
    assert!(lab.gitlab.manager_features(lab.runner, "<legacy>").is_some());
    lab.gitlab.settings_mut().verify_plain_text = true;
    assert_eq!(lab.json(Method::POST, "/runners/verify", &json!({ "token": TOKEN })).body(), "200");
}

#[test]
fn a_verification_without_features_spoils_cancelling_for_a_while() {
    let mut lab = Lab::new(|settings| settings.feature_refresh = minutes(40));
    let verify = json!({ "token": TOKEN, "system_id": "s_1" });
    assert_eq!(lab.json(Method::POST, "/runners/verify", &verify).status(), 200);

    let early = lab.running_job(&["cancel_gracefully"]);
    lab.gitlab.cancel(lab.now, early);
    assert_eq!(lab.status(early), "canceled");

    lab.pass(minutes(40) - seconds(1));
    let unlucky = lab.running_job(&["cancel_gracefully"]);
    lab.pass(seconds(1));
    let late = lab.running_job(&["cancel_gracefully"]);
    for id in [unlucky, late] {
        lab.gitlab.cancel(lab.now, id);
        assert_eq!(lab.status(id), "canceling");
    }
    assert_eq!(lab.gitlab.manager_contacted_at(lab.runner, "s_1"), Some(lab.now));
}

#[test]
fn managers_of_a_runner_are_told_apart() {
    let mut lab = Lab::new(|_| {});
    let plain = lab.running_job(&[]);
    let mut other = work(&["cancel_gracefully"]);
    other["system_id"] = json!("s_2");
    let graceful = lab.gitlab.queue(lab.now, crate::coordinator::NewJob::default());
    assert_eq!(lab.request_job(&other).status(), 201);
    for (id, status) in [(plain, "canceled"), (graceful, "canceling")] {
        lab.gitlab.cancel(lab.now, id);
        assert_eq!(lab.status(id), status);
    }
    // Calls about a job are calls of the manager that runs it.
    lab.pass(seconds(10));
    lab.patch(graceful, 0, "a");
    assert_eq!(lab.gitlab.manager_contacted_at(lab.runner, "s_2"), Some(lab.now));
    assert_ne!(lab.gitlab.manager_contacted_at(lab.runner, "s_1"), Some(lab.now));
}
