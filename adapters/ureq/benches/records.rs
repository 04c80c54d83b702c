//! What it costs to have jobs in files. `cargo bench -p gitlab-runner-api-ureq --bench records`
//!
//! The files are where `TMPDIR` says. Nearly all of the time is the disk's, which is asked to keep what it is given; with
//! `TMPDIR=/dev/shm` what is left is this crate's and the kernel's.

use std::fs;
use std::io::Write;
use std::time::Duration;

use divan::Bencher;
use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings};
use gitlab_runner_api_ureq::gitlab_runner_api::api::info::Info;
use gitlab_runner_api_ureq::gitlab_runner_api::log::{LogLimit, LogOptions};
use gitlab_runner_api_ureq::gitlab_runner_api::{
    Assignment, CallKind, Job as Core, JobEvent, Machine, Output, Retain, RunnerConfig, Server as Url, Timestamp,
};
use gitlab_runner_api_ureq::{HttpOptions, Job, JobRecord, Proxies, ProxyUrl, Registration, Runner, Transport};
use tempfile::TempDir;

const LINE: &[u8] = b"[ 42%] Building CXX object simulation/CMakeFiles/simulation.dir/src/geometry.cpp.o\n";
const PAYLOAD: &str = include_str!("../../../tests/payloads/03-modern-full.json");

fn main() {
    sizes(4 << 20, LogLimit::default());
    sizes(4 << 20, LogLimit::None);
    sizes(64 << 20, LogLimit::None);
    divan::main();
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn new_job(limit: LogLimit) -> Core {
    let config = RunnerConfig::new(Url::parse("https://gitlab.example.test").expect("an address"), Info::new("b", "1"))
        .with_durable(true)
        .with_retain(Retain::Unacknowledged)
        .with_log(LogOptions::default().with_limit(limit));
    Core::new(config.into(), &Assignment::from_json(PAYLOAD).expect("a payload"), Timestamp::EPOCH)
}

/// How large a record is after a log of this size, and how many bytes of the log were in memory at most.
fn sizes(size: usize, limit: LogLimit) {
    let (mut job, mut now, mut log, mut most) = (new_job(limit), Timestamp::EPOCH, Vec::<u8>::new(), 0);
    let mut lines = std::iter::repeat_n(LINE, size / LINE.len());
    loop {
        match job.poll(now) {
            Output::Send(call) => {
                let (_, ticket) = call.split();
                let status = if ticket.hints().kind == CallKind::PatchTrace { 202 } else { 200 };
                let answer = http::Response::builder().status(status).body(()).expect("a status");
                job.handle_response(ticket, answer, now).expect("its own ticket");
            }
            Output::Event(JobEvent::TraceNeeded(range)) => {
                let bytes = log.get(range.start as usize..range.end as usize).expect("it was saved").to_vec();
                job.supply_trace(range.start, bytes.into()).expect("those are the bytes asked for");
            }
            Output::Event(_) => {
                log.extend(job.unsaved().1.concat());
                job.saved(job.revision(), job.log_size());
                most = most.max(job.log_size() - job.retained().0);
            }
            Output::Wait(_) => {
                now = now.saturating_add(Duration::from_millis(1));
                match lines.next() {
                    Some(line) => _ = job.write(line),
                    None if job.unsent() == 0 => break,
                    None => {}
                }
            }
            Output::Done => break,
        }
    }
    let snapshot = job.snapshot();
    let record =
        JobRecord::new(job.server().clone(), job.assignment().clone(), snapshot, 0, log.into()).expect("its log");
    let folder = folder();
    Job::store(&record, folder.path()).expect("a place for it");
    println!("{size} bytes printed, {limit:?}: at most {most} bytes of log in memory");
    for name in ["assignment.json", "snapshot.json", "log"] {
        println!("  {name}: {} bytes", fs::metadata(folder.path().join(name)).expect(name).len());
    }
    println!("  all of it as one text: {} bytes", record.to_json().len());
}

/// Each gets a record of its own: a folder, and three files that are on disk when it returns.
#[divan::bench(args = [100, 10_000], sample_count = 1, sample_size = 1)]
fn save_jobs(bencher: Bencher<'_, '_>, count: usize) {
    let (folder, record) = (folder(), JobRecord::of(&mut new_job(LogLimit::default())).expect("its log"));
    bencher.bench_local(|| {
        for job in 0..count {
            Job::store(&record, folder.path().join(job.to_string())).expect("a place for it");
        }
    });
}

/// A job that cannot reach its GitLab.
fn alone(folder: &TempDir) -> Job {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/runner-1.json");
    let nowhere = Proxies::all(ProxyUrl::parse("http://127.0.0.1:1").expect("an address"));
    let transport = Transport::with_options(&HttpOptions::new().with_proxies(nowhere)).expect("a transport");
    let runner = Runner::load(golden).expect("a runner").with_transport(transport);
    Job::store(&JobRecord::of(&mut new_job(LogLimit::default())).expect("its log"), folder.path())
        .expect("a place for it");
    runner.load_job(folder.path()).expect("its record")
}

/// What is done before each piece of log that is sent: append it, and replace the state.
#[divan::bench(sample_count = 50, sample_size = 10)]
fn save_a_line(bencher: Bencher<'_, '_>) {
    let folder = folder();
    let mut job = alone(&folder);
    bencher.bench_local(|| {
        job.log().write_all(LINE).expect("a running job");
        job.save(folder.path()).expect("a place for it");
    });
}

/// 4 MiB of log in pieces of 1 MiB, from hand-out to the confirmed report, over a loopback socket.
#[divan::bench(args = [false, true], sample_count = 20, sample_size = 1)]
fn a_life_with_a_record(bencher: Bencher<'_, '_>, kept: bool) {
    let mut gitlab = Coordinator::new(Settings::default());
    gitlab.add_runner("glrt-bench");
    let (server, folder, text) = (Server::start(gitlab).expect("a loopback port"), folder(), vec![b'x'; 1 << 20]);
    let mut runner = Runner::register(&server.url(), "glrt-bench", Registration::new()).expect("a known token");
    if kept {
        runner = runner.with_state_dir(folder.path());
    }
    let queue = || server.with(|gitlab, now| gitlab.queue(now, NewJob::new("chatty")));
    bencher.with_inputs(queue).bench_local_values(|_| {
        let mut job = runner.request_job().expect("an answer").expect("a job");
        for _ in 0..4 {
            job.log().write_all(&text).expect("a running job");
        }
        job.success().expect("GitLab takes it");
    });
}
