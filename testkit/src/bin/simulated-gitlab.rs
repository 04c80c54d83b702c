//! `simulated-gitlab`: a GitLab for testing runners in any language. `simulated-gitlab --help` tells how.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
#[cfg(all(feature = "tls", unix))]
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use gitlab_runner_api::Timestamp;
use gitlab_runner_api_testkit::{Coordinator, Dice, Server, Settings, sim};
use http::uri::Authority;
use lexopt::prelude::*;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const USAGE: &str = "\
A simulated GitLab, for testing runners in any language.

  simulated-gitlab [options]

  --listen ADDRESS          where to listen; default 127.0.0.1:8929, and port 0 takes a free one
  --allow-remote            allows an ADDRESS that other machines can reach
  --allow-host NAME         serves requests to this host name too; may be given several times
  --root PATH               serves below this path only, such as /gitlab
  --tls                     speaks TLS, with a certificate for localhost, 127.0.0.1, ::1, the ADDRESS and each --allow-host;
                            the file ca_file, which is deleted at the end, has the certificate of the CA
  --repository FOLDER       serves this git repository at the repo_url of jobs, with the token of a running job as password;
                            jobs are about the newest commit of their branch. The program git reads it
  --registration-token T    the token that registers runners
  --runner-token T          the token of a runner that is there already
  --access-token T          the personal access token of an administrator
  --control-token T         the token for changes below URL/_sim/; default a random one
  --jobs FILE_OR_DIR        queues the jobs of this JSON file, or of all *.json files of this folder, by name; a file holds
                            a job or a list of them, each a payload or a short form, as POST /_sim/jobs takes them
  --report FILE             writes a report in JSON here at the end
  --seed N                  decides the tokens that are not given, and which requests a fault strikes
  --fault WHAT:WHERE[:WHEN] may be given several times. WHAT is a status, lose-request, lose-answer or delay=SECONDS;
                            WHERE is register, verify, request, put, patch, artifacts or any; WHEN is a number, the first
                            so many, or a part such as 10%
  --update-interval S       asks runners to send logs every S seconds; default 60, as while nobody watches
  --long-poll S             holds job requests so long
  --two-phase-commit S      only lends a job, until the runner says that it runs; one that is not accepted within S seconds
                            fails with runner_provisioning_timeout, and is retried as a new job (GitLab: 120)
  --virtual-time            time stands still, except that POST /_sim/time lets some pass
  --start-time S            the same, and time begins so many seconds after 1970, so that every run has the same times

  --help, --version         print this text, or the version, on standard output

When it is ready it prints one line of JSON: url, registration_token, runner_token, access_token, control_token, page, and with
--tls ca_file. SIGTERM and SIGINT end it. Jobs are queued and looked at below URL/_sim/; what changes something there needs the
header Control-Token. PAGE shows them in a browser.

Exit codes: 0 ended by a signal; 1 something failed; 2 wrong usage.";

/// A sentence, and the exit code.
struct Failure(u8, String);

fn usage(what: impl std::fmt::Display) -> Failure {
    Failure(2, format!("{what}; simulated-gitlab --help tells more"))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, why)) => {
            _ = writeln!(std::io::stderr(), "simulated-gitlab: {why}");
            code.into()
        }
    }
}

struct Options {
    listen: SocketAddr,
    root: sim::Root,
    tls: bool,
    repository: Option<PathBuf>,
    registration_token: Option<String>,
    runner_token: Option<String>,
    access_token: Option<String>,
    control_token: Option<String>,
    allow_remote: bool,
    allowed_hosts: Vec<String>,
    jobs: Vec<PathBuf>,
    report: Option<PathBuf>,
    seed: u64,
    faults: Vec<sim::Fault>,
    update_interval: Option<u32>,
    long_poll: Option<Duration>,
    two_phase_commit: Option<Duration>,
    virtual_time: bool,
    start_time: Option<Timestamp>,
}

/// What the command line asks for.
enum Wanted {
    Help,
    Version,
    Serve(Box<Options>),
}

/// All options without a value.
const FLAGS: [&str; 5] = ["help", "version", "virtual-time", "allow-remote", "tls"];

/// All options that take a value.
const OPTIONS: [&str; 16] = [
    "listen",
    "root",
    "repository",
    "registration-token",
    "runner-token",
    "access-token",
    "control-token",
    "allow-host",
    "jobs",
    "report",
    "seed",
    "fault",
    "update-interval",
    "long-poll",
    "two-phase-commit",
    "start-time",
];

fn options() -> Result<Wanted, Failure> {
    let mut options = Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 8929)),
        root: sim::Root::default(),
        tls: false,
        repository: None,
        registration_token: None,
        runner_token: None,
        access_token: None,
        control_token: None,
        allow_remote: false,
        allowed_hosts: Vec::new(),
        jobs: Vec::new(),
        report: None,
        seed: 0,
        faults: Vec::new(),
        update_interval: None,
        long_poll: None,
        two_phase_commit: None,
        virtual_time: false,
        start_time: None,
    };
    let mut parser = lexopt::Parser::from_env();
    // What lexopt says of a word that it does not expect quotes that word, which may be a token.
    while let Some(argument) = parser.next().map_err(|_| usage("an option has a value and takes none"))? {
        let name = match argument {
            Short('h') => return Ok(Wanted::Help),
            Short('V') => return Ok(Wanted::Version),
            Short(letter) => return Err(usage(format!("there is no option -{letter}"))),
            Value(_) => return Err(usage("there is a word that belongs to no option")),
            Long(name) => name.to_owned(),
        };
        match name.as_str() {
            "help" => return Ok(Wanted::Help),
            "version" => return Ok(Wanted::Version),
            "virtual-time" => {
                options.virtual_time = true;
                continue;
            }
            "allow-remote" => {
                options.allow_remote = true;
                continue;
            }
            "tls" if cfg!(feature = "tls") => {
                options.tls = true;
                continue;
            }
            "tls" => {
                let how = "cargo build -p gitlab-runner-api-testkit --bin simulated-gitlab --features tls";
                return Err(usage(format!("this program was built without TLS; to have it, build it by {how}")));
            }
            name if OPTIONS.contains(&name) => {}
            name => return Err(unknown_option(name)),
        }
        let value = parser.value().map_err(|_| usage(format!("--{name} needs a value")))?;
        let text = value.to_str().ok_or_else(|| usage(format!("the value of --{name} is not text")))?.to_owned();
        let wrong = |needed: &str| usage(format!("--{name} needs {needed}"));
        match name.as_str() {
            "listen" => options.listen = text.parse().map_err(|_| wrong("an address such as 127.0.0.1:8929"))?,
            "root" => options.root = text.parse().map_err(|_| wrong("a path such as /gitlab"))?,
            "repository" => options.repository = Some(value.into()),
            "registration-token" => options.registration_token = Some(text),
            "runner-token" => options.runner_token = Some(text),
            "access-token" => options.access_token = Some(text),
            "control-token" => {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
                if text.is_empty() || !text.bytes().all(is_plain) {
                    return Err(wrong("letters, digits, -, _, . or ~"));
                }
                options.control_token = Some(text);
            }
            "allow-host" => {
                let host = text.parse().ok().filter(|host: &Authority| host.host() == text);
                host.ok_or_else(|| wrong("the name of a host, such as gitlab.test"))?;
                options.allowed_hosts.push(text);
            }
            "jobs" => options.jobs.push(value.into()),
            "report" => options.report = Some(value.into()),
            "seed" => options.seed = text.parse().map_err(|_| wrong("a whole number"))?,
            "fault" => options.faults.push(text.parse().map_err(usage)?),
            "update-interval" => {
                options.update_interval = Some(text.parse().map_err(|_| wrong("a number of seconds"))?)
            }
            "start-time" => {
                let seconds: u64 = text.parse().map_err(|_| wrong("a whole number of seconds"))?;
                options.start_time = Some(Timestamp::from_millis(seconds.saturating_mul(1000)));
            }
            _ => {
                let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                let seconds = Some(seconds.ok_or_else(|| wrong("a number of seconds"))?);
                let option = if name == "long-poll" { &mut options.long_poll } else { &mut options.two_phase_commit };
                *option = seconds;
            }
        }
    }
    Ok(Wanted::Serve(Box::new(options)))
}

/// An option that is misspelt, or a token that was given as one. It is shown only if it is close to an option.
fn unknown_option(name: &str) -> Failure {
    let known = OPTIONS.into_iter().chain(FLAGS).map(|known| (distance(name, known), known));
    // Two mistakes, but no more than one in three letters.
    match known.filter(|(far, known)| *far <= 2.min(known.len() / 3)).min() {
        Some((_, known)) => usage(format!("there is no option --{name}; did you mean --{known}?")),
        None => usage("there is no such option; it is not shown, because it may be a token"),
    }
}

/// How many letters must be inserted, removed or replaced to make one word of the other (Levenshtein's distance).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // The distances of the part of `from` that was looked at to each beginning of `to`.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut next = vec![index + 1];
        for (at, other) in to.iter().enumerate() {
            let replaced = row[at] + usize::from(letter != *other);
            next.push(replaced.min(row[at + 1] + 1).min(next[at] + 1));
        }
        row = next;
    }
    row[to.len()]
}

/// How a message calls a file: by its name, if that cannot be a token that was given in its place.
fn shown(file: &Path, option: &str) -> String {
    let name = file.display().to_string();
    let is_token = ["GR1348941", "glrt-", "glpat-"].iter().any(|prefix| name.contains(prefix));
    let is_file = file.extension().is_some_and(|extension| extension == "json") || file.exists();
    if is_file && !is_token {
        return name;
    }
    format!("the file given as {option} (its name is not shown, because it may be a token)")
}

fn run() -> Result<(), Failure> {
    let options = match options()? {
        Wanted::Serve(options) => options,
        Wanted::Help => {
            _ = writeln!(std::io::stdout(), "{USAGE}");
            return Ok(());
        }
        Wanted::Version => {
            _ = writeln!(std::io::stdout(), "simulated-gitlab {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
    };
    let mut dice = Dice::new(options.seed);
    let mut token =
        |given: Option<String>, prefix: &str| given.unwrap_or_else(|| format!("{prefix}{:020}", dice.roll()));
    let registration_token = token(options.registration_token, "GR1348941");
    let runner_token = token(options.runner_token, "glrt-");
    let access_token = token(options.access_token, "glpat-");
    let control_token = match options.control_token {
        Some(token) => token,
        None => random_token()?,
    };

    let settings = Settings::default().with(|settings| {
        settings.long_poll = options.long_poll;
        settings.trace_interval = options.update_interval;
        settings.two_phase_commit = options.two_phase_commit.is_some();
        settings.acceptance_patience = options.two_phase_commit.unwrap_or(settings.acceptance_patience);
    });
    let mut gitlab = Coordinator::new(settings);
    gitlab.set_registration_token(&registration_token);
    gitlab.set_access_token(&access_token);
    gitlab.add_runner(&runner_token);
    let jobs = options.jobs.iter().map(|path| jobs(path)).collect::<Result<Vec<_>, _>>()?;

    let mut served = sim::Options::new(&control_token).with_address(options.listen).with_root(options.root);
    served = served.with_seed(options.seed);
    if let Some(path) = &options.repository {
        let failed = |why: &dyn std::fmt::Display| Failure(1, format!("{}: {why}", shown(path, "--repository")));
        let repository = sim::Repository::open(path).map_err(|error| failed(&error))?;
        if let Some(missing) = jobs.iter().flatten().find_map(|job| repository.missing_reference(job)) {
            return Err(failed(&format_args!("a job is for {missing}, which the repository does not have")));
        }
        served = served.with_repository(repository);
    }
    #[cfg(feature = "tls")]
    if options.tls {
        served = served.with_tls();
    }
    served = options.faults.into_iter().fold(served, sim::Options::with_fault);
    served = options.allowed_hosts.into_iter().fold(served, sim::Options::with_host);
    if options.allow_remote {
        served = served.with_remote();
    }
    let now = || Timestamp::from(SystemTime::now());
    if let Some(start) = options.start_time.or_else(|| options.virtual_time.then(now)) {
        served = served.with_virtual_time(start);
    }
    let server = sim::serve(gitlab, served);
    let server = server.map_err(|error| Failure(1, format!("cannot listen at {}: {error}", options.listen)))?;
    for job in jobs.into_iter().flatten() {
        server.with(|gitlab, now| gitlab.queue(now, job));
    }
    let ca_file = ca_file(&server)?;
    // Before anybody is told that the program is ready: whoever is told may end it at once.
    let end = end_signal()?;
    let mut ready = json!({
        "url": server.url(),
        "registration_token": registration_token,
        "runner_token": runner_token,
        "access_token": access_token,
        "control_token": control_token,
        "page": format!("{}/?control_token={control_token}", server.url()),
    });
    if let Some(file) = &ca_file {
        ready["ca_file"] = json!(file.path().display().to_string());
    }
    let told = writeln!(std::io::stdout(), "{ready}").and_then(|()| std::io::stdout().flush());
    told.map_err(|error| Failure(1, format!("standard output: {error}")))?;

    end();
    if let Some(path) = options.report {
        let report = server.with(|gitlab, _| sim::report(gitlab));
        fs::write(&path, format!("{report:#}\n"))
            .map_err(|error| Failure(1, format!("{}: {error}", shown(&path, "--report"))))?;
    }
    Ok(())
}

/// A file with the certificate of the CA, if there is one. It is deleted when it is dropped.
#[cfg(feature = "tls")]
fn ca_file(server: &Server) -> Result<Option<NamedTempFile>, Failure> {
    let Some(ca) = server.ca() else { return Ok(None) };
    let write = || {
        let mut file = tempfile::Builder::new().prefix("simulated-gitlab-ca-").suffix(".pem").tempfile()?;
        // The certificate is no secret, and the runner may be another user.
        #[cfg(unix)]
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(ca.as_bytes()).map(|()| file)
    };
    write().map(Some).map_err(|error| Failure(1, format!("the file with the certificate of the CA: {error}")))
}

#[cfg(not(feature = "tls"))]
fn ca_file(_: &Server) -> Result<Option<NamedTempFile>, Failure> {
    Ok(None)
}

/// A token that nobody can guess. The others depend on the seed, so that a run can be repeated.
fn random_token() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Failure(1, format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The jobs of a file, or of all files of a folder.
fn jobs(path: &Path) -> Result<Vec<gitlab_runner_api_testkit::NewJob>, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure(1, format!("{}: {why}", shown(path, "--jobs")));
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(|error| failed(&error))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        return files.iter().map(|file| jobs(file)).collect::<Result<Vec<_>, _>>().map(|jobs| jobs.concat());
    }
    let text = fs::read(path).map_err(|error| failed(&error))?;
    let described: Value = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let list = match described {
        Value::Array(list) => list,
        one => vec![one],
    };
    list.into_iter().map(sim::job).collect::<Result<_, _>>().map_err(|why| failed(&why))
}

/// Begins to listen for a signal that ends the program. Returns a function that waits for it.
#[cfg(unix)]
fn end_signal() -> Result<impl FnOnce(), Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Failure(1, format!("signals cannot be waited for: {error}")))?;
    Ok(move || _ = signals.forever().next())
}

/// Here the process is ended without being asked.
#[cfg(not(unix))]
fn end_signal() -> Result<impl FnOnce(), Failure> {
    Ok(|| {
        loop {
            std::thread::park();
        }
    })
}
