//! The command line.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use gitlab_runner_api_ureq::gitlab_runner_api::api::create_runner::RunnerType;
use gitlab_runner_api_ureq::gitlab_runner_api::api::register::AccessLevel;
use gitlab_runner_api_ureq::gitlab_runner_api::{PersonalAccessToken, Secret};
use gitlab_runner_api_ureq::{HttpOptions, Proxies, ProxyUrl, Registration, Runner, Transport};
use lexopt::prelude::*;

use crate::failure::Failure;

pub(crate) const USAGE: &str = "\
Makes a runner of this machine and keeps it in a file.

  register-runner URL TOKEN FILE.json [options]     register, with a registration token or a glrt- token
  register-runner URL FILE.json [options]           the same, with a token from the environment or a file
  register-runner URL FILE.json --access-token T --project-id N [options]
                                                    create the runner in the name of a user first
  register-runner verify FILE.json                  is the runner's token still good?
  register-runner unregister FILE.json [--all]      take this machine out of GitLab (--all: the whole runner)
  register-runner reset-token FILE.json             replace the token, and keep the new one in the file
  register-runner convert OLD NEW                   take over what the Python package gitlab_runner_api saved:
                                                    a runner into the file NEW.json, a job into the folder NEW

Tokens (given as an argument, they can be seen by other users of this machine)
  --token-file FILE       read TOKEN from a file, - for standard input; else from GITLAB_RUNNER_TOKEN
  --access-token T        a user's personal access token (scope create_runner; manage_runner for reset-token)
  --access-token-file F   the same from a file, - for standard input; else from GITLAB_ACCESS_TOKEN

Which runner is created with a personal access token
  --runner-type TYPE      instance, group or project
  --group-id N, --project-id N

Attributes of a new runner (GitLab keeps those of a glrt- token itself)
  --description TEXT      --maintenance-note TEXT     --tag-list TAG[,TAG...]
  --maximum-timeout SECONDS                           --access-level not_protected|ref_protected
  --locked                --paused                    --run-untagged[=false]

What the runner says of itself
  --name NAME             --runner-version VERSION    --revision COMMIT     --executor NAME

Connection
  --ca-file FILE          trust these PEM certificates too; --ca-only: and no others
  --client-cert FILE --client-key FILE                show this certificate
  --proxy URL | --no-proxy                            instead of HTTP_PROXY, HTTPS_PROXY, NO_PROXY

Other
  --overwrite             replace FILE.json (or NEW.json) if it exists; the token in it is lost
  --output text|json      one JSON object on standard output, also for errors
  --help, --version

Exit codes: 0 done; 1 something else failed; 2 wrong usage; 3 GitLab refused the token or the user; 4 GitLab could not be
reached, or did not answer as GitLab does; 5 a file cannot be read or written; 6 it is not known whether GitLab carried it
out, look before you repeat it.";

/// What is to be done, and how.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) action: Action,
    pub(crate) transport: TransportArgs,
    pub(crate) output: Output,
}

#[derive(Debug)]
pub(crate) enum Action {
    Register { url: String, credential: Credential, file: PathBuf, registration: Box<Registration>, overwrite: bool },
    Verify { file: PathBuf },
    Unregister { file: PathBuf, all: bool },
    ResetToken { file: PathBuf, user: Option<PersonalAccessToken> },
    Convert { old: PathBuf, new: PathBuf, overwrite: bool },
}

/// Who asks for a runner. `Debug` is not derived for the token in it.
pub(crate) enum Credential {
    /// A registration token, or that of a runner that exists.
    Runner(String),
    User(PersonalAccessToken, RunnerType),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Runner(_)) { "Runner(..)" } else { "User(..)" })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Output {
    #[default]
    Text,
    Json,
}

/// How GitLab is reached.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TransportArgs {
    ca_file: Option<PathBuf>,
    ca_only: bool,
    client: (Option<PathBuf>, Option<PathBuf>),
    proxy: Option<String>,
    no_proxy: bool,
}

impl TransportArgs {
    pub(crate) fn build(&self) -> Result<Transport, Failure> {
        let mut options = HttpOptions::new();
        match (&self.ca_file, self.ca_only) {
            (Some(file), true) => options = options.with_only_ca(read(file)?),
            (Some(file), false) => options = options.with_ca(read(file)?),
            (None, true) => return Err(Failure::usage("--ca-only needs --ca-file")),
            (None, false) => {}
        }
        match &self.client {
            (Some(chain), Some(key)) => {
                let key = String::from_utf8_lossy(&read(key)?).into_owned();
                options = options.with_client_certificate(read(chain)?, Secret::new(key));
            }
            (None, None) => {}
            _ => return Err(Failure::usage("--client-cert and --client-key belong together")),
        }
        let proxies = match (&self.proxy, self.no_proxy) {
            (Some(_), true) => return Err(Failure::usage("--proxy and --no-proxy exclude each other")),
            (Some(url), false) => Proxies::all(ProxyUrl::parse(url).map_err(gitlab_runner_api_ureq::Error::from)?),
            (None, true) => Proxies::none(),
            (None, false) => {
                Proxies::from_vars(|name| env::var(name).ok()).map_err(gitlab_runner_api_ureq::Error::from)?
            }
        };
        Ok(Transport::with_options(&options.with_proxies(proxies))?)
    }
}

/// Everything given, before it is known to fit together.
#[derive(Default)]
struct Given {
    words: Vec<OsString>,
    registration: Registration,
    /// The first flag that only a registration takes.
    register_only: Option<&'static str>,
    token_file: Option<PathBuf>,
    access_token: Option<String>,
    access_token_file: Option<PathBuf>,
    runner_type: Option<String>,
    group: Option<u64>,
    project: Option<u64>,
    overwrite: bool,
    all: bool,
    transport: TransportArgs,
    output: Output,
}

impl Args {
    /// The command line of this process; `None` if only help or the version was wanted.
    pub(crate) fn read() -> Result<Option<Self>, (Failure, Output)> {
        let mut given = Given::default();
        let parsed = given.parse(lexopt::Parser::from_env());
        let output = given.output;
        match parsed {
            Ok(true) => given.into_args().map(Some).map_err(|failure| (failure, output)),
            Ok(false) => Ok(None),
            Err(failure) => Err((failure, output)),
        }
    }
}

impl Given {
    /// Takes each argument; false if help was wanted.
    fn parse(&mut self, mut parser: lexopt::Parser) -> Result<bool, Failure> {
        while let Some(argument) = parser.next().map_err(Failure::usage)? {
            let name = match argument {
                Short('h') => return Ok(false),
                Value(word) => {
                    self.words.push(word);
                    continue;
                }
                Short(letter) => return Err(Failure::usage(format!("there is no option -{letter}"))),
                Long(name) => name.to_owned(),
            };
            if name == "help" {
                return Ok(false);
            }
            if name == "version" {
                use std::io::Write;
                _ = writeln!(std::io::stdout(), "register-runner {}", env!("CARGO_PKG_VERSION"));
                std::process::exit(0);
            }
            if !(self.attribute(&name, &mut parser)? || self.option(&name, &mut parser)?) {
                return Err(Failure::usage(format!("there is no option --{name}")));
            }
        }
        Ok(true)
    }

    /// What the runner is to be like; false if the option is none of these.
    fn attribute(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<bool, Failure> {
        let registration = std::mem::take(&mut self.registration);
        let info = registration.info().clone();
        self.registration = match name {
            "description" => registration.with_description(text(name, parser)?),
            "maintenance-note" => registration.with_maintenance_note(text(name, parser)?),
            "tag-list" => {
                let tags = text(name, parser)?;
                registration.with_tags(tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()))
            }
            "maximum-timeout" => registration.with_maximum_timeout(number(name, parser)?),
            "access-level" => registration.with_access_level(match text(name, parser)?.as_str() {
                "not_protected" => AccessLevel::NotProtected,
                "ref_protected" => AccessLevel::RefProtected,
                _ => return Err(Failure::usage("--access-level is not_protected or ref_protected")),
            }),
            "locked" => registration.with_locked(flag(name, parser)?),
            "paused" => registration.with_paused(flag(name, parser)?),
            "run-untagged" => registration.with_run_untagged(flag(name, parser)?),
            "name" => registration.with_info(info.with_name(text(name, parser)?)),
            "runner-version" => registration.with_info(info.with_version(text(name, parser)?)),
            "revision" => registration.with_info(info.with_revision(text(name, parser)?)),
            "executor" => registration.with_info(info.with_executor(text(name, parser)?)),
            _ => {
                self.registration = registration;
                return Ok(false);
            }
        };
        self.register_only.get_or_insert("attributes");
        Ok(true)
    }

    fn option(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<bool, Failure> {
        match name {
            "token-file" => self.token_file = Some(path(name, parser)?),
            "access-token" => self.access_token = Some(text(name, parser)?),
            "access-token-file" => self.access_token_file = Some(path(name, parser)?),
            "runner-type" => self.runner_type = Some(text(name, parser)?),
            "group-id" => self.group = Some(number(name, parser)?),
            "project-id" => self.project = Some(number(name, parser)?),
            "overwrite" => self.overwrite = flag(name, parser)?,
            "all" => self.all = flag(name, parser)?,
            "ca-file" => self.transport.ca_file = Some(path(name, parser)?),
            "ca-only" => self.transport.ca_only = flag(name, parser)?,
            "client-cert" => self.transport.client.0 = Some(path(name, parser)?),
            "client-key" => self.transport.client.1 = Some(path(name, parser)?),
            "proxy" => self.transport.proxy = Some(text(name, parser)?),
            "no-proxy" => self.transport.no_proxy = flag(name, parser)?,
            "output" => {
                self.output = match text(name, parser)?.as_str() {
                    "text" => Output::Text,
                    "json" => Output::Json,
                    _ => return Err(Failure::usage("--output is text or json")),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn into_args(mut self) -> Result<Args, Failure> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        let Some(first) = words.next() else { return Err(Failure::usage("URL, TOKEN and FILE.json are needed")) };
        let rest: Vec<OsString> = words.collect();
        let action = match first.to_str() {
            Some("verify") => Action::Verify { file: self.only_file(rest)? },
            Some("convert") => self.convert(rest)?,
            Some("unregister") => {
                Action::Unregister { all: std::mem::take(&mut self.all), file: self.only_file(rest)? }
            }
            Some("reset-token") => {
                let user = self.user_token(false)?;
                Action::ResetToken { file: self.only_file(rest)?, user }
            }
            Some(url) => self.register(url.to_owned(), rest)?,
            None => return Err(Failure::usage("the URL is not text")),
        };
        Ok(Args { action, transport: self.transport, output: self.output })
    }

    fn convert(&mut self, words: Vec<OsString>) -> Result<Action, Failure> {
        let overwrite = std::mem::take(&mut self.overwrite);
        if self.transport != TransportArgs::default() || self.access_token.is_some() || self.access_token_file.is_some()
        {
            return Err(Failure::usage("convert asks nobody: leave out tokens and the connection"));
        }
        let [old, new] = self.only_files(words, "give the OLD file and the NEW place")?;
        Ok(Action::Convert { old, new, overwrite })
    }

    /// The one argument of the other commands.
    fn only_file(&self, words: Vec<OsString>) -> Result<PathBuf, Failure> {
        self.only_files(words, "give one FILE.json").map(|[file]| file)
    }

    /// So many files, and no options of a registration.
    fn only_files<const N: usize>(&self, words: Vec<OsString>, wanted: &str) -> Result<[PathBuf; N], Failure> {
        let strange = [
            (self.register_only.is_some(), "attributes"),
            (self.token_file.is_some(), "--token-file"),
            (self.runner_type.is_some() || self.group.is_some() || self.project.is_some(), "a runner type"),
            (self.overwrite, "--overwrite"),
            (self.all, "--all"),
        ];
        if let Some((_, what)) = strange.iter().find(|(given, _)| *given) {
            return Err(Failure::usage(format!("{what} cannot be given here")));
        }
        let files: Vec<PathBuf> = words.into_iter().map(PathBuf::from).collect();
        files.try_into().map_err(|_| Failure::usage(wanted))
    }

    fn register(&mut self, url: String, words: Vec<OsString>) -> Result<Action, Failure> {
        if self.all {
            return Err(Failure::usage("--all belongs to unregister"));
        }
        let wants_user = self.access_token.is_some()
            || self.access_token_file.is_some()
            || self.runner_type.is_some()
            || self.group.is_some()
            || self.project.is_some();
        let mut words = words.into_iter();
        let (token, file) = match (words.next(), words.next(), words.next()) {
            (Some(token), Some(file), None) => (Some(token), file),
            (Some(file), None, None) => (None, file),
            _ => return Err(Failure::usage("URL, TOKEN and FILE.json are needed")),
        };
        let token = token.map(|token| token.into_string().map_err(|_| Failure::usage("the TOKEN is not text")));
        let file = PathBuf::from(file);
        check_name(&file)?;
        let credential = match (token.transpose()?, self.token_file.take(), wants_user) {
            (None, None, true) => {
                let runner_type = self.runner_type()?;
                let user = self.user_token(true)?.ok_or_else(|| {
                    Failure::usage("a runner type needs --access-token, --access-token-file or GITLAB_ACCESS_TOKEN")
                })?;
                Credential::User(user, runner_type)
            }
            (_, _, true) => return Err(Failure::usage("give a runner's TOKEN or a personal access token, not both")),
            (Some(_), Some(_), _) => return Err(Failure::usage("give TOKEN or --token-file, not both")),
            (Some(token), None, _) => Credential::Runner(token),
            (None, Some(file), _) => Credential::Runner(text_of(&file)?),
            (None, None, _) => Credential::Runner(env::var("GITLAB_RUNNER_TOKEN").map_err(|_| {
                Failure::usage("a TOKEN is needed: as an argument, --token-file or GITLAB_RUNNER_TOKEN")
            })?),
        };
        let registration = Box::new(std::mem::take(&mut self.registration));
        Ok(Action::Register { url, credential, file, registration, overwrite: self.overwrite })
    }

    fn runner_type(&self) -> Result<RunnerType, Failure> {
        match (self.runner_type.as_deref(), self.group, self.project) {
            (Some("instance" | "instance_type"), None, None) => Ok(RunnerType::Instance),
            (Some("group" | "group_type") | None, Some(group), None) => Ok(RunnerType::Group(group)),
            (Some("project" | "project_type") | None, None, Some(project)) => Ok(RunnerType::Project(project)),
            _ => Err(Failure::usage("give --runner-type instance, --group-id N or --project-id N")),
        }
    }

    /// The personal access token, from the environment only if one is asked for: it may be set for other programs.
    fn user_token(&mut self, from_env: bool) -> Result<Option<PersonalAccessToken>, Failure> {
        let given = match (self.access_token.take(), self.access_token_file.take()) {
            (Some(_), Some(_)) => {
                return Err(Failure::usage("give --access-token or --access-token-file, not both"));
            }
            (Some(token), None) => Some(token),
            (None, Some(file)) => Some(text_of(&file)?),
            (None, None) if from_env => env::var("GITLAB_ACCESS_TOKEN").ok(),
            (None, None) => None,
        };
        Ok(given.map(PersonalAccessToken::new).transpose().map_err(gitlab_runner_api_ureq::Error::from)?)
    }
}

/// Runner files are JSON, and say so.
pub(crate) fn check_name(file: &Path) -> Result<(), Failure> {
    if file.extension().is_none_or(|extension| extension != "json") {
        return Err(Failure::usage(format!("the name of the file must end in .json, not {}", file.display())));
    }
    Ok(())
}

/// Whether a runner may be kept there. Asked before GitLab is, so that no token is made that has no place.
pub(crate) fn check_free(file: &Path, overwrite: bool) -> Result<(), Failure> {
    if file.exists() && !overwrite {
        let text = format!("{} exists, and may hold the only copy of a token; --overwrite replaces it", file.display());
        return Err(Failure::file(text));
    }
    Ok(Runner::check_writable(file)?)
}

fn text(name: &str, parser: &mut lexopt::Parser) -> Result<String, Failure> {
    let value = parser.value().map_err(|_| Failure::usage(format!("--{name} needs a value")))?;
    value.into_string().map_err(|_| Failure::usage(format!("the value of --{name} is not text")))
}

fn path(name: &str, parser: &mut lexopt::Parser) -> Result<PathBuf, Failure> {
    Ok(parser.value().map_err(|_| Failure::usage(format!("--{name} needs a file")))?.into())
}

fn number(name: &str, parser: &mut lexopt::Parser) -> Result<u64, Failure> {
    let wrong = || Failure::usage(format!("--{name} needs a whole number"));
    text(name, parser)?.parse().map_err(|_| wrong())
}

/// `--flag`, or `--flag=true`, or `--flag=false`.
fn flag(name: &str, parser: &mut lexopt::Parser) -> Result<bool, Failure> {
    match parser.optional_value().as_deref().map(|value| value.to_str()) {
        None | Some(Some("true")) => Ok(true),
        Some(Some("false")) => Ok(false),
        _ => Err(Failure::usage(format!("--{name} is true or false"))),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::file(format!("{}: {error}", file.display())))
}

pub(crate) fn text_in(file: &Path) -> Result<String, Failure> {
    String::from_utf8(read(file)?).map_err(|_| Failure::file(format!("{} is not text", file.display())))
}

/// A token from a file, or from standard input.
fn text_of(file: &Path) -> Result<String, Failure> {
    if file.as_os_str() != "-" {
        return text_in(file);
    }
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| Failure::file(format!("standard input: {error}")))?;
    Ok(text)
}
