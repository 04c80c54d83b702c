//! The scenarios that every adapter must get right.

use std::io::Write;
use std::thread;
use std::time::Duration;

use gitlab_runner_api_testkit::TimeLimit;
use gitlab_runner_api_testkit::scenarios::{self, Run, Step};
use gitlab_runner_api_ureq::gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api_ureq::{Job, JobResult, Registration, Runner, Stop};

const QUICK: Duration = Duration::from_millis(20);
/// No test waits for longer than this until GitLab has a result.
const PATIENCE: Duration = Duration::from_secs(60);

fn obey(mut job: Job, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Print(bytes) => job.log().write_all(&bytes).unwrap(),
            Step::WaitForCancel => _ = job.wait_cancelled(Duration::from_secs(30)),
            Step::Exit(code) => _ = job.finish(JobResult::from_exit_code(code)),
            Step::Panic => std::panic::resume_unwind(Box::new("on purpose")),
            Step::Drop => return,
            other => panic!("{other:?} is not known here"),
        }
    }
}

fn serve(run: &Run) {
    // Of each scenario. The test kit tells a runner after 60 s that it is over.
    let _limit = TimeLimit::start(TimeLimit::TEST);
    let info = Info::new("test", "1").with_features(Features::default().cancel_gracefully(true));
    let registration = Registration::new().with_info(info.clone());
    let runner = Runner::register(run.url(), Run::TOKEN, registration).unwrap().with_info(info).with_log_header(false);
    let mut runner = runner
        .with_patience(PATIENCE)
        .configure(|config| config.with_check_interval(QUICK).with_update_interval(QUICK).with_keep_alive(QUICK));
    let stop = Stop::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !run.is_over() {
                thread::sleep(QUICK);
            }
            stop.drain();
        });
        runner.run(run.capacity(), |job| obey_of(run, job), &stop).unwrap();
    });
}

fn obey_of(run: &Run, job: Job) {
    let steps = run.steps(job.id());
    obey(job, steps);
}

#[test]
fn every_scenario_ends_well() {
    let report = scenarios::check(serve);
    println!("{report}");
    assert!(report.is_good(), "\n{report}");
}
