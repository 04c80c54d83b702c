//! The state machines hold under any answer. A longer search: `cargo run --release -p gitlab-runner-api-testkit --example adversary`.

use gitlab_runner_api_testkit::adversary::{self, Life, Report, Target, replies};

/// How many answers the pairs and the random lives share here; about ten seconds.
const ANSWERS: u64 = 150_000;

/// A fixed choice of pairs, another one for each target.
fn pairs(target: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = replies().len();
    (0..count * count)
        .map(move |step| (step * 101 + target * 37) % (count * count))
        .map(move |at| (at / count, at % count))
}

fn lives() -> [Life; 3] {
    let life = Life::default();
    [
        life,
        life.with(|life| (life.durable, life.keeps_log, life.finish_after) = (true, true, 60)),
        life.with(|life| (life.first, life.every_second, life.check_every) = (10, 0, 45)),
    ]
}

fn within(total: Report) {
    println!("{} answers, calls {:?}, events {:?}", total.answers, total.calls, total.events);
    assert!(total.answers > 1000 && total.calls.minute > 0, "{total:?}");
}

#[test]
fn no_reply_alone_makes_a_job_hammer_lie_or_go_deaf() {
    let mut total = Report::default();
    for (number, reply) in replies().into_iter().enumerate() {
        for target in Target::ALL {
            let life = lives()[number % 3];
            let report = adversary::single(life, target, reply);
            total = total.and(report.unwrap_or_else(|finding| panic!("{reply:?}, {target:?}: {finding}")));
        }
    }
    within(total);
}

#[test]
fn no_two_replies_in_turns_do() {
    let (mut total, all) = (Report::default(), replies());
    for (number, target) in Target::ALL.into_iter().enumerate() {
        let mut of_target = Report::default();
        for (first, second) in pairs(number) {
            let (first, second) = (all[first], all[second]);
            let report = adversary::pair(lives()[number % 3], target, first, second);
            let report = report.unwrap_or_else(|finding| panic!("{first:?}, {second:?}, {target:?}: {finding}"));
            of_target = of_target.and(report);
            if of_target.answers > ANSWERS / 4 {
                break;
            }
        }
        total = total.and(of_target);
    }
    within(total);
}

#[test]
fn no_replies_drawn_at_random_do() {
    let mut total = Report::default();
    for seed in 0.. {
        let report = adversary::random(seed);
        total = total.and(report.unwrap_or_else(|finding| panic!("seed {seed}: {finding}")));
        if total.answers > ANSWERS {
            break;
        }
    }
    within(total);
}

#[test]
fn no_replies_make_a_poller_hammer_or_miss_a_job() {
    let (mut total, all) = (Report::default(), replies());
    for (first, second) in pairs(0) {
        let report = adversary::poller_pair(all[first], all[second]);
        let report = report.unwrap_or_else(|finding| panic!("{:?}, {:?}: {finding}", all[first], all[second]));
        total = total.and(report);
        if total.answers > ANSWERS / 2 {
            break;
        }
    }
    for seed in 0..40 {
        let report = adversary::poller_random(seed);
        total = total.and(report.unwrap_or_else(|finding| panic!("seed {seed}: {finding}")));
    }
    within(total);
}

#[test]
fn looking_ahead_finds_nothing_worse() {
    let mut total = Report::default();
    for target in [Target::All, Target::Patches] {
        let report = adversary::greedy(Life::default(), target, 10);
        total = total.and(report.unwrap_or_else(|finding| panic!("{target:?}: {finding}")));
    }
    within(total);
}
