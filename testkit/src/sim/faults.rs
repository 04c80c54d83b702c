//! What goes wrong on the way, as `--fault` says it.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};

use crate::dice::Dice;
use crate::treatment::Treatment;

/// Something that goes wrong: `WHAT:WHERE[:WHEN]`.
///
/// - WHAT: a status such as `503` that something on the way answers; `lose-request`; `lose-answer`, after GitLab has acted;
///   `delay=2.5`, an answer that comes so many seconds later.
/// - WHERE: `register`, `verify`, `request` (for a job), `put` (a job's state), `patch` (its log), `artifacts`, or `any`.
/// - WHEN: a whole number, the first so many such requests; or `10%`, that part of them. Without it, all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    treatment: Treatment,
    place: Place,
    when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Register,
    Verify,
    Request,
    Put,
    Patch,
    Artifacts,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// So many more times.
    First(u64),
    /// In so many of 1000 cases.
    PerMille(u32),
}

/// A fault that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidFault;

impl std::fmt::Display for InvalidFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a fault is WHAT:WHERE[:WHEN], such as 503:patch:3, lose-answer:request:10% or delay=2.5:any")
    }
}

impl std::error::Error for InvalidFault {}

impl FromStr for Fault {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let mut parts = text.split(':');
        let (what, place, when) = (parts.next().unwrap_or_default(), parts.next().ok_or(InvalidFault)?, parts.next());
        if parts.next().is_some() {
            return Err(InvalidFault);
        }
        let treatment = match what.split_once('=') {
            None if what == "lose-request" => Treatment::LoseRequest,
            None if what == "lose-answer" => Treatment::LoseAnswer,
            None => Treatment::Answer(what.parse().ok().filter(|code| (200..600).contains(code)).ok_or(InvalidFault)?),
            Some(("delay", seconds)) => {
                let seconds = seconds.parse().map_err(|_| InvalidFault)?;
                Treatment::Delay(Duration::try_from_secs_f64(seconds).map_err(|_| InvalidFault)?)
            }
            Some(_) => return Err(InvalidFault),
        };
        let place = match place {
            "register" => Place::Register,
            "verify" => Place::Verify,
            "request" => Place::Request,
            "put" => Place::Put,
            "patch" => Place::Patch,
            "artifacts" => Place::Artifacts,
            "any" => Place::Any,
            _ => return Err(InvalidFault),
        };
        let when = match when {
            None => When::Always,
            Some(part) => match part.strip_suffix('%') {
                Some(percent) => {
                    let percent: f64 = percent.parse().map_err(|_| InvalidFault)?;
                    if !(0.0..=100.0).contains(&percent) {
                        return Err(InvalidFault);
                    }
                    // At most 1000, by the line above.
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
                    When::PerMille((percent * 10.0).round() as u32)
                }
                None => When::First(part.parse().map_err(|_| InvalidFault)?),
            },
        };
        Ok(Self { treatment, place, when })
    }
}

impl Place {
    fn is(self, request: &Request<Bytes>) -> bool {
        let path = request.uri().path().rsplit_once("/api/v4/").map(|(_, path)| path).unwrap_or_default();
        match self {
            Self::Any => true,
            Self::Register => path == "runners" && request.method() == Method::POST,
            Self::Verify => path == "runners/verify",
            Self::Request => path == "jobs/request",
            Self::Put => request.method() == Method::PUT && path.starts_with("jobs/"),
            Self::Patch => path.starts_with("jobs/") && path.ends_with("/trace"),
            Self::Artifacts => path.starts_with("jobs/") && path.ends_with("/artifacts"),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.treatment {
            Treatment::LoseRequest => f.write_str("lose-request")?,
            Treatment::LoseAnswer => f.write_str("lose-answer")?,
            Treatment::Answer(status) => write!(f, "{status}")?,
            Treatment::Delay(pause) => write!(f, "delay={}", pause.as_secs_f64())?,
            Treatment::Deliver => f.write_str("deliver")?,
        }
        let place = match self.place {
            Place::Register => "register",
            Place::Verify => "verify",
            Place::Request => "request",
            Place::Put => "put",
            Place::Patch => "patch",
            Place::Artifacts => "artifacts",
            Place::Any => "any",
        };
        write!(f, ":{place}")?;
        match self.when {
            When::Always => Ok(()),
            When::First(left) => write!(f, ":{left}"),
            When::PerMille(chance) => write!(f, ":{}%", f64::from(chance) / 10.0),
        }
    }
}

/// All that goes wrong, and the dice that decide when.
#[derive(Debug)]
pub(super) struct Faults {
    list: Vec<Fault>,
    dice: Dice,
}

impl Faults {
    pub(super) fn new(list: Vec<Fault>, dice: Dice) -> Self {
        Self { list, dice }
    }

    /// The faults that are on. A number of times counts down.
    pub(super) fn list(&self) -> &[Fault] {
        &self.list
    }

    pub(super) fn add(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// What becomes of a request: the first fault that wants it has it.
    pub(super) fn treat(&mut self, request: &Request<Bytes>) -> Treatment {
        for fault in &mut self.list {
            if !fault.place.is(request) {
                continue;
            }
            let strikes = match &mut fault.when {
                When::Always => true,
                When::First(left) => {
                    let strikes = *left > 0;
                    *left = left.saturating_sub(1);
                    strikes
                }
                When::PerMille(chance) => self.dice.per_mille(*chance),
            };
            if strikes {
                return fault.treatment;
            }
        }
        Treatment::Deliver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_strike_where_and_when_they_say() {
        let fault = |text: &str| text.parse::<Fault>();
        for bad in [
            "",
            "503",
            "503:",
            "503:moon",
            "99:any",
            "x:any",
            "503:any:x",
            "503:any:1:2",
            "delay=-1:any",
            "delay=x:any",
            "503:any:101%",
            "503:any:NaN%",
            "delay=1e300:any",
        ] {
            assert!(fault(bad).is_err(), "{bad}");
        }
        let list = ["503:patch:2", "delay=0.5:put", "lose-answer:request:0%", "lose-request:any:100%"];
        let mut faults = Faults::new(list.map(|text| fault(text).unwrap()).to_vec(), Dice::new(1));
        let mut treat = |method: Method, path: &str| {
            let request = Request::builder().method(method).uri(format!("http://h/api/v4/{path}"));
            faults.treat(&request.body(Bytes::new()).unwrap())
        };
        assert_eq!(treat(Method::PATCH, "jobs/1/trace"), Treatment::Answer(503));
        assert_eq!(treat(Method::PUT, "jobs/1"), Treatment::Delay(Duration::from_millis(500)));
        assert_eq!(treat(Method::PATCH, "jobs/1/trace"), Treatment::Answer(503));
        assert_eq!(treat(Method::PATCH, "jobs/1/trace"), Treatment::LoseRequest);
        assert_eq!(treat(Method::POST, "jobs/request"), Treatment::LoseRequest);
        let texts: Vec<String> = faults.list().iter().map(Fault::to_string).collect();
        assert_eq!(texts, ["503:patch:0", "delay=0.5:put", "lose-answer:request:0%", "lose-request:any:100%"]);
    }
}
