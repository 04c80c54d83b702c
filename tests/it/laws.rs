//! The laws as properties over generated worlds, so that a failure shrinks to the least that breaks one.
//!
//! [`World`] checks L1 to L4 and L6 to L9 at every step, and that the run ends (L12). A world that crashes at random is L5:
//! each snapshot, written out and taken up again, leads to the same end.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::{
    Assignment, Failure, Job, JobEvent, JobResult, Machine, Output, Poller, Retain, RunnerConfig, RunnerToken, Server,
    Ticket, Timestamp,
};
use gitlab_runner_api_testkit::{Faults, Intervention, Payload, ReplayRule, Scenario, World};
use http::Response;
use proptest::prelude::*;

fn faults() -> impl Strategy<Value = Faults> {
    let rate = |most: u32| prop_oneof![Just(0), 0..most];
    let calls = (rate(150), rate(150), rate(150), rate(50), rate(150), rate(100));
    (calls, rate(100), rate(100), rate(100)).prop_map(|(calls, slow, forced_416, locked_trace)| {
        let (not_sent, lost_request, lost_answer, silence, bad_gateway, duplicate) = calls;
        Faults::default().with(|f| {
            (f.not_sent, f.lost_request, f.lost_answer, f.silence) = (not_sent, lost_request, lost_answer, silence);
            (f.bad_gateway, f.duplicate, f.slow) = (bad_gateway, duplicate, slow);
            (f.forced_416, f.locked_trace) = (forced_416, locked_trace);
        })
    })
}

#[derive(Clone, Debug)]
struct Plan {
    scenario: Scenario,
    jobs: Vec<(usize, u64, bool)>,
    cancel: Option<(usize, u64, bool)>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let kind = (any::<bool>(), prop_oneof![Just(0u32), 1..300u32], any::<bool>(), any::<bool>(), any::<bool>());
    let server = (any::<bool>(), any::<bool>(), any::<bool>(), 0..3u32);
    let jobs = prop::collection::vec((0..60_000usize, 1..200u64, any::<bool>()), 1..4);
    let cancel = prop::option::of((0..4usize, 1..200u64, any::<bool>()));
    (any::<u64>(), faults(), kind, server, jobs, cancel).prop_map(|(seed, faults, kind, server, jobs, cancel)| {
        let (durable, crash, unkept, small, forgetful) = kind;
        let (two_phase, strict, archive, mismatches) = server;
        let scenario = Scenario::new(seed).with(|s| {
            s.faults = faults;
            (s.durable, s.crash) = (durable, crash);
            if forgetful && crash == 0 && cancel.is_none() {
                s.faults.forgotten_tail = 100;
            }
            s.configure = match (unkept, small) {
                (false, false) => |config| config,
                (false, true) => |config| config.with_patch_limit(997),
                (true, false) => |config| config.with_retain(Retain::Unacknowledged),
                (true, true) => |config| config.with_retain(Retain::Unacknowledged).with_patch_limit(997),
            };
            s.settings.two_phase_commit = two_phase;
            s.settings.replay = if strict { ReplayRule::Strict416 } else { ReplayRule::TailRepeatAccepted };
            s.settings.archive_delay = archive.then_some(Duration::from_secs(30));
            s.settings.reject_checksum = mismatches;
        });
        Plan { scenario, jobs, cancel }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_world_keeps_the_laws(plan in plans()) {
        let mut world = World::new(plan.scenario);
        let mut ids = Vec::new();
        for (size, seconds, good) in plan.jobs {
            let result = if good { JobResult::success() } else { JobResult::from_exit_code(3) };
            ids.push(world.queue(Payload::new(Payload::lines(size), Duration::from_secs(seconds)).with_result(result)));
        }
        if let Some((which, after, graceful)) = plan.cancel {
            let id = ids[which % ids.len()];
            let cancel = if graceful { Intervention::Cancel(id) } else { Intervention::ForceCancel(id) };
            world.plan(Duration::from_secs(after), cancel);
        }
        world.plan(Duration::from_secs(600), Intervention::Heal);
        if let Err(violation) = world.run(Duration::from_secs(4 * 3600)) {
            return Err(TestCaseError::fail(violation.to_string()));
        }
        for story in world.stories().values() {
            let ended = matches!(story.events.last(), Some(JobEvent::Finished(_) | JobEvent::Aborted(_)));
            prop_assert!(ended, "{:?}", story);
        }
    }
}

const START: u64 = 1_750_000_000_000;

fn config() -> std::sync::Arc<RunnerConfig> {
    RunnerConfig::new(Server::parse("https://gitlab.example.test").unwrap(), Info::new("laws", "1")).into()
}

/// One step of a run by hand.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Answer(u16),
    Fail(bool),
    Write,
}

fn steps() -> impl Strategy<Value = Vec<(Step, u64)>> {
    let step = prop_oneof![
        (0..40_000u64).prop_map(Step::Pass),
        prop::sample::select(vec![200u16, 202, 204, 409, 416, 429, 500, 503]).prop_map(Step::Answer),
        any::<bool>().prop_map(Step::Fail),
        Just(Step::Write),
    ];
    prop::collection::vec((step, prop_oneof![Just(0u64), 1..100_000u64]), 1..60)
}

/// What a machine is seen to do: its open ticket, and what it waits for.
struct Seen {
    ticket: Option<Ticket>,
    wait: Option<Timestamp>,
    /// Calls made and events told.
    did: usize,
}

impl Seen {
    fn drain<M: Machine>(&mut self, machine: &mut M, now: Timestamp) {
        loop {
            match machine.poll(now) {
                Output::Send(call) => {
                    self.ticket = Some(call.split().1);
                    self.did += 1;
                }
                Output::Event(_) => self.did += 1,
                Output::Wait(until) => return self.wait = until,
                Output::Done => return self.wait = None,
            }
        }
    }

    fn hand_in<M: Machine>(&mut self, machine: &mut M, step: &Step, now: Timestamp) {
        let Some(ticket) = self.ticket.take() else { return };
        let handed = match step {
            Step::Answer(status) => {
                let response = Response::builder().status(*status).header("range", "0-0").header("retry-after", "20");
                machine.handle_response(ticket, response.body(Bytes::new()).unwrap(), now)
            }
            Step::Fail(sent) => {
                let failure = if *sent { Failure::Unknown } else { Failure::NotSent };
                machine.handle_failure(ticket, failure, now)
            }
            _ => return self.ticket = Some(ticket),
        };
        handed.unwrap();
    }
}

/// L10: a clock that goes back never makes a deadline later than a steady one does.
///
/// Both machines are driven alike, one of them by a clock that at times is behind. As long as both did the same, its
/// deadline is no later; where they part, it is ahead.
fn backwards<M: Machine>(
    mut steady: M,
    mut astray: M,
    steps: &[(Step, u64)],
    write: impl Fn(&mut M),
) -> Result<(), TestCaseError> {
    let new = || Seen { ticket: None, wait: None, did: 0 };
    let (mut one, mut other) = (new(), new());
    let mut now = Timestamp::from_millis(START);
    for (step, behind) in steps {
        let late = Timestamp::from_millis(now.as_millis() - behind);
        match step {
            Step::Pass(millis) => now = now.saturating_add(Duration::from_millis(*millis)),
            Step::Write => {
                write(&mut steady);
                write(&mut astray);
            }
            step => {
                one.hand_in(&mut steady, step, now);
                other.hand_in(&mut astray, step, late);
            }
        }
        // The clock is back in step by the time of the poll, as one that was set back and corrected.
        other.drain(&mut astray, late);
        other.drain(&mut astray, now);
        one.drain(&mut steady, now);
        if one.did != other.did {
            prop_assert!(other.did > one.did, "the clock that went back holds something back");
            return Ok(());
        }
        let later = match (one.wait, other.wait) {
            (Some(one), Some(other)) => other > one,
            (one, other) => one.is_some() != other.is_some(),
        };
        prop_assert!(!later, "steady {:?}, astray {:?} after {:?}", one.wait, other.wait, step);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_clock_that_goes_back_delays_no_job(steps in steps()) {
        let assignment = Assignment::from_json(r#"{"id":1,"token":"t","runner_info":{"timeout":7200}}"#).unwrap();
        let job = || Job::new(config(), &assignment, Timestamp::from_millis(START));
        backwards(job(), job(), &steps, |job| _ = job.write("a line\n"))?;
    }

    #[test]
    fn a_clock_that_goes_back_delays_no_poll(steps in steps()) {
        let poller = || {
            let token = RunnerToken::new("glrt-x").unwrap();
            let mut poller = Poller::new(config(), token, Timestamp::from_millis(START));
            poller.set_capacity(1);
            poller
        };
        backwards(poller(), poller(), &steps, |poller| poller.set_capacity(1))?;
    }
}
