//! A [`Coordinator`] in this process.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use gitlab_runner_api_testkit::{Answer, Coordinator, Registration, Role, RunnerType, Settings, sim};
use http::{Request, Response};
use serde_json::{Map, Value, json};

use crate::gitlab::{ACCESS_TOKEN, Gitlab, REGISTRATION_TOKEN, RUNNER_TOKEN, START, Sent};

pub(crate) struct InProcess {
    gitlab: Coordinator,
    now: Timestamp,
}

impl InProcess {
    pub(crate) fn new() -> Self {
        let mut gitlab = Coordinator::new(Settings::default());
        gitlab.set_registration_token(REGISTRATION_TOKEN);
        gitlab.set_access_token(ACCESS_TOKEN);
        gitlab.add_runner(RUNNER_TOKEN);
        Self { gitlab, now: Timestamp::from_millis(START * 1000) }
    }
}

impl Gitlab for InProcess {
    fn now(&mut self) -> Result<u64, String> {
        Ok(self.now.as_millis())
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        self.now = self.now.saturating_add(time);
        Ok(())
    }

    fn set_clock(&mut self, unix: u64) -> Result<(), String> {
        self.now = Timestamp::from_millis(unix * 1000);
        Ok(())
    }

    fn set(&mut self, settings: Map<String, Value>) -> Result<(), String> {
        sim::change_settings(self.gitlab.settings_mut(), &settings)
    }

    fn add_user(&mut self, token: &str, role: &str, scopes: &[&str]) -> Result<(), String> {
        let role = match role {
            "stranger" => Role::Stranger,
            "guest" => Role::Guest,
            "developer" => Role::Developer,
            "maintainer" => Role::Maintainer,
            "owner" => Role::Owner,
            "administrator" => Role::Administrator,
            other => return Err(format!("there is no role {other}")),
        };
        self.gitlab.add_user(token, role, scopes.iter().copied());
        Ok(())
    }

    fn add_registration_token(&mut self, registration: &Value) -> Result<(), String> {
        let token = registration["token"].as_str().ok_or("no token")?;
        let kind = runner_type(registration["runner_type"].as_str().unwrap_or_default())?;
        let made = Registration::new(kind).with(|made| {
            made.allowed = registration["allowed"].as_bool().unwrap_or(true);
            made.tokens_enabled = registration["tokens_enabled"].as_bool().unwrap_or(true);
            made.runner_limit = registration["runner_limit"].as_u64().and_then(|limit| usize::try_from(limit).ok());
        });
        self.gitlab.add_registration_token(token, made);
        Ok(())
    }

    fn set_runner_type(&mut self, runner: u64, kind: &str) -> Result<(), String> {
        self.gitlab.set_runner_type(runner, runner_type(kind)?);
        Ok(())
    }

    fn happen_to_runner(&mut self, runner: u64, what: &str) -> Result<(), String> {
        match what {
            "pause" => self.gitlab.pause_runner(runner),
            "orphan" => self.gitlab.orphan_runner(runner),
            other => return Err(format!("nothing here can {other} a runner")),
        }
        Ok(())
    }

    fn queue(&mut self, job: Value) -> Result<(u64, String), String> {
        let id = self.gitlab.queue(self.now, sim::job(job)?);
        let job = self.gitlab.job(id).ok_or("it is not there")?;
        Ok((id, job.token().to_owned()))
    }

    fn happen_to_job(&mut self, job: u64, what: &str, with: Value) -> Result<(), String> {
        let until = || {
            let seconds = with["seconds"].as_u64().ok_or("no seconds")?;
            Ok::<_, String>(self.now.saturating_add(Duration::from_secs(seconds)))
        };
        match what {
            "cancel" => self.gitlab.cancel(self.now, job),
            "erase" => self.gitlab.erase(job),
            "delete_project" => self.gitlab.delete_project(job),
            "watch" => self.gitlab.watch(job, true),
            "lose_log" => self.gitlab.forget_trace_tail(job, 0),
            "lock" => self.gitlab.lock_job(job, until()?),
            "lock_log" => self.gitlab.lock_trace(job, until()?),
            other => return Err(format!("nothing here can {other} a job")),
        }
        Ok(())
    }

    fn submit(&mut self, request: Request<Bytes>) -> Result<Sent, String> {
        Ok(match self.gitlab.submit(self.now, request) {
            Answer::Now(response) => Sent::Answered(response),
            Answer::Held(_) => Sent::Held,
        })
    }

    fn wait(&mut self) -> Result<Response<Bytes>, String> {
        for _ in 0..10 {
            if let Some((_, response)) = self.gitlab.poll(self.now) {
                return Ok(response);
            }
            self.now = self.gitlab.deadline().ok_or("it is held for ever")?;
        }
        Err("it is held for ever".to_owned())
    }

    fn job(&mut self, job: u64) -> Result<Value, String> {
        let report = sim::report(&self.gitlab);
        let jobs = report["jobs"].as_array().ok_or("no jobs")?;
        jobs.iter().find(|one| one["id"] == job).cloned().ok_or_else(|| format!("there is no job {job}"))
    }

    fn trace(&mut self, job: u64) -> Result<Bytes, String> {
        let job = self.gitlab.job(job).ok_or("there is no such job")?;
        Ok(Bytes::copy_from_slice(job.trace()))
    }

    fn artifact(&mut self, job: u64, kind: &str) -> Result<Option<Bytes>, String> {
        let job = self.gitlab.job(job).ok_or("there is no such job")?;
        job.artifact(kind).map(|file| file.content.to_bytes().map_err(|error| error.to_string())).transpose()
    }

    fn count_runners(&mut self) -> Result<usize, String> {
        Ok(self.gitlab.runners().count())
    }

    fn runner(&mut self, runner: u64) -> Result<Option<Value>, String> {
        let Some(token) = self.gitlab.runner_token(runner) else { return Ok(None) };
        let manager = |system_id: &str| {
            let contacted_at = self.gitlab.manager_contacted_at(runner, system_id);
            let contacted_at = contacted_at.map(|at| Duration::from_millis(at.as_millis()).as_secs_f64());
            json!({ "info": self.gitlab.manager_info(runner, system_id), "contacted_at": contacted_at })
        };
        let managers: Map<String, Value> =
            self.gitlab.managers(runner).map(|system_id| (system_id.to_owned(), manager(system_id))).collect();
        let attributes = self.gitlab.runner_attributes(runner);
        Ok(Some(json!({ "token": token, "attributes": attributes, "managers": managers })))
    }
}

fn runner_type(name: &str) -> Result<RunnerType, String> {
    let all = [RunnerType::Instance, RunnerType::Group, RunnerType::Project];
    let found = all.into_iter().find(|kind| name == kind.as_str());
    found.ok_or_else(|| format!("there is no runner of type {name}"))
}
