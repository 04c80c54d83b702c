//! `register-runner`: makes a runner of this machine and keeps it in a file, from the command line.
//!
//! `register-runner --help` tells how. Tokens are never printed.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod args;
mod convert;
mod failure;
mod words;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use gitlab_runner_api_ureq::gitlab_runner_api::Server;
use gitlab_runner_api_ureq::gitlab_runner_api::api::unregister::Removal;
use gitlab_runner_api_ureq::{Instance, Runner};
use serde_json::json;

use args::{Action, Args, Credential, Output, USAGE};
use failure::Failure;

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(Some(args)) => args,
        Ok(None) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err((failure, output)) => return report(Err(failure), output),
    };
    let output = args.output;
    report(act(args), output)
}

/// What was done, for people and for programs.
struct Done {
    text: String,
    json: serde_json::Value,
}

fn report(result: Result<Done, Failure>, output: Output) -> ExitCode {
    match (result, output) {
        (Ok(done), Output::Text) => say(&done.text),
        (Ok(done), Output::Json) => say(&done.json.to_string()),
        (Err(failure), Output::Text) => {
            _ = writeln!(std::io::stderr(), "register-runner: {failure}");
            return failure.code.into();
        }
        (Err(failure), Output::Json) => {
            say(&json!({ "error": failure.to_string(), "exit_code": failure.code }).to_string());
            return failure.code.into();
        }
    }
    ExitCode::SUCCESS
}

/// Nobody may be listening any more; that is no reason to fail.
fn say(text: &str) {
    _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn act(args: Args) -> Result<Done, Failure> {
    let Args { action, transport, .. } = args;
    match action {
        Action::Register { url, credential, file, registration, overwrite } => {
            let host =
                Server::parse(&url).map_err(|error| Failure::from(gitlab_runner_api_ureq::Error::from(error)))?;
            args::check_free(&file, overwrite)?;
            let instance = Instance::new(&url)?.with_transport(transport.build()?);
            let (runner, new) = match credential {
                Credential::Runner(token) => {
                    let new = !token.trim().starts_with("glrt-");
                    (instance.register(token, *registration)?, new)
                }
                Credential::User(token, runner_type) => {
                    (instance.create_runner(token, runner_type, *registration)?, true)
                }
            };
            if let Err(error) = runner.save(&file) {
                return Err(Failure::unsaved(error, new.then(|| runner.unregister_all())));
            }
            Ok(done(&runner, &file, format!("{host}: Successfully registered runner {}", runner.id())))
        }
        Action::Verify { file } => {
            let runner = load(&file, &transport)?;
            runner.check_auth()?;
            Ok(done(&runner, &file, format!("{}: Runner {} is valid", runner.url(), runner.id())))
        }
        Action::Unregister { file, all } => {
            let runner = load(&file, &transport)?;
            let removal = if all { runner.unregister_all() } else { runner.unregister() }?;
            let what = if removal == Removal::Removed { "was removed" } else { "was gone already" };
            let text =
                format!("{}: Runner {} {what}; its file was kept: {}", runner.url(), runner.id(), file.display());
            Ok(done(&runner, &file, text))
        }
        Action::ResetToken { file, user } => {
            let mut runner = load(&file, &transport)?;
            match user {
                Some(user) => runner.reset_token_as_user(user, &file)?,
                None => runner.reset_token(&file)?,
            }
            Ok(done(&runner, &file, format!("{}: Runner {} has a new token", runner.url(), runner.id())))
        }
        Action::Convert { old, new, overwrite } => convert::convert(&old, &new, overwrite),
    }
}

fn load(file: &Path, transport: &args::TransportArgs) -> Result<Runner, Failure> {
    Ok(Runner::load(file)?.with_transport(transport.build()?))
}

fn done(runner: &Runner, file: &Path, text: String) -> Done {
    let json = json!({
        "url": runner.url(),
        "id": runner.id(),
        "system_id": runner.system_id().as_str(),
        "token_expires_at": runner.token_expires_at(),
        "file": file.display().to_string(),
    });
    Done { text, json }
}
