//! An adversary: answers chosen so that a state machine works most and learns least, on virtual time.
//!
//! A network that misbehaves at random ([`World`](crate::World)) finds what its authors thought of. Here whole lives of a
//! [`Job`](gitlab_runner_api::Job) or a [`Poller`](gitlab_runner_api::Poller) are lived against answers that no GitLab would give,
//! or gives once in a year: each status with each body, in pairs that take turns, for one kind of call or for all, with loss,
//! delay and told delays. A [monitor](crate::monitor) checks the laws of the core while that goes on. Then the trouble ends, and
//! the state machine must reach its end within twenty minutes of virtual time (L12).
//!
//! Three ways to choose answers: [`pair`] lets two [`Reply`]s take turns, [`random`] draws them from a seed, and [`greedy`] looks
//! ahead, by living the life again up to the same point with each reply in turn, for the one that costs most.
//!
//! ```
//! use gitlab_runner_api_testkit::adversary::{self, Life, Target, replies};
//!
//! let [login_page, accepted] = [replies()[1], replies()[7]];
//! let report = adversary::pair(Life::default(), Target::Patches, login_page, accepted).unwrap();
//! assert!(report.calls.minute <= 26);
//! ```

mod job;
mod poller;
mod reply;

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::monitor::Worst;

pub use reply::{Body, Range, Reply, replies};

/// How long the trouble lasts where nothing else is said: longer than each patience of a default configuration.
const ATTACK: Duration = Duration::from_secs(75 * 60);

/// How long after the trouble a state machine may take to reach its end: twice the longest delay that a server can tell.
const HEALING: Duration = Duration::from_secs(20 * 60);

/// What the application does with a job that is attacked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Life {
    /// How many bytes it writes at the start.
    pub first: usize,
    /// How many bytes it writes each second from then on.
    pub every_second: usize,
    /// After how many seconds it gives the result; never before the trouble is over, if zero.
    pub finish_after: u64,
    /// It asks whether the job is still its own each time so many seconds have passed; never, if zero.
    pub check_every: u64,
    /// It saves the job when it is asked to.
    pub durable: bool,
    /// It keeps the log itself, and brings back what the job asks for.
    pub keeps_log: bool,
    /// The process dies and resumes the job from a snapshot of that moment each time so many calls were sent; never, if zero.
    pub resume_every: u64,
    /// How long the trouble lasts.
    pub attack: Duration,
}

impl Default for Life {
    /// A job that writes three bytes a second, and ends when the trouble is over.
    fn default() -> Self {
        Self {
            first: 5000,
            every_second: 3,
            finish_after: 0,
            check_every: 0,
            durable: false,
            keeps_log: false,
            resume_every: 0,
            attack: ATTACK,
        }
    }
}

impl Life {
    /// This life with a change applied.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Which calls get the chosen answers. The others are answered as GitLab would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// All of them.
    All,
    /// `PATCH /jobs/:id/trace`.
    Patches,
    /// `PUT /jobs/:id` with `state=running`.
    KeepAlives,
    /// `PUT /jobs/:id` with a final state.
    Reports,
}

impl Target {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::All, Self::Patches, Self::KeepAlives, Self::Reports];
}

/// What one attack cost.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// How many calls were answered, or not answered.
    pub answers: u64,
    /// Calls that achieved nothing (L13).
    pub calls: Worst,
    /// Events that nothing useful caused (L13).
    pub events: Worst,
}

impl Report {
    /// Both together: all answers, and the worse of each figure.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            answers: self.answers + other.answers,
            calls: self.calls.max(other.calls),
            events: self.events.max(other.events),
        }
    }
}

/// A law was broken, or the end did not come.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finding {
    /// Which law, and how.
    pub what: String,
    /// The last that happened before it, a line each.
    pub timeline: Vec<String>,
    /// How many calls were answered until then.
    pub answers: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        self.timeline.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl std::error::Error for Finding {}

/// What an adversary knows when it chooses: which call it is, counted from zero.
type Choose<'a> = &'a mut dyn FnMut(u64) -> Reply;

/// Attacks a job with two replies that take turns.
///
/// # Errors
///
/// [`Finding`], if a law is broken.
pub fn pair(life: Life, target: Target, first: Reply, second: Reply) -> Result<Report, Finding> {
    job::attack(life, target, 0, &mut |call| if call % 2 == 0 { first } else { second }, None)
}

/// Attacks a job with the same reply again and again.
///
/// # Errors
///
/// [`Finding`], if a law is broken.
pub fn single(life: Life, target: Target, reply: Reply) -> Result<Report, Finding> {
    pair(life, target, reply, reply)
}

/// Attacks a job with replies that are drawn from a seed, and so is the job's life.
///
/// # Errors
///
/// [`Finding`], if a law is broken.
pub fn random(seed: u64) -> Result<Report, Finding> {
    let mut dice = Dice::new(seed);
    let yes = |dice: &mut Dice| dice.per_mille(500);
    let life = Life {
        first: [0, 3, 5000, 3_000_000][dice.below(4) as usize],
        every_second: [0, 3, 2000][dice.below(3) as usize],
        finish_after: dice.below(2) * (1 + dice.below(900)),
        check_every: dice.below(2) * (1 + dice.below(90)),
        durable: yes(&mut dice),
        keeps_log: yes(&mut dice),
        resume_every: dice.below(2) * (1 + dice.below(40)),
        attack: Duration::from_secs(60 + dice.below(5400)),
    };
    let target = Target::ALL[dice.below(4) as usize];
    let mut choose = weighted(&mut dice);
    job::attack(life, target, seed, &mut |_| choose(), None)
}

/// Draws from a handful of replies, and seldom from all of them, so that runs of one kind happen.
fn weighted(dice: &mut Dice) -> impl FnMut() -> Reply + use<> {
    let all = replies();
    let few: Vec<_> = (0..1 + dice.below(5)).map(|_| all[dice.below(all.len() as u64) as usize]).collect();
    let honest = dice.below(700) as u32;
    let mut dice = Dice::new(dice.roll());
    move || {
        if dice.per_mille(honest) {
            return Reply::honest();
        }
        let from = if dice.per_mille(100) { &all } else { &few };
        from[dice.below(from.len() as u64) as usize]
    }
}

/// Attacks a job with the replies that cost most, as far as a look of three replies ahead tells, for `depth` calls; then they come
/// again from the first.
///
/// # Errors
///
/// [`Finding`], if a law is broken, with the replies chosen until then.
pub fn greedy(life: Life, target: Target, depth: usize) -> Result<Report, Finding> {
    let all = replies();
    let mut chosen: Vec<Reply> = Vec::new();
    let mut total = Report::default();
    while chosen.len() < depth {
        let mut best: Option<(f64, Reply)> = None;
        for candidate in &all {
            let mut clock = None;
            let wanted = chosen.len() as u64 + 3;
            let reply = |call: u64| chosen.get(call as usize).copied().unwrap_or(*candidate);
            let report = job::attack(life, target, 0, &mut { reply }, Some((wanted, &mut clock)))?;
            total.answers += report.answers;
            let Some(rate) = clock else { continue };
            if best.is_none_or(|(most, _)| rate > most) {
                best = Some((rate, *candidate));
            }
        }
        let Some((_, reply)) = best else { break };
        chosen.push(reply);
    }
    let length = chosen.len().max(1) as u64;
    let reply = |call: u64| chosen.get((call % length) as usize).copied().unwrap_or(Reply::honest());
    Ok(total.and(job::attack(life, target, 0, &mut { reply }, None)?))
}

/// Attacks a poller with two replies that take turns.
///
/// # Errors
///
/// [`Finding`], if a law is broken.
pub fn poller_pair(first: Reply, second: Reply) -> Result<Report, Finding> {
    poller::attack(0, ATTACK, &mut |call| if call % 2 == 0 { first } else { second })
}

/// Attacks a poller with replies that are drawn from a seed.
///
/// # Errors
///
/// [`Finding`], if a law is broken.
pub fn poller_random(seed: u64) -> Result<Report, Finding> {
    let mut dice = Dice::new(seed);
    let span = Duration::from_secs(60 + dice.below(5400));
    let mut choose = weighted(&mut dice);
    poller::attack(seed, span, &mut |_| choose())
}
