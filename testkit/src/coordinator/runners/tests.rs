use http::Method;
use serde_json::{Map, Value, json};

use super::{FEATURE_NAME, FEATURES, INFO_TEXT, MANAGERS, announced};
use crate::coordinator::calendar;
use crate::coordinator::fixture::{Lab, TOKEN, body, seconds, work};
use crate::coordinator::params::Params;
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
            Some(json!({ "error": "active, paused are mutually exclusive" })),
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

#[test]
fn an_expired_token_is_refused_everywhere() {
    let mut lab = Lab::new(|_| {});
    let token = json!({ "token": TOKEN });
    lab.gitlab.expire_runner_token(lab.runner, lab.now.saturating_add(seconds(60)));
    let told = body(&lab.json(Method::POST, "/runners/verify", &token));
    assert_eq!(told["token_expires_at"], "2023-11-14T22:15:00.000Z");
    lab.pass(seconds(60));
    for (method, path) in [
        (Method::POST, "/runners/verify"),
        (Method::POST, "/jobs/request"),
        (Method::POST, "/runners/reset_authentication_token"),
        (Method::DELETE, "/runners"),
    ] {
        let response = lab.json(method, path, &token);
        assert_eq!(
            (response.status().as_u16(), body(&response)),
            (403, json!({ "message": "403 Forbidden" })),
            "{path}"
        );
    }
    // A user can still make a new one.
    lab.gitlab.set_access_token("pat");
    let path = format!("/runners/{}/reset_authentication_token", lab.runner);
    let response = lab.call(Method::POST, &path, &[("authorization", "Bearer pat")], b"");
    let made = body(&response);
    assert_eq!((response.status().as_u16(), &made["token_expires_at"]), (201, &json!(null)));
    assert_eq!(lab.json(Method::POST, "/runners/verify", &json!({ "token": made["token"] })).status(), 200);
}

#[test]
fn users_may_do_what_their_role_and_their_scopes_allow() {
    use crate::coordinator::{Role, RunnerType};
    let create = |kind: &str| json!({ "runner_type": kind, "group_id": 1, "project_id": 1 });
    for (role, scope, kind, status) in [
        (Role::Administrator, "api", "instance_type", 201),
        (Role::Owner, "api", "instance_type", 403),
        (Role::Owner, "create_runner", "group_type", 201),
        (Role::Maintainer, "api", "group_type", 403),
        (Role::Maintainer, "api", "project_type", 201),
        (Role::Developer, "api", "project_type", 403),
        (Role::Administrator, "read_api", "instance_type", 403),
        (Role::Administrator, "manage_runner", "instance_type", 403),
    ] {
        let mut lab = Lab::new(|_| {});
        lab.gitlab.add_user("pat", role, [scope]);
        let headers = [("private-token", "pat"), ("content-type", "application/json")];
        let response = lab.call(Method::POST, "/user/runners", &headers, create(kind).to_string().as_bytes());
        assert_eq!(response.status(), status, "{role:?} with {scope} for {kind}");
    }
    for (role, scope, status) in [
        (Role::Maintainer, "manage_runner", 201),
        (Role::Developer, "api", 403),
        (Role::Maintainer, "create_runner", 403),
    ] {
        let mut lab = Lab::new(|_| {});
        lab.gitlab.add_user("pat", role, [scope]);
        lab.gitlab.set_runner_type(lab.runner, RunnerType::Project);
        let path = format!("/runners/{}/reset_authentication_token", lab.runner);
        assert_eq!(
            lab.call(Method::POST, &path, &[("private-token", "pat")], b"").status(),
            status,
            "{role:?} {scope}"
        );
    }
}

#[test]
fn a_token_is_rotated_until_its_deadline() {
    let mut lab = Lab::new(|_| {});
    lab.gitlab.set_access_token("glpat-admin");
    let at = |lab: &Lab, ahead: u64| calendar::format(lab.now.saturating_add(seconds(ahead)));
    let create = |lab: &mut Lab, expires: Option<String>, deadline: Option<String>| {
        let mut asked = json!({ "runner_type": "instance_type" });
        for (name, time) in [("token_expires_at", expires), ("token_rotation_deadline", deadline)] {
            if let Some(time) = time {
                asked[name] = json!(time);
            }
        }
        let headers = [("private-token", "glpat-admin"), ("content-type", "application/json")];
        let answer = lab.call(Method::POST, "/user/runners", &headers, asked.to_string().as_bytes());
        (answer.status().as_u16(), body(&answer))
    };
    let day = 24 * 3600;
    let (soon, later, late) = (at(&lab, 240), at(&lab, 10 * day), at(&lab, 16 * day));
    let (past, middle) = (at(&lab, 0), at(&lab, 5 * day));
    lab.pass(seconds(1));
    for (expires, deadline, told) in [
        (None, Some(&middle), "token_expires_at is required when token_rotation_deadline is specified"),
        (Some(&soon), None, "token_expires_at must be at least 5 minutes in the future"),
        (Some(&late), None, "token_expires_at is too far in the future"),
        (Some(&later), Some(&past), "token_rotation_deadline cannot be in the past"),
        (Some(&middle), Some(&later), "token_rotation_deadline must be less than or equal to token_expires_at"),
    ] {
        let (status, answer) = create(&mut lab, expires.cloned(), deadline.cloned());
        assert!(
            status == 400 && answer["message"].as_str().unwrap().starts_with(&format!("400 Bad request - {told}")),
            "{answer}"
        );
    }
    let (status, made) = create(&mut lab, Some(later.clone()), Some(middle));
    assert_eq!((status, &made["token_expires_at"]), (201, &json!(later)));
    let reset = |lab: &mut Lab, token: &Value| {
        let answer = lab.json(Method::POST, "/runners/reset_authentication_token", &json!({ "token": token }));
        (answer.status().as_u16(), body(&answer))
    };
    let (status, fresh) = reset(&mut lab, &made["token"]);
    assert_eq!((status, &fresh["token_expires_at"]), (201, &Value::Null), "the settings apply to the new token");
    lab.pass(seconds(6 * day));
    assert_eq!(reset(&mut lab, &fresh["token"]).0, 201, "the first rotation has cleared the deadline");

    let (expires, deadline) = (at(&lab, 2 * day), at(&lab, day));
    let (_, made) = create(&mut lab, Some(expires), Some(deadline));
    lab.pass(seconds(day));
    let passed = (403, json!({ "error": "Token rotation deadline has passed" }));
    assert_eq!(reset(&mut lab, &made["token"]), passed);
    let path = format!("/runners/{}/reset_authentication_token", made["id"]);
    let answer = lab.call(Method::POST, &path, &[("private-token", "glpat-admin")], b"");
    assert_eq!((answer.status().as_u16(), body(&answer)), passed, "a user is refused as well");
    assert_eq!(lab.json(Method::POST, "/runners/verify", &json!({ "token": made["token"] })).status(), 200);
}

#[test]
fn a_runner_has_a_bounded_number_of_managers_that_say_a_bounded_amount() {
    let mut lab = Lab::new(|_| {});
    let said = |length: usize| {
        let many: Map<String, Value> = (0..FEATURES + 10).map(|number| (number.to_string(), true.into())).collect();
        let mut info = Map::from_iter([("name".to_owned(), "é".repeat(length).into())]);
        info.insert("features".to_owned(), many.into());
        info["features"]["f".repeat(length)] = true.into();
        json!({ "token": TOKEN, "system_id": "s_large", "info": info })
    };
    lab.request_job(&said(INFO_TEXT + 1));
    let stored = lab.gitlab.manager_info(lab.runner, "s_large").expect("a manager");
    assert_eq!(stored["name"].as_str().map(|name| name.chars().count()), Some(INFO_TEXT));
    let features = lab.gitlab.manager_features(lab.runner, "s_large").expect("a manager");
    assert!(features.len() == FEATURES && features.iter().all(|name| name.len() <= FEATURE_NAME));
    for number in 0..MANAGERS + 10 {
        lab.pass(std::time::Duration::from_millis(1));
        lab.gitlab.contact(
            lab.now,
            lab.runner,
            &format!("s_{number}"),
            announced(&Params::default()).expect("nothing"),
        );
    }
    let managers: Vec<&str> = lab.gitlab.managers(lab.runner).collect();
    assert_eq!(managers.len(), MANAGERS);
    assert!(!managers.contains(&"s_large") && !managers.contains(&"s_9") && managers.contains(&"s_10"));
}
