//! Seeded worlds: nothing is lost while things go wrong, and all is delivered once they no longer do.
//!
//! [`World`] itself checks the laws at every step: L1 to L4 and L6 to L9 of jobs, and at the end that every log is
//! byte-identical and every lost answer to a job request was told of exactly once.

use std::time::Duration;

use gitlab_runner_api::{FailureReason, JobEvent, JobResult, Outcome, Retain};
use gitlab_runner_api_testkit::{
    Dice, Faults, Intervention, JobRecord, JobStatus, Payload, ReplayRule, Scenario, World,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Three to five jobs of different sizes and ends, faults for ten minutes, then none.
fn world(seed: u64, scenario: Scenario) -> World {
    let mut dice = Dice::new(seed);
    let mut world = World::new(scenario);
    for _ in 0..3 + dice.below(3) {
        let size = [0, 1, 900, 40_000, 1_500_000][dice.below(5) as usize];
        let duration = Duration::from_secs(1 + dice.below(120));
        let result = match dice.below(3) {
            0 => JobResult::from_exit_code(7),
            1 => JobResult::failed(FailureReason::ImagePullFailure),
            _ => JobResult::success(),
        };
        world.queue(Payload::new(Payload::lines(size), duration).with_result(result));
    }
    world.plan(Duration::from_secs(600), Intervention::Heal);
    world
}

fn outcome(events: &[JobEvent]) -> Option<&Outcome> {
    events.iter().rev().find_map(|event| match event {
        JobEvent::Finished(outcome) => Some(outcome),
        _ => None,
    })
}

/// Every job the runner held ended as its process did.
fn check(seed: u64, world: &World) {
    for (id, story) in world.stories() {
        let (outcome, held) = (outcome(&story.events), world.coordinator().job(*id).unwrap().status());
        let right = matches!(
            (outcome, held),
            (Some(Outcome::Success), JobStatus::Success) | (Some(Outcome::Failed), JobStatus::Failed)
        );
        assert!(right, "seed {seed}, job {id}: {outcome:?}, GitLab holds {held:?}: {story:?}");
    }
}

#[derive(Debug, Default)]
struct Totals {
    jobs: usize,
    /// Handed out, and the answer did not come home.
    lost: usize,
    uncertain: u32,
    crashes: u32,
    requests: u64,
    most_requests: u64,
}

impl Totals {
    fn add(&mut self, world: &World) {
        let jobs = world.coordinator().jobs().count();
        let requests = world.coordinator().stats().total();
        self.jobs += jobs;
        self.lost += jobs - world.stories().len();
        self.uncertain += world.uncertain();
        self.crashes += world.stories().values().map(|story| story.crashes).sum::<u32>();
        self.requests += requests;
        self.most_requests = self.most_requests.max(requests);
    }
}

fn run(seeds: std::ops::Range<u64>, scenario: impl Fn(u64) -> Scenario) -> Totals {
    let mut totals = Totals::default();
    for seed in seeds {
        let mut world = world(seed, scenario(seed));
        world.run(4 * HOUR).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        check(seed, &world);
        totals.add(&world);
    }
    println!("{totals:?}");
    totals
}

fn rough(seed: u64) -> Scenario {
    Scenario::new(seed).with(|s| s.faults = Faults::rough())
}

/// A process that dies now and then. GitLab forgets nothing meanwhile: a call of a dead process may arrive late, and what
/// GitLab forgets just before it nobody can notice.
fn mortal(seed: u64) -> Scenario {
    let faults = Faults::rough().with(|faults| faults.forgotten_tail = 0);
    Scenario::new(seed).with(|s| (s.faults, s.crash) = (faults, 200))
}

#[test]
fn on_a_good_network_nothing_is_lost() {
    let totals = run(0..50, Scenario::new);
    assert_eq!((totals.lost, totals.uncertain), (0, 0));
}

#[test]
fn a_thousand_rough_worlds() {
    let totals = run(0..1000, rough);
    assert!(totals.lost > 0 && totals.lost <= totals.uncertain as usize, "{totals:?}");
    // About 12 requests a job: 4 for its life, the rest polling and what went wrong.
    assert!(totals.most_requests < 250, "{totals:?}");
}

#[test]
fn with_two_phase_commit_lost_jobs_come_back() {
    let totals = run(0..100, |seed| rough(seed).with(|s| s.settings.two_phase_commit = true));
    assert!(totals.lost > 0, "{totals:?}");
    for seed in 0..100 {
        let mut world = world(seed, rough(seed).with(|s| s.settings.two_phase_commit = true));
        world.run(4 * HOUR).unwrap();
        let coordinator = world.coordinator();
        for lost in coordinator.jobs().filter(|job| !world.stories().contains_key(&job.id())) {
            assert_eq!(lost.failure_reason(), Some("runner_provisioning_timeout"), "seed {seed}");
            let successor = coordinator.jobs().find(|job| job.retry_of() == Some(lost.id()));
            assert!(successor.is_some(), "seed {seed}: job {} did not come back", lost.id());
        }
        assert!(coordinator.jobs().all(|job| job.status().is_final()), "seed {seed}");
    }
}

#[test]
fn a_process_that_dies_at_random_loses_nothing_it_saved() {
    let durable = |seed| mortal(seed).with(|s| s.durable = true);
    let totals = run(0..200, durable);
    assert!(totals.crashes > 1000, "{totals:?}");
    run(200..300, |seed| durable(seed).with(|s| s.configure = |config| config.with_retain(Retain::Unacknowledged)));
}

#[test]
fn a_snapshot_at_any_moment_leads_to_the_same_end() {
    let totals = run(0..200, mortal);
    assert!(totals.crashes > 1000, "{totals:?}");
}

#[test]
fn logs_that_are_not_kept_are_asked_for() {
    run(0..100, |seed| {
        let often = |f: &mut Faults| f.forgotten_tail = 200;
        rough(seed).with(|s| {
            often(&mut s.faults);
            s.configure = |config| config.with_retain(Retain::Unacknowledged);
        })
    });
}

#[test]
fn logs_that_move_to_a_file_are_read_back_from_there_only() {
    run(0..100, |seed| {
        let often = |f: &mut Faults| f.forgotten_tail = 200;
        rough(seed).with(|s| {
            often(&mut s.faults);
            s.spool = 300;
            s.configure = |config| config.with_retain(Retain::Unsaved);
        })
    });
}

#[test]
fn every_kind_of_server_is_served() {
    run(0..60, |seed| rough(seed).with(|s| s.settings.replay = ReplayRule::Strict416));
    run(0..60, |seed| rough(seed).with(|s| s.settings.job_status_header_on_put = false));
    run(0..60, |seed| rough(seed).with(|s| s.settings.archive_delay = Some(Duration::from_secs(40))));
    run(0..60, |seed| rough(seed).with(|s| s.settings.reject_checksum = 2));
    run(0..60, |seed| rough(seed).with(|s| s.settings.long_poll = Some(Duration::from_secs(50))));
    run(0..60, |seed| {
        rough(seed).with(|s| {
            s.settings.archive_delay = Some(Duration::from_secs(400));
            s.settings.fractional_interval = true;
        })
    });
}

#[test]
fn limits_slow_a_runner_down_and_stop_nothing() {
    let totals = run(0..60, |seed| {
        rough(seed).with(|s| {
            (s.settings.job_request_limit, s.settings.trace_limit, s.settings.job_limit) = (10, 2, 3);
            s.settings.mask_job_token = false;
        })
    });
    assert!(totals.most_requests < 400, "{totals:?}");
}

#[test]
fn pages_of_proxies_kill_no_job() {
    // A 403 page may be meant; twice in a row it is taken to be. All others are outlived.
    for seed in 0..100 {
        let mut world = world(seed, Scenario::new(seed).with(|s| s.faults.proxy_page = 150));
        world.run(4 * HOUR).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        for (id, story) in world.stories() {
            let aborted = story.events.iter().any(|event| matches!(event, JobEvent::Aborted(_)));
            assert!(aborted || outcome(&story.events).is_some(), "seed {seed}, job {id}: {story:?}");
        }
        let ended = world.stories().values().filter(|story| outcome(&story.events).is_some()).count();
        assert!(ended * 2 > world.stories().len(), "seed {seed}: only {ended} of {}", world.stories().len());
    }
}

#[test]
fn cancelled_jobs_stop_within_a_keep_alive() {
    for seed in 0..100 {
        let mut world = World::new(Scenario::new(seed));
        let id = world.queue(Payload::new(Payload::lines(100_000), HOUR));
        let graceful = seed % 2 == 0;
        let cancel = if graceful { Intervention::Cancel(id) } else { Intervention::ForceCancel(id) };
        world.plan(Duration::from_secs(100 + seed), cancel);
        world.run(HOUR).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        let story = &world.stories()[&id];
        let told = match story.events.last() {
            Some(JobEvent::Finished(Outcome::Canceled)) => graceful,
            Some(JobEvent::Aborted(_)) => !graceful,
            _ => false,
        };
        assert!(told, "seed {seed}: {:?}", story.events);
        assert_eq!(world.coordinator().job(id).map(JobRecord::status), Some(JobStatus::Canceled));
        let took = world.now().as_millis() - 1_750_000_000_000 - (100 + seed) * 1000;
        assert!(took < 40_000, "seed {seed}: the job went on for {took} ms after it was cancelled");
    }
}

#[test]
fn an_outage_of_an_hour_costs_no_byte_and_no_result() {
    for seed in 0..20 {
        let dead = |s: &mut Scenario| {
            s.faults.not_sent = 0;
            s.settings.stuck_after = 10 * HOUR;
            s.settings.job_token_grace = None;
        };
        let mut world = World::new(Scenario::new(seed).with(dead));
        let id = world.queue(Payload::new(Payload::lines(300_000), Duration::from_secs(300)));
        world.plan(Duration::from_secs(60), Intervention::Break);
        world.plan(Duration::from_secs(3660), Intervention::Heal);
        world.run(4 * HOUR).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert_eq!(outcome(&world.stories()[&id].events), Some(&Outcome::Success));
    }
}
