//! A log of 4 MiB through the adapter, against a bare ureq client that sends the same requests.
//!
//! Both talk to the simulated GitLab over a loopback socket, in this process. What is compared is processor time: for
//! exact counts run either of them alone under `valgrind --tool=callgrind` (`--bench adapter`, `--bench bare`).

use std::io::Write;
use std::time::Duration;

use divan::Bencher;
use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings};
use gitlab_runner_api_ureq::{Registration, Runner};

const PIECE: usize = 1 << 20;
const PIECES: usize = 4;

fn main() {
    divan::main();
}

fn server() -> Server {
    let mut gitlab = Coordinator::new(Settings::default().with(|settings| settings.mask_job_token = false));
    gitlab.add_runner("glrt-bench");
    Server::start(gitlab).expect("a loopback port")
}

fn queue(server: &Server) {
    server.with(|gitlab, now| gitlab.queue(now, NewJob::new("chatty")));
}

#[divan::bench(sample_count = 30, sample_size = 1)]
fn adapter(bencher: Bencher<'_, '_>) {
    let server = server();
    let text = vec![b'x'; PIECE];
    let mut runner = Runner::register(&server.url(), "glrt-bench", Registration::new()).expect("a known token");
    bencher.with_inputs(|| queue(&server)).bench_local_values(|()| {
        let mut job = runner.request_job().expect("an answer").expect("a job");
        for _ in 0..PIECES {
            job.log().write_all(&text).expect("a running job");
        }
        job.success().expect("GitLab takes it");
    });
}

#[divan::bench(sample_count = 30, sample_size = 1)]
fn bare(bencher: Bencher<'_, '_>) {
    let server = server();
    let text = vec![b'x'; PIECE];
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60))).build().into();
    let api = format!("{}/api/v4", server.url());
    let json = |method: &str, path: &str, body: String| {
        let request = http::Request::builder().method(method).uri(format!("{api}/{path}"));
        let request = request.header("content-type", "application/json").body(body).expect("a request");
        agent.run(request).expect("an answer").into_body().read_to_string().expect("a text")
    };
    bencher.with_inputs(|| queue(&server)).bench_local_values(|()| {
        let payload = json("POST", "jobs/request", r#"{"token":"glrt-bench"}"#.to_owned());
        let job: serde_json::Value = serde_json::from_str(&payload).expect("a job");
        let (id, token) = (job["id"].as_u64().expect("an id"), job["token"].as_str().expect("a token"));
        let update =
            |state: &str| json("PUT", &format!("jobs/{id}"), format!(r#"{{"token":"{token}","state":"{state}"}}"#));
        update("running");
        for piece in 0..PIECES {
            let request = http::Request::patch(format!("{api}/jobs/{id}/trace?debug_trace=false"))
                .header("content-type", "text/plain")
                .header("job-token", token)
                .header("content-range", format!("{}-{}", piece * PIECE, (piece + 1) * PIECE - 1));
            let answer = agent.run(request.body(&text[..]).expect("a request")).expect("an answer");
            assert_eq!(answer.status(), 202);
        }
        update("success");
    });
}
