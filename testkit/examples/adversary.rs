//! Attacks the core's state machines until so many answers were given, and says what was found.
//!
//! ```sh
//! cargo run --release -p gitlab-runner-api-testkit --features checks --example adversary -- 2000000
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;

use gitlab_runner_api_testkit::adversary::{self, Finding, Life, Report, Target, replies};

/// What was found, by law, with the first case of each.
#[derive(Default)]
struct Findings {
    total: Report,
    pollers: Report,
    cases: u64,
    by_law: BTreeMap<String, (u64, String)>,
}

impl Findings {
    fn add(&mut self, name: &str, result: Result<Report, Finding>) {
        self.cases += 1;
        match result {
            Ok(report) if name.starts_with("poller") => {
                self.pollers = self.pollers.and(report);
                self.total.answers += report.answers;
            }
            Ok(report) => self.total = self.total.and(report),
            Err(finding) => {
                self.total.answers += finding.answers;
                let (law, rest) = finding.what.split_at_checked(3).unwrap_or_default();
                let words = rest.chars().filter(|letter| !letter.is_ascii_digit()).take(40);
                let words: String = law.chars().chain(words).collect();
                let entry = self.by_law.entry(words).or_insert_with(|| (0, format!("{name}\n{finding}")));
                entry.0 += 1;
            }
        }
    }
}

fn lives() -> [Life; 5] {
    let life = Life::default();
    [
        life,
        life.with(|life| (life.durable, life.keeps_log) = (true, true)),
        life.with(|life| life.finish_after = 40),
        life.with(|life| (life.first, life.every_second, life.check_every) = (10, 0, 45)),
        life.with(|life| (life.first, life.finish_after, life.resume_every) = (3_000_000, 300, 7)),
    ]
}

fn main() -> ExitCode {
    let wanted: u64 = std::env::args().nth(1).and_then(|number| number.parse().ok()).unwrap_or(200_000);
    let mut findings = Findings::default();
    let all = replies();
    for (number, reply) in all.iter().enumerate() {
        for target in Target::ALL {
            for (kind, life) in lives().into_iter().enumerate() {
                findings.add(
                    &format!("{reply:?} (number {number}), {target:?}, life {kind}"),
                    adversary::single(life, target, *reply),
                );
            }
        }
    }
    println!("each reply alone: {} lives, {} answers", findings.cases, findings.total.answers);
    let third = wanted / 3;
    let enough = findings.total.answers + third;
    let mut seed = 0;
    while findings.total.answers < enough {
        findings.add(&format!("random {seed}"), adversary::random(seed));
        findings.add(&format!("poller {seed}"), adversary::poller_random(seed));
        seed += 1;
    }
    println!("random up to seed {seed}: {} answers", findings.total.answers);
    for target in [Target::All, Target::Patches] {
        for life in &lives()[..2] {
            findings.add(&format!("greedy {target:?}"), adversary::greedy(*life, target, 24));
        }
    }
    println!("greedy: {} answers", findings.total.answers);
    'pairs: for (number, first) in all.iter().enumerate() {
        for second in &all {
            findings.add(&format!("poller: {first:?}, {second:?}"), adversary::poller_pair(*first, *second));
            for target in Target::ALL {
                let kind = (number + findings.cases as usize) % lives().len();
                let name = format!("{first:?}, {second:?}, {target:?}, life {kind}");
                findings.add(&name, adversary::pair(lives()[kind], target, *first, *second));
            }
            if findings.total.answers >= wanted {
                break 'pairs;
            }
        }
    }
    println!("{} lives, {} answers", findings.cases, findings.total.answers);
    for (name, Report { calls, events, .. }) in [("job", findings.total), ("poller", findings.pollers)] {
        println!(
            "{name}, the worst minute and hour: calls {} and {}, events {} and {}",
            calls.minute, calls.hour, events.minute, events.hour
        );
    }
    for (law, (count, first)) in &findings.by_law {
        println!("\n{count} x {law}\n{first}");
    }
    if findings.by_law.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
