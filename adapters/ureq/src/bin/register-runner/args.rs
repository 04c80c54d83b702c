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
use crate::words::{closest, has_token, kind_of, shown};

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
  --help, --version       print this text, or the version, on standard output

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
            (Some(file), true) => options = options.with_only_ca(read(file, "--ca-file")?),
            (Some(file), false) => options = options.with_ca(read(file, "--ca-file")?),
            (None, true) => return Err(Failure::usage("--ca-only needs --ca-file")),
            (None, false) => {}
        }
        match &self.client {
            (Some(chain), Some(key)) => {
                let key = String::from_utf8_lossy(&read(key, "--client-key")?).into_owned();
                options = options.with_client_certificate(read(chain, "--client-cert")?, Secret::new(key));
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
        // What lexopt says of a word that it does not expect quotes that word, which may be a token.
        while let Some(argument) = parser.next().map_err(|_| Failure::usage("an option has a value and takes none"))? {
            let name = match argument {
                Short('h') => return Ok(false),
                Short('V') => show_version(),
                Value(word) => {
                    self.words.push(word);
                    continue;
                }
                Short(letter) => return Err(Failure::usage(format!("there is no option -{letter}"))),
                Long(name) => name.to_owned(),
            };
            match name.as_str() {
                "help" => return Ok(false),
                "version" => show_version(),
                _ => {}
            }
            if !(self.attribute(&name, &mut parser)? || self.option(&name, &mut parser)?) {
                return Err(unknown_option(&name));
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
            "proxy" => {
                let proxy = text(name, parser)?;
                // It would be looked up as the name of a host, and so be told to name servers.
                if has_token(&proxy) {
                    return Err(Failure::usage("there is a token in the address of the proxy"));
                }
                self.transport.proxy = Some(proxy);
            }
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
            Some(url) if url.contains("://") => self.register(url.to_owned(), rest)?,
            Some(word) => return Err(unknown_verb(word)),
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
        if files.iter().any(|file| is_token(file)) {
            return Err(Failure::usage(format!("a token was given where the name of a file belongs: {wanted}")));
        }
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
        if has_token(&url) {
            return Err(Failure::usage("there is a token in the URL; TOKEN stands behind it"));
        }
        let (token, file) = token_and_file(words)?;
        let credential = match (token, self.token_file.take(), wants_user) {
            (None, None, true) => {
                let runner_type = self.runner_type()?;
                let user = self.user_token(true)?.ok_or_else(|| {
                    Failure::usage("a runner type needs --access-token, --access-token-file or GITLAB_ACCESS_TOKEN")
                })?;
                Credential::User(user, runner_type)
            }
            (_, _, true) => return Err(Failure::usage("give a runner's TOKEN or a personal access token, not both")),
            (Some(_), Some(_), _) => return Err(Failure::usage("give TOKEN or --token-file, not both")),
            (Some(token), None, _) => Credential::Runner(runner_token(token, "TOKEN")?),
            (None, Some(file), _) => {
                Credential::Runner(runner_token(text_of(&file, "--token-file")?, "the content of --token-file")?)
            }
            (None, None, _) => {
                let token = env::var("GITLAB_RUNNER_TOKEN").map_err(|_| {
                    Failure::usage("a TOKEN is needed: as an argument, --token-file or GITLAB_RUNNER_TOKEN")
                })?;
                Credential::Runner(runner_token(token, "GITLAB_RUNNER_TOKEN")?)
            }
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
            (Some(token), None) => Some((token, "--access-token")),
            (None, Some(file)) => Some((text_of(&file, "--access-token-file")?, "the content of --access-token-file")),
            (None, None) if from_env => {
                env::var("GITLAB_ACCESS_TOKEN").ok().map(|token| (token, "GITLAB_ACCESS_TOKEN"))
            }
            (None, None) => None,
        };
        let given = given.map(|(token, place)| access_token(token, place)).transpose()?;
        Ok(given.map(PersonalAccessToken::new).transpose().map_err(gitlab_runner_api_ureq::Error::from)?)
    }
}

/// The words of a registration behind the URL: `[TOKEN] FILE.json`.
fn token_and_file(words: Vec<OsString>) -> Result<(Option<String>, PathBuf), Failure> {
    let mut words = words.into_iter();
    let (token, file) = match (words.next(), words.next(), words.next()) {
        (Some(token), Some(file), None) => (Some(token), PathBuf::from(file)),
        (Some(file), None, None) => (None, PathBuf::from(file)),
        _ => return Err(Failure::usage("URL, TOKEN and FILE.json are needed")),
    };
    match &token {
        _ if is_json(&file) => {}
        // The only word is the token of somebody who forgot the file, more often than a file.
        None => return Err(Failure::usage("FILE.json is missing, or its name does not end in .json")),
        Some(token) if is_json(Path::new(token)) => {
            return Err(Failure::usage("FILE.json must end in .json, and TOKEN comes before it"));
        }
        Some(_) => check_name(&file)?,
    }
    let token = token.map(|token| token.into_string().map_err(|_| Failure::usage("the TOKEN is not text")));
    Ok((token.transpose()?, file))
}

/// The verbs, and what is often taken for one.
const VERBS: [&str; 7] = ["verify", "unregister", "reset-token", "convert", "register", "help", "version"];

/// What is no verb, and no URL either.
fn unknown_verb(word: &str) -> Failure {
    match closest(word, VERBS) {
        // It has no verb of its own, and is close to `unregister`, which is not what was meant.
        Some("register") => Failure::usage("to register takes no verb: give URL, TOKEN and FILE.json"),
        Some(option @ ("help" | "version")) => {
            Failure::usage(format!("there is no verb {word}; did you mean --{option}?"))
        }
        Some(verb) => Failure::usage(format!("there is no verb {word}; did you mean {verb}?")),
        None => Failure::usage("the first word is neither a verb nor a URL such as https://gitlab.example.com"),
    }
}

/// All options with a name.
const OPTIONS: [&str; 29] = [
    "token-file",
    "access-token",
    "access-token-file",
    "runner-type",
    "group-id",
    "project-id",
    "description",
    "maintenance-note",
    "tag-list",
    "maximum-timeout",
    "access-level",
    "locked",
    "paused",
    "run-untagged",
    "name",
    "runner-version",
    "revision",
    "executor",
    "ca-file",
    "ca-only",
    "client-cert",
    "client-key",
    "proxy",
    "no-proxy",
    "overwrite",
    "all",
    "output",
    "help",
    "version",
];

fn unknown_option(name: &str) -> Failure {
    // What GitLab's own runner calls them.
    if ["token", "registration-token", "url"].contains(&name) {
        return Failure::usage(format!("there is no option --{name}: give URL, TOKEN and FILE.json in this order"));
    }
    match closest(name, OPTIONS) {
        Some(option) => Failure::usage(format!("there is no option --{name}; did you mean --{option}?")),
        None => {
            let is_it = |word: OsString| {
                let word = word.to_string_lossy().into_owned();
                word.strip_prefix("--").is_some_and(|word| word.split('=').next() == Some(name))
            };
            let place =
                env::args_os().skip(1).position(is_it).map_or(String::new(), |at| format!(" (word {})", at + 1));
            Failure::usage(format!("there is no such option{place}; it is not shown, because it may be a token"))
        }
    }
}

fn show_version() -> ! {
    use std::io::Write;
    _ = writeln!(std::io::stdout(), "register-runner {}", env!("CARGO_PKG_VERSION"));
    std::process::exit(0);
}

/// Whether a token is in the place of a file. A file of such a name is a file.
fn is_token(file: &Path) -> bool {
    has_token(&file.to_string_lossy()) && !file.exists()
}

/// A token that makes a runner, or is a runner's already.
fn runner_token(token: String, place: &str) -> Result<String, Failure> {
    match kind_of(&token) {
        None | Some(("glrt-" | "glrtr-" | "GR1348941", _)) => Ok(token),
        Some((prefix @ "glpat-", kind)) => Err(Failure::usage(format!(
            "{place} is {kind} ({prefix}): give it with --access-token or --access-token-file, and say with \
             --runner-type, --group-id or --project-id which runner is to be created"
        ))),
        Some((prefix, kind)) => Err(Failure::usage(format!(
            "{place} is {kind} ({prefix}), which makes no runner; create a runner in GitLab, and use its glrt- token"
        ))),
    }
}

/// A token that acts for a user.
fn access_token(token: String, place: &str) -> Result<String, Failure> {
    match kind_of(&token) {
        None | Some(("glpat-", _)) => Ok(token),
        Some((prefix, kind)) => Err(Failure::usage(format!(
            "{place} is {kind} ({prefix}), and a user's personal access token (glpat-) is needed there"
        ))),
    }
}

/// Runner files are JSON, and say so.
pub(crate) fn check_name(file: &Path) -> Result<(), Failure> {
    if is_json(file) { Ok(()) } else { Err(Failure::usage("the name of the file for the runner must end in .json")) }
}

fn is_json(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "json")
}

/// Whether a runner may be kept there. Asked before GitLab is, so that no token is made that has no place.
pub(crate) fn check_free(file: &Path, overwrite: bool) -> Result<(), Failure> {
    if file.exists() && !overwrite {
        let file = shown(file, "FILE.json");
        let text = format!("{file} exists, and may hold the only copy of a token; --overwrite replaces it");
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

/// The content of a file that was given in this place of the command line.
fn read(file: &Path, place: &str) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::file(format!("{}: {error}", shown(file, place))))
}

pub(crate) fn text_in(file: &Path, place: &str) -> Result<String, Failure> {
    let is_no_text = |_| Failure::file(format!("{} is not text", shown(file, place)));
    String::from_utf8(read(file, place)?).map_err(is_no_text)
}

/// A token from a file, or from standard input.
fn text_of(file: &Path, option: &str) -> Result<String, Failure> {
    if is_token(file) {
        return Err(Failure::usage(format!("{option} takes the name of a file that holds the token, not the token")));
    }
    if file.as_os_str() != "-" {
        return text_in(file, option);
    }
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| Failure::file(format!("standard input: {error}")))?;
    Ok(text)
}
