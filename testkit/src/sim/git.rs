//! The git repository at the `repo_url` of jobs.
//!
//! A job clones it with its token, as in GitLab: over HTTP, with the user name `gitlab-ci-token`. The protocol is git's plain one,
//! for which the server only reads files. See [`Repository`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gitlab_runner_api::Timestamp;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};

use crate::content::Content;
use crate::coordinator::{Coordinator, NewJob, PROJECT_PATH};
use crate::repository::Repository;
use crate::server::{Handling, Later};

/// The user name of a job.
const USER: &str = "gitlab-ci-token";

/// GitLab's words.
const DENIED: &str = "HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect \
                      or you're required to use a token instead of a password. If a token was provided, it was either \
                      incorrect, expired, or improperly scoped.\n";

/// The answer to a request for the repository; `None` if it is for something else, or there is no repository. Who may read it is
/// decided at once. The program git and the disk may be slow, so that nobody else waits for them.
pub(super) fn answer(gitlab: &Coordinator, now: Timestamp, request: &Request<Bytes>) -> Option<Handling> {
    let repository = gitlab.repository()?;
    let path = request.uri().path().strip_prefix('/')?.strip_prefix(PROJECT_PATH)?.strip_prefix(".git/")?;
    let token = password(request.headers());
    let Some(job) = token.and_then(|token| gitlab.executing_job(now, &token)) else {
        let mut response = text(StatusCode::UNAUTHORIZED, DENIED);
        let challenge = HeaderValue::from_static("Basic realm=\"GitLab\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        return Some(Handling::Answered(response));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let why = "The repository can only be read, by git's plain protocol.\n";
        return Some(Handling::Answered(text(StatusCode::FORBIDDEN, why)));
    }
    let (repository, job, path) = (repository.clone(), job.template().clone(), path.to_owned());
    Some(Handling::Later(Later::new(move || {
        let found = file(&repository, &job, &path);
        found.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "There is no such file in the repository.\n"))
    })))
}

/// The password of a request in which [`USER`] presents itself.
fn password(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    (scheme.eq_ignore_ascii_case("basic") && user == USER).then(|| password.to_owned())
}

/// A file of the repository. What may change is made anew, because the file of that name may be missing or out of date.
fn file(repository: &Repository, job: &NewJob, path: &str) -> Option<Response<Content>> {
    let made = |body: String| {
        let mut response = text(StatusCode::OK, body);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    };
    Some(match path {
        "HEAD" => made(format!("ref: refs/heads/{}\n", repository.default_branch())),
        // If the type of this answer is not that of git's other protocol, the client knows that it must use the plain one.
        "info/refs" => match repository.advertise(&job.hidden_references()) {
            Ok(list) => made(list),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "objects/info/packs" => made(repository.list_packs()),
        path => {
            let mut response = Response::new(repository.object(path.strip_prefix("objects/")?)?);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            response
        }
    })
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Content> {
    let mut response = Response::new(Content::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
