//! Seeded worlds: nothing is lost while things go wrong, and all is delivered once they no longer do.

use std::time::Duration;

use gitlab_runner_api::{FailureReason, JobEvent, JobResult, Outcome};
use gitlab_runner_api_testkit::{Dice, Faults, Intervention, JobStatus, Payload, Scenario, World};

const HOUR: Duration = Duration::from_secs(3600);

/// Three to five jobs of different sizes and ends, faults for ten minutes, then none.
fn world(seed: u64, scenario: Scenario) -> World {
    let mut dice = Dice::new(seed);
    let mut world = World::new(scenario).unwrap();
    for _ in 0..dice.between(Duration::from_millis(3), Duration::from_millis(5)).as_millis() {
        let size = [0, 1, 900, 40_000, 1_500_000][dice.below(5) as usize];
        let duration = Duration::from_secs(1 + dice.below(120));
        let result = match dice.below(3) {
            0 => JobResult::from_exit_code(7),
            1 => JobResult::failed(FailureReason::ImagePullFailure),
            _ => JobResult::success(),
        };
        world.queue(Payload::new(Payload::lines(size), duration).ending(result));
    }
    world.plan(Duration::from_secs(600), Intervention::Heal);
    world
}

/// Every job the runner held ended as its process did, with its whole log: [`World`] has checked log and outcome.
fn check(world: &World) {
    for (id, story) in world.stories() {
        let outcome = story.events.iter().rev().find_map(|event| match event {
            JobEvent::Finished(outcome) => Some(outcome.clone()),
            _ => None,
        });
        let held = world.coordinator().job(*id).unwrap().status();
        assert!(
            matches!(
                (&outcome, held),
                (Some(Outcome::Success), JobStatus::Success) | (Some(Outcome::Failed), JobStatus::Failed)
            ),
            "job {id}: {outcome:?}, GitLab holds {held:?}: {story:?}"
        );
    }
}

fn run(seeds: std::ops::Range<u64>, scenario: impl Fn(u64) -> Scenario) -> Totals {
    let mut totals = Totals::default();
    for seed in seeds {
        let mut world = world(seed, scenario(seed));
        world.run(4 * HOUR).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        check(&world);
        totals.add(&world);
    }
    totals
}

#[derive(Debug, Default)]
struct Totals {
    jobs: usize,
    held: usize,
    lost: usize,
    uncertain: u32,
    requests: u64,
    most_requests: u64,
}

impl Totals {
    fn add(&mut self, world: &World) {
        let jobs = world.coordinator().jobs().count();
        let requests = world.coordinator().stats().total();
        self.jobs += jobs;
        self.held += world.stories().len();
        self.lost += jobs - world.stories().len();
        self.uncertain += world.uncertain();
        self.requests += requests;
        self.most_requests = self.most_requests.max(requests);
    }
}

#[test]
fn on_a_good_network_nothing_is_lost() {
    let totals = run(0..50, Scenario::new);
    assert_eq!((totals.lost, totals.uncertain), (0, 0));
}

#[test]
fn a_thousand_rough_worlds() {
    let totals = run(0..1000, |seed| Scenario::new(seed).with(|s| s.faults = Faults::rough()));
    println!("{totals:?}");
}
