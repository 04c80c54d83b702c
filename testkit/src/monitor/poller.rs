//! The laws of a poller.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::{PollerEvent, Timestamp};
use http::Response;

use super::economy::{Economy, Worst};

/// Watches one [`Poller`](gitlab_runner_api::Poller).
#[derive(Debug)]
pub struct PollerMonitor {
    check_interval: Duration,
    /// When the call on the wire was sent, and until when its ticket counts.
    open: Option<(Timestamp, Timestamp)>,
    /// When a request without a job was last answered.
    idle_at: Option<Timestamp>,
    /// Whether a productive answer or the application caused what comes next.
    caused: bool,
    calls: Economy,
    events: Economy,
    done: bool,
}

impl PollerMonitor {
    /// Watches a poller that was just made, with this check interval.
    #[must_use]
    pub fn new(check_interval: Duration) -> Self {
        let (calls, events) = (Economy::default(), Economy::default());
        Self { check_interval, open: None, idle_at: None, caused: true, calls, events, done: false }
    }

    /// The application used one of its verbs.
    pub fn verb(&mut self) {
        self.caused = true;
    }

    /// The poller sends a job request, whose ticket counts for so long.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn sent(&mut self, good_for: Duration, now: Timestamp) -> Result<(), String> {
        if self.done {
            return Err("L4: a call after the end".to_owned());
        }
        if let Some((sent, until)) = self.open.take() {
            if now < until {
                return Err("L1: a second ticket is out".to_owned());
            }
            self.calls.count("job requests that brought nothing", sent)?;
        }
        self.open = Some((now, now.saturating_add(good_for)));
        self.caused = false;
        Ok(())
    }

    /// The answer to the request on the wire, or `None` if it failed in transport.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn answered(&mut self, response: Option<&Response<Bytes>>, now: Timestamp) -> Result<(), String> {
        let Some((sent, _)) = self.open.take() else { return Ok(()) };
        let status = response.map_or(0, |response| response.status().as_u16());
        let readable = response.is_some_and(|response| {
            let json: serde_json::Value = serde_json::from_slice(response.body()).unwrap_or_default();
            json["id"].is_u64() && json["token"].is_string()
        });
        let due = self.idle_at.is_none_or(|idle| sent.saturating_since(idle) >= self.check_interval);
        let productive = (status == 201 && readable) || (status == 204 && due);
        if status == 204 {
            self.idle_at = Some(now);
        }
        if productive {
            self.caused = true;
            return Ok(());
        }
        self.calls.count("job requests that brought nothing", sent)
    }

    /// The poller tells an event.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn told(&mut self, event: &PollerEvent, now: Timestamp) -> Result<(), String> {
        if self.done {
            return Err(format!("L4: an event after the end: {event:?}"));
        }
        match event {
            PollerEvent::Assigned(_) => Ok(()),
            _ if self.caused => Ok(()),
            _ => self.events.count("events that nothing useful caused", now),
        }
    }

    /// The poller waits.
    ///
    /// # Errors
    ///
    /// The law that this breaks.
    pub fn waits(&mut self, until: Option<Timestamp>, capacity: u32, now: Timestamp) -> Result<(), String> {
        let awake = until.map_or(capacity == 0 && self.open.is_none(), |until| until > now);
        if awake { Ok(()) } else { Err(format!("L3: the poller waits until {until:?} at {now:?}")) }
    }

    /// The poller is done.
    pub fn ended(&mut self) {
        self.done = true;
    }

    /// Job requests that brought nothing, and events that nothing useful caused: the most of each in a minute and an hour.
    #[must_use]
    pub fn worst(&self) -> (Worst, Worst) {
        (self.calls.worst(), self.events.worst())
    }
}
