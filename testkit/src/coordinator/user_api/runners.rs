//! `/runners` and `/projects/:id/runners`.

use http::StatusCode;

use super::asked::{Asked, not_found};
use super::jobs::STATUSES;
use super::paging::Total;
use crate::coordinator::access::{Role, RunnerType};
use crate::coordinator::jobs::JobRecord;
use crate::coordinator::ownership::unmodified;
use crate::coordinator::registration::{changes, check_access_level, check_exclusive, check_model};
use crate::coordinator::runners::Runner;
use crate::coordinator::wire::Reply;
use crate::coordinator::{Coordinator, Inbound};

/// What can be changed of a runner, as GitLab lists it.
const CHANGEABLE: &[&str] = &[
    "description",
    "active",
    "paused",
    "tag_list",
    "run_untagged",
    "locked",
    "access_level",
    "maximum_timeout",
    "maintenance_note",
];
const KINDS: &[&str] = &["instance_type", "group_type", "project_type"];
const STATES: &[&str] = &["active", "paused", "online", "offline", "never_contacted", "stale"];
const SCOPES: &[&str] = &[
    "specific",
    "shared",
    "instance_type",
    "group_type",
    "project_type",
    "active",
    "paused",
    "online",
    "offline",
    "never_contacted",
    "stale",
];

/// The runners that the user owns. Those of the instance are not among them.
pub(super) fn list_owned(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let scope = asked.choice("scope", STATES)?;
    let owns =
        |runner: &Runner| runner.kind() != RunnerType::Instance && asked.user.role >= Role::needed_for(runner.kind());
    list(gitlab, asked, scope, owns)
}

pub(super) fn list_all(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let scope = asked.choice("scope", SCOPES)?;
    if asked.user.role < Role::Administrator {
        return Err(Reply::forbidden());
    }
    list(gitlab, asked, scope, |_| true)
}

pub(super) fn list_of_project(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let scope = asked.choice("scope", SCOPES)?;
    asked.check_project(Role::Maintainer)?;
    let shared = gitlab.settings.instance_runners_enabled;
    list(gitlab, asked, scope, |runner| shared || runner.kind() != RunnerType::Instance)
}

pub(super) fn show(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let (id, runner) = readable(gitlab, asked)?;
    Ok(Reply::json(StatusCode::OK, &gitlab.runner_details(asked.now, id, runner, asked.user)))
}

pub(super) fn managers(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let (id, runner) = readable(gitlab, asked)?;
    let managers = runner.managers.iter();
    let list = managers.map(|(system_id, manager)| gitlab.manager_view(asked.now, id, system_id, manager)).collect();
    Ok(Reply::json(StatusCode::OK, &list))
}

pub(super) fn update(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let Inbound { params, .. } = asked.inbound;
    let id = asked.number(0, "id")?;
    check_exclusive(params, &[("active", "paused")])?;
    check_access_level(params)?;
    if !CHANGEABLE.iter().any(|name| params.has(name)) {
        let names = CHANGEABLE.join(", ");
        let error = format!("{names} are missing, at least one parameter must be provided");
        return Err(Reply::error(StatusCode::BAD_REQUEST, error));
    }
    let changes = changes(params)?;
    let runner = gitlab.runners.get(&id).ok_or_else(not_found)?;
    asked.user.check_access(runner.kind())?;
    let mut changed = runner.attributes.clone();
    changed.extend(changes.clone());
    check_model(&changed)?;
    gitlab.change_runner(id, changes);
    let runner = gitlab.runners.get(&id).ok_or_else(not_found)?;
    Ok(Reply::json(StatusCode::OK, &gitlab.runner_details(asked.now, id, runner, asked.user)))
}

pub(super) fn delete(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let id = asked.number(0, "id")?;
    let runner = gitlab.runners.get(&id).ok_or_else(not_found)?;
    asked.user.check_access(runner.kind())?;
    unmodified(asked.inbound, runner.updated_at)?;
    gitlab.remove_runner(id);
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// The jobs that a runner got.
pub(super) fn jobs(gitlab: &mut Coordinator, asked: &Asked<'_>) -> Result<Reply, Reply> {
    let status = asked.choice("status", STATUSES)?;
    asked.choice("order_by", &["id"])?;
    let ascending = asked.choice("sort", &["asc", "desc"])? == Some("asc");
    let system_id = asked.inbound.params.text("system_id")?.filter(|id| !id.is_empty());
    let id = asked.number(0, "id")?;
    gitlab.runners.get(&id).ok_or_else(not_found)?;
    if asked.user.role < Role::Maintainer {
        return Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - No access granted"));
    }
    let mut jobs: Vec<&JobRecord> = gitlab
        .jobs
        .values()
        .filter(|job| job.runner == Some(id) && !job.project_deleted)
        .filter(|job| status.is_none_or(|status| status == job.status.as_str()))
        .filter(|job| system_id.is_none() || system_id.as_deref() == job.system_id())
        .collect();
    if !ascending {
        jobs.reverse();
    }
    let total = if system_id.is_some() { Total::Unknown } else { Total::Counted };
    asked.page(&gitlab.settings.external_url, &jobs, total, |job| gitlab.job_with_project(asked.now, job))
}

/// The runner that the path names, if the user may see it. Runners of the instance may be seen by all.
fn readable<'a>(gitlab: &'a Coordinator, asked: &Asked<'_>) -> Result<(u64, &'a Runner), Reply> {
    let id = asked.number(0, "id")?;
    let runner = gitlab.runners.get(&id).ok_or_else(not_found)?;
    if runner.kind() != RunnerType::Instance && asked.user.role < Role::Maintainer {
        return Err(Reply::message(StatusCode::FORBIDDEN, "403 Forbidden - No access granted"));
    }
    Ok((id, runner))
}

/// A page of the runners that the user may see and that the request asks for, the newest first.
fn list(
    gitlab: &Coordinator,
    asked: &Asked<'_>,
    scope: Option<&str>,
    may_see: impl Fn(&Runner) -> bool,
) -> Result<Reply, Reply> {
    let params = &asked.inbound.params;
    let kind = asked.choice("type", KINDS)?;
    let status = asked.choice("status", STATES)?;
    let paused = params.flag("paused")?;
    let version = params.text("version_prefix")?.filter(|prefix| !prefix.is_empty());
    let tags = params.list("tag_list");
    let runners: Vec<(&u64, &Runner)> = gitlab
        .runners
        .iter()
        .rev()
        .filter(|(_, runner)| may_see(runner))
        .filter(|(_, runner)| [scope, kind, status].into_iter().flatten().all(|name| is_in(asked, runner, name)))
        .filter(|(_, runner)| paused.is_none_or(|paused| runner.paused == paused))
        .filter(|(_, runner)| tags.iter().all(|tag| runner.tags().any(|own| own == tag)))
        .filter(|(_, runner)| version.as_deref().is_none_or(|prefix| runner.has_version(prefix)))
        .collect();
    let view = |(id, runner): &(&u64, &Runner)| gitlab.runner_view(asked.now, **id, runner);
    asked.page(&gitlab.settings.external_url, &runners, Total::Counted, view)
}

/// Whether a runner belongs to a type, a status or a scope.
fn is_in(asked: &Asked<'_>, runner: &Runner, name: &str) -> bool {
    match name {
        "active" => !runner.paused,
        "paused" => runner.paused,
        "shared" => runner.kind() == RunnerType::Instance,
        "specific" => runner.kind() != RunnerType::Instance,
        // A stale runner is offline as well.
        "offline" => matches!(runner.contact_status(asked.now), "offline" | "stale"),
        "online" | "never_contacted" | "stale" => runner.contact_status(asked.now) == name,
        kind => runner.kind().as_str() == kind,
    }
}
