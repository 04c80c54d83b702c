//! What the Python package offered and no other test shows; see the table in the core's manual.

use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings, TimeLimit};
use gitlab_runner_api_ureq::gitlab_runner_api::PersonalAccessToken;
use gitlab_runner_api_ureq::gitlab_runner_api::api::create_runner::RunnerType;
use gitlab_runner_api_ureq::gitlab_runner_api::api::unregister::Removal;
use gitlab_runner_api_ureq::{Artifact, Error, FailureReason, Instance, Registration, Runner};

const REGISTRATION: &str = "GR1348941canary";
const CREATED: &str = "glrt-canary";
const USER: &str = "glpat-canary";

fn server(settings: Settings) -> Server {
    let mut gitlab = Coordinator::new(settings);
    gitlab.add_runner(CREATED);
    gitlab.set_registration_token(REGISTRATION);
    gitlab.set_access_token(USER);
    Server::start(gitlab).unwrap().with_time_limit(TimeLimit::TEST)
}

fn user(token: &str) -> PersonalAccessToken {
    PersonalAccessToken::new(token).unwrap()
}

#[test]
fn a_user_creates_a_runner() {
    let server = server(Settings::default().with(|s| s.token_expires_at = Some("2099-01-11T14:39:24.000Z".into())));
    let gitlab = Instance::new(&server.url()).unwrap();
    let registration = || Registration::new().with_description("made").with_tags(["a", "b"]).with_locked(true);
    let runner = gitlab.create_runner(user(USER), RunnerType::Project(7), registration()).unwrap();
    assert!(runner.token().expose().starts_with("glrt-"));
    assert_eq!(runner.token_expires_at(), Some("2099-01-11T14:39:24.000Z"));
    runner.check_auth().unwrap();
    server.with(|gitlab, _| {
        let kept = gitlab.runner_attributes(runner.id()).unwrap();
        assert_eq!((&kept["description"], &kept["runner_type"]), (&"made".into(), &"project_type".into()));
        assert_eq!((&kept["tag_list"], &kept["locked"]), (&vec!["a", "b"].into(), &true.into()));
        assert_eq!(gitlab.managers(runner.id()).collect::<Vec<_>>(), [runner.system_id().as_str()]);
    });

    let refused = gitlab.create_runner(user("glpat-wrong"), RunnerType::Instance, registration()).unwrap_err();
    assert!(matches!(refused, Error::NotPermitted(..)) && refused.to_string().contains("create_runner"), "{refused}");
    server.with(|gitlab, _| gitlab.settings_mut().creation_allowed = false);
    let refused = gitlab.create_runner(user(USER), RunnerType::Group(3), registration()).unwrap_err();
    assert!(matches!(refused, Error::NotPermitted(..)) && !refused.to_string().contains("canary"), "{refused}");
    assert_eq!(server.with(|gitlab, _| gitlab.runners().count()), 2);
}

#[test]
fn a_runner_is_unregistered() {
    let server = server(Settings::default());
    let registered = Runner::register(&server.url(), REGISTRATION, Registration::new()).unwrap();
    assert_eq!(registered.unregister().unwrap(), Removal::Removed);
    assert!(matches!(registered.unregister(), Err(Error::Unauthorized(_))) && registered.check_auth().is_err());

    let created = Runner::register(&server.url(), CREATED, Registration::new()).unwrap();
    assert_eq!(created.unregister().unwrap(), Removal::Removed);
    assert_eq!(created.unregister().unwrap(), Removal::AlreadyGone);
    server.with(|gitlab, _| assert_eq!((gitlab.managers(1).count(), gitlab.runners().count()), (0, 1)));
    created.check_auth().unwrap();
    assert_eq!(created.unregister_all().unwrap(), Removal::Removed);
    assert_eq!(server.with(|gitlab, _| gitlab.runners().count()), 0);
}

#[test]
fn a_token_is_reset_and_kept_before_it_is_used() {
    let server = server(Settings::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runner.json");
    let mut runner = Runner::register(&server.url(), CREATED, Registration::new()).unwrap();
    let other = Runner::register(&server.url(), CREATED, Registration::new()).unwrap();
    assert!(matches!(runner.reset_token(folder.path().join("none/runner.json")), Err(Error::File { .. })));
    runner.check_auth().unwrap();
    assert_eq!(runner.rotation_due(), None, "it never expires");

    server.with(|gitlab, _| gitlab.settings_mut().token_expires_at = Some("2100-01-01T00:00:00.000Z".into()));
    runner.reset_token(&path).unwrap();
    let (now, due) = (server.now(), runner.rotation_due().unwrap());
    assert!(due > now && due.as_millis() < 4_102_444_800_000, "{due:?}");
    assert_eq!(Runner::load(&path).unwrap().rotation_due(), Some(due));
    assert_ne!(runner.token().expose(), CREATED);
    assert_eq!(Runner::load(&path).unwrap().token().expose(), runner.token().expose());
    runner.check_auth().unwrap();
    assert!(matches!(other.check_auth(), Err(Error::Unauthorized(_))), "the old token is worth nothing");
    let mut other = other;
    assert!(matches!(other.reset_token(&path), Err(Error::Unauthorized(_))));

    let first = runner.token().clone();
    other.reset_token_as_user(user(USER), &path).unwrap();
    assert_ne!(other.token().expose(), first.expose());
    other.check_auth().unwrap();
    assert!(matches!(other.reset_token_as_user(user("glpat-x"), &path), Err(Error::NotPermitted(..))));
    assert_eq!(Runner::load(&path).unwrap().token().expose(), other.token().expose());
}

#[test]
fn a_runner_has_all_its_properties() {
    let server = server(Settings::default().with(|s| s.router_url = Some("wss://kas.example.test".into())));
    let info = Registration::new().info().clone().with_name("ours").with_version("1").with_revision("abc");
    let info = info.with_platform("linux", "arm64").with_executor("slurm");
    let registration =
        Registration::new().with_description("d").with_locked(true).with_maximum_timeout(600).with_tags(["a"]);
    let runner = Runner::register(&server.url(), REGISTRATION, registration.with_info(info)).unwrap();
    let (info, kept) = (runner.info(), runner.attributes());
    assert_eq!((info.name(), info.version(), info.revision()), ("ours", "1", Some("abc")));
    assert_eq!((info.platform(), info.architecture(), info.executor()), (Some("linux"), Some("arm64"), Some("slurm")));
    assert_eq!(
        (kept.description.as_deref(), kept.locked, kept.paused, kept.run_untagged),
        (Some("d"), true, false, true)
    );
    assert_eq!((kept.maximum_timeout, &kept.tag_list[..]), (Some(600), &["a".to_owned()][..]));
    assert_eq!((runner.id(), runner.url()), (2, server.url().as_str()));
    assert!(runner == runner && runner != Runner::register(&server.url(), CREATED, Registration::new()).unwrap());
    assert_eq!(runner.discover_router().unwrap().as_deref(), Some("wss://kas.example.test"));
    server.with(|gitlab, _| gitlab.settings_mut().router_url = None);
    assert_eq!(runner.discover_router().unwrap(), None);
}

#[test]
fn artifacts_go_up_and_come_down() {
    let server = server(Settings::default());
    let mut runner = Runner::register(&server.url(), CREATED, Registration::new()).unwrap();
    let id = server.with(|gitlab, now| gitlab.queue(now, NewJob::new("leaves files")));
    let mut job = runner.request_job().unwrap().unwrap();
    let archive = || Artifact::archive("out.zip", &b"PK\x05\x06"[..]).with_expire_in("1 week");
    job.upload_artifact(archive()).unwrap();
    job.upload_artifact(archive()).unwrap();
    job.upload_artifact(Artifact::report("junit", "gzip", "junit.xml.gz", &b"\x1f\x8b"[..])).unwrap();
    let other = job.upload_artifact(Artifact::archive("out.zip", &b"other"[..])).unwrap_err();
    assert!(other.to_string().contains("already exists"), "{other}");
    assert_eq!(job.runtime_environment_key().unwrap(), None);
    server.with(|gitlab, _| gitlab.settings_mut().runtime_environment_key = Some("42/s_1/data".into()));
    assert_eq!(job.runtime_environment_key().unwrap().as_deref(), Some("42/s_1/data"));
    job.success().unwrap();
    assert!(matches!(job.upload_artifact(archive()), Err(Error::Unauthorized(_))));
    server.with(|gitlab, _| {
        let kept = gitlab.job(id).unwrap().artifacts();
        let names: Vec<_> = kept.iter().map(|file| (file.artifact_type.as_str(), file.file_name.as_str())).collect();
        assert_eq!(names, [("archive", "out.zip"), ("junit", "junit.xml.gz")]);
        assert_eq!(kept[0].expire_in.as_deref(), Some("1 week"));
    });

    let next = server.with(|gitlab, now| gitlab.queue(now, NewJob::new("needs them")));
    let mut job = runner.request_job().unwrap().unwrap();
    assert_eq!(job.download_artifacts(id, job.token().clone(), 1 << 20).unwrap().unwrap(), &b"PK\x05\x06"[..]);
    assert_eq!(job.download_artifacts(next, job.token().clone(), 1 << 20).unwrap(), None);
    assert!(job.download_artifacts(id, job.token().clone(), 3).is_err(), "larger than was to be taken");
    job.success().unwrap();
}

#[test]
fn the_errors_and_reasons_of_old_are_there() {
    let reasons = [
        (FailureReason::ApiFailure, "api_failure"),
        (FailureReason::MissingDependencyFailure, "missing_dependency_failure"),
        (FailureReason::RunnerSystemFailure, "runner_system_failure"),
        (FailureReason::ScriptFailure, "script_failure"),
        (FailureReason::StuckOrTimeoutFailure, "stuck_or_timeout_failure"),
        (FailureReason::UnknownFailure, "unknown_failure"),
        (FailureReason::ImagePullFailure, "image_pull_failure"),
        (FailureReason::JobExecutionTimeout, "job_execution_timeout"),
    ];
    for (reason, word) in reasons {
        assert_eq!(reason.as_str(), word);
    }
    let server = server(Settings::default());
    let mut runner = Runner::register(&server.url(), CREATED, Registration::new()).unwrap();
    server.with(|gitlab, now| gitlab.queue(now, NewJob::new("one")));
    let mut job = runner.request_job().unwrap().unwrap();
    job.failed(FailureReason::JobExecutionTimeout).unwrap();
    assert!(matches!(job.success(), Err(Error::AlreadyFinished)));
    assert!(matches!(job.upload_artifact(Artifact::archive("a", "b")), Err(Error::Unauthorized(_))));
    server.with(|gitlab, now| gitlab.queue(now, NewJob::new("two")));
    let mut job = runner.request_job().unwrap().unwrap();
    server.with(|gitlab, now| gitlab.force_cancel(now, job.id()));
    assert!(matches!(job.auth(), Err(Error::Canceled)));
    assert!(matches!(job.success(), Err(Error::Aborted(_))));
}

#[test]
fn a_job_has_all_its_properties() {
    use gitlab_runner_api_ureq::gitlab_runner_api::variables::{Place, Variables, export};

    let server = server(Settings::default());
    let mut runner = Runner::register(&server.url(), CREATED, Registration::new()).unwrap();
    let credentials = serde_json::json!([{ "type": "registry", "url": "registry.example.test", "password": "p" }]);
    let new = NewJob::new("all of it")
        .with_script(["one", "two"])
        .with_after_script(["three"])
        .with_variable("GITLAB_USER_LOGIN", "root")
        .with_variable("CI_PIPELINE_URL", "https://gitlab.example.test/acme/widgets/-/pipelines/7")
        .with_variable("CI_COMMIT_MESSAGE", "a message")
        .with_member("credentials", credentials);
    let id = server.with(|gitlab, now| gitlab.queue(now, new));
    let mut job = runner.request_job().unwrap().unwrap();
    let spec = job.spec();
    assert_eq!(
        (spec.id, spec.token.expose(), spec.name(), spec.stage()),
        (id, job.token().expose(), "all of it", "test")
    );
    assert_eq!((spec.username(), spec.commit_message()), (Some("root"), Some("a message")));
    assert_eq!(spec.project_url(), Some("https://gitlab.example.test/acme/widgets"));
    assert_eq!((spec.project_path(), spec.project_name()), (Some("acme/widgets"), "Widgets"));
    assert_eq!((spec.git_ref(), spec.is_branch(), job.git_ref()), ("main", true, "main"));
    assert!(spec.repo_url().unwrap().expose().ends_with("/acme/widgets.git") && spec.commit_sha().len() == 40);
    assert!(
        spec.job_url().unwrap().ends_with(&format!("/-/jobs/{id}")) && spec.pipeline_url().unwrap().ends_with("/7")
    );
    assert_eq!(spec.pipeline_id(), Some(7_000_000_001));
    assert_eq!(
        (spec.script(), spec.after_script()),
        (&["one".to_owned(), "two".to_owned()][..], &["three".to_owned()][..])
    );
    assert!(spec.registry_credential("registry.example.test/a:1").is_some() && spec.registry_credential("a").is_none());

    let variables = Variables::new(spec, &Place::default());
    assert_eq!(variables.value("CI_PROJECT_DIR").as_deref(), Some("/builds/acme/widgets"));
    assert!(variables.value("CI_SERVER").as_deref() == Some("yes") && variables.is_true("CI_DISPOSABLE_ENVIRONMENT"));
    let token = variables.get("CI_JOB_TOKEN").unwrap();
    assert!(token.masked && !token.public && !format!("{token:?}").contains(token.value()));
    assert_eq!(export("A", "it's").unwrap(), "export A='it'\\''s'\n");
    job.success().unwrap();
}
