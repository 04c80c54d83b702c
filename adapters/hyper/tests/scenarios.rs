//! The scenarios that every adapter must get right.

use std::sync::Arc;
use std::time::Duration;

use gitlab_runner_api_hyper::gitlab_runner_api::api::info::{Features, Info};
use gitlab_runner_api_hyper::{Job, JobResult, Registration, Runner};
use gitlab_runner_api_testkit::TimeLimit;
use gitlab_runner_api_testkit::scenarios::{self, Run, Step};

const QUICK: Duration = Duration::from_millis(20);
/// No test waits for longer than this until GitLab has a result.
const PATIENCE: Duration = Duration::from_secs(60);

async fn obey(mut job: Job, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Print(bytes) => job.log().send(bytes).await.unwrap(),
            Step::WaitForCancel => _ = job.cancelled().await,
            Step::Exit(code) => _ = job.finish(JobResult::from_exit_code(code)).await,
            Step::Panic => std::panic::resume_unwind(Box::new("on purpose")),
            Step::Drop => return,
            other => panic!("{other:?} is not known here"),
        }
    }
}

async fn serve(run: Arc<Run>) {
    // Of each scenario. The test kit tells a runner after 60 s that it is over.
    let _limit = TimeLimit::start(TimeLimit::TEST);
    let info = Info::new("test", "1").with_features(Features::default().cancel_gracefully(true));
    let registration = Registration::new().with_info(info.clone());
    let runner =
        Runner::register(run.url(), Run::TOKEN, registration).await.unwrap().with_info(info).with_log_header(false);
    let mut runner = runner
        .with_patience(PATIENCE)
        .configure(|config| config.with_check_interval(QUICK).with_update_interval(QUICK).with_keep_alive(QUICK));
    let script = run.clone();
    let over = async {
        while !run.is_over() {
            tokio::time::sleep(QUICK).await;
        }
    };
    let handler = move |job: Job| {
        let steps = script.steps(job.id());
        obey(job, steps)
    };
    runner.run(run.capacity(), handler, over).await.unwrap();
}

#[test]
fn every_scenario_ends_well() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = scenarios::check(|run| runtime.block_on(serve(Arc::new(run.clone()))));
    println!("{report}");
    assert!(report.is_good(), "\n{report}");
}
