//! The bodies of the fuzz targets: ordinary functions, so that ordinary builds check them and ordinary tests replay what
//! fuzzing found. Each panics when a law is broken; that is what they are for.

mod delivery;
mod log;
mod machines;
pub mod payload;

use std::hash::{DefaultHasher, Hash, Hasher};

use gitlab_runner_api::variables::{Place, Variables};
use gitlab_runner_api::{Assignment, Timestamp, headers};
use http::header::{HeaderMap, HeaderName, HeaderValue};

pub use delivery::delivery;
pub use log::{LogCase, LogStep, log};
pub use machines::{job, poller, record, resume};

/// The headers the core reads.
const NAMES: [&str; 9] = [
    "range",
    "job-status",
    "x-gitlab-trace-update-interval",
    "x-gitlab-last-update",
    "x-request-id",
    "retry-after",
    "ratelimit-resettime",
    "ratelimit-name",
    "date",
];

/// Arbitrary header values are read or ignored. A line is a header: its first byte names it, the rest is its value.
pub fn headers(data: &[u8]) {
    let mut map = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_first() else { continue };
        let name = NAMES[usize::from(*name) % NAMES.len()];
        if let Ok(value) = HeaderValue::from_bytes(value) {
            map.append(HeaderName::from_static(name), value);
        }
    }
    headers::parse_all(&map, Timestamp::from_millis(1_750_000_000_000));
}

/// Arbitrary payloads are a job or an error, and a job's token shows nowhere. If plain serde_json reads the payload, some
/// form of JSON is put in some place of it, both chosen by a hash of the data: see [`payload`].
pub fn job_spec(data: &[u8]) {
    if let Some(payload) = std::str::from_utf8(data).ok().and_then(payload::Payload::new) {
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        let hash = usize::try_from(hasher.finish() >> 1).unwrap_or_default();
        let places = payload.places();
        if let Some(place) = places.get(hash % places.len().max(1)) {
            for form in 0..8 {
                payload.check(place, (hash / 7919 + form) % payload::FORM_COUNT).expect("everything else stays");
            }
        }
    }
    match Assignment::from_json(data.to_vec()) {
        Err(error) => _ = error.to_string(),
        Ok(assignment) => {
            assert_eq!(assignment.as_json(), data);
            let token = assignment.spec().token.expose();
            if token.len() >= 8 && !String::from_utf8_lossy(data).replacen(token, "", 1).contains(token) {
                assert!(!format!("{assignment:?}").contains(token), "the token shows");
            }
            let spec = assignment.spec();
            _ = (spec.timeout(), spec.script_timeout(), spec.after_script_timeout(), spec.tags(), spec.run_steps());
            _ = (spec.step("script"), spec.registry_credential("registry.example.test/a:1"));
            let variables = Variables::new(spec, &Place::default());
            let named = variables.environment().len();
            assert!(named <= spec.variables.len() + 16, "{named} variables");
            let below = |(path, _): (String, _)| path.starts_with(&format!("{}/", variables.temp_project_dir()));
            assert!(variables.files().into_iter().all(below), "a file leaves its folder");
            _ = (variables.masked(), variables.expand("$CI ${CI_JOB_ID} $$"));
        }
    }
    if let Some(salvaged) = Assignment::salvage(data.to_vec()) {
        assert!(salvaged.spec().steps.is_empty(), "a salvaged job has nothing to run");
    }
}

/// Takes a fuzzer's bytes apart. When they run out, everything is zero.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Small numbers, and now and then a huge one.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::from(self.byte()) << 32,
            small => u64::from(small),
        }
    }
}
