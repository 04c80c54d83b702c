//! Where a job runs: its folders, its variables, and the scripts that the shell gets.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::api::job_spec::{Step, Variable};
use gitlab_runner_api::log::ansi;
use gitlab_runner_api::variables::{Place, Variables, quote};
use gitlab_runner_api::{JobSpec, RunnerToken, Secret};
use gitlab_runner_api_ureq::write_files;

use crate::{Group, Result};

/// How long a group of processes may take to vanish after it was killed.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// What all jobs of a runner have in common: the folder that they run in, and what they are told about the runner.
#[derive(Debug)]
pub struct Host {
    builds: PathBuf,
    token: RunnerToken,
    info: Info,
    /// The jobs that run: their number among all, their project, and their number among those of that project.
    running: Mutex<BTreeMap<u64, (Option<u64>, u64)>>,
}

impl Host {
    /// Jobs get a folder each below `builds`.
    #[must_use]
    pub fn new(builds: &Path, token: &RunnerToken, info: &Info) -> Self {
        Self { builds: builds.to_owned(), token: token.clone(), info: info.clone(), running: Mutex::default() }
    }

    /// The folder of a job.
    ///
    /// # Errors
    ///
    /// If it is relative, and the operating system does not tell to what.
    pub fn folder(&self, job: u64) -> io::Result<Folder> {
        // Runners of several instances may share the folder, and each instance numbers its jobs from one.
        let runner = Some(self.token.short()).filter(|short| !short.is_empty()).unwrap_or("runner");
        std::path::absolute(self.builds.join(runner).join(job.to_string())).map(Folder)
    }

    /// Makes the folders of a job, works its variables out, and writes those of type file.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn prepare(&self, spec: &JobSpec) -> Result<Workspace<'_>> {
        let folder = self.folder(spec.id)?;
        let root = folder.path();
        let project = root.join("project");
        // Both are readable by this user alone. The second holds secrets.
        let (files, scripts) = (root.join("project.tmp"), root.join("scripts"));
        for folder in [&project, &files, &scripts] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let number = Number::take(self, spec.job_info.project_id);
        let mut place = Place::new(text(root)?)
            .with_project_dir(text(&project)?)
            .with_temp_project_dir(text(&files)?)
            .with_concurrent(number.of_all, number.of_project)
            .with_shared(true)
            .with_token(&self.token)
            .with_info(&self.info);
        // What a shell needs, and nothing else of the runner's own environment: it may hold secrets.
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        for (name, value) in [("PATH", path.as_str()), ("HOME", text(root)?)] {
            let mut variable = Variable::new(name, value);
            variable.raw = true;
            place = place.with_variable(variable);
        }
        let variables = Variables::new(spec, &place);
        write_files(&variables)?;
        Ok(Workspace { folder, variables, project, scripts, _number: number })
    }
}

/// A path as a variable can hold it.
fn text(path: &Path) -> Result<&str> {
    Ok(path.to_str().ok_or_else(|| format!("{} is not valid UTF-8", path.display()))?)
}

/// The number of a running job, from 0, which is free again when this is dropped: among all jobs of this runner
/// (`CI_CONCURRENT_ID`) and among those of its project (`CI_CONCURRENT_PROJECT_ID`).
#[derive(Debug)]
struct Number<'a> {
    host: &'a Host,
    of_all: u64,
    of_project: u64,
}

impl<'a> Number<'a> {
    fn take(host: &'a Host, project: Option<u64>) -> Self {
        let mut running = host.running.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |taken: &dyn Fn(u64) -> bool| (0..).find(|number| !taken(*number)).unwrap_or_default();
        let of_all = free(&|number| running.contains_key(&number));
        let of_project = free(&|number| running.values().any(|job| *job == (project, number)));
        running.insert(of_all, (project, of_project));
        Self { host, of_all, of_project }
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        self.host.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.of_all);
    }
}

/// The folder of one job.
///
/// | In `<builds>/<short token>/<job id>/` | |
/// |---|---|
/// | `project` | where the scripts run: `CI_PROJECT_DIR` |
/// | `project.tmp` | the files of file variables: `RUNNER_TEMP_PROJECT_DIR` |
/// | `scripts` | the scripts, as the shell gets them |
/// | `life` | locked for as long as anything of a script lives |
/// | `group` | the process group of the script |
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a script leaves the number of its group.
    #[must_use]
    pub fn group_file(&self) -> PathBuf {
        self.0.join("group")
    }

    /// Whether a script of this job was ever started, by this process or an earlier one.
    #[must_use]
    pub fn was_started(&self) -> bool {
        self.0.join("life").exists()
    }

    /// Whether a script of this job still runs, or anything that it has started.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn is_alive(&self) -> io::Result<bool> {
        match File::open(self.0.join("life")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            life => Ok(!try_lock(&life?)?),
        }
    }

    /// The standard input of a script: a file that stays locked until all processes that have inherited it are gone. Also
    /// whether it could be locked; if not, something of an earlier script still lives.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn life(&self) -> io::Result<(File, bool)> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let life = OpenOptions::new().create(true).truncate(false).write(true).read(true).open(self.0.join("life"))?;
        let locked = try_lock(&life)?;
        Ok((life, locked))
    }

    /// Kills what still runs of this job, if anything does.
    ///
    /// The number of the group was written by an earlier process, and could be that of other processes by now. But while
    /// `life` is locked, something of the script lives, and the operating system does not give its group's number away.
    ///
    /// # Errors
    ///
    /// If the operating system refuses, or if something of it lives on.
    pub fn kill(&self) -> Result<()> {
        let asked = Instant::now();
        while self.is_alive()? {
            let number = fs::read_to_string(self.group_file()).ok().and_then(|number| number.trim().parse().ok());
            drop(number.and_then(Group::of));
            if asked.elapsed() > KILLED_WITHIN {
                return Err("a script of this job still runs and cannot be killed".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills what still runs of the job and removes the folder. To be called when GitLab has the result.
    ///
    /// # Errors
    ///
    /// As [`Folder::kill`].
    pub fn remove(&self) -> Result<()> {
        self.kill()?;
        Ok(removed(&self.0)?)
    }
}

/// The folder and the variables of a job that is to run.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// The folder.
    pub folder: Folder,
    /// The variables of the job and of the runner.
    pub variables: Variables,
    project: PathBuf,
    scripts: PathBuf,
    _number: Number<'a>,
}

impl Workspace<'_> {
    /// A process of the job: with its variables in the environment, and nothing else, in the folder of the project, and in a
    /// group of its own.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let variables = self.variables.environment();
        command.current_dir(&self.project).env_clear().process_group(0);
        command.envs(variables.iter().map(|(name, value)| (name, value.expose())));
        command
    }

    /// Writes a script that the shell is to run, whole or not at all, and says where it is.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn write_script(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        // A step has its name from the server: it must not lead out of the folder.
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_");
        let (path, new) = (self.scripts.join(&name), self.scripts.join(format!("{name}.new")));
        fs::write(&new, text)?;
        fs::rename(new, &path)?;
        Ok(path)
    }

    /// Masked values of this job that the log does not hide by itself, because they depend on where the job runs. Give them
    /// to `Job::mask`.
    #[must_use]
    pub fn further_secrets(&self, spec: &JobSpec) -> Vec<Secret> {
        let hidden = Variables::new(spec, &Place::default()).masked();
        let mut secrets = self.variables.masked();
        secrets.retain(|secret| hidden.iter().all(|known| known.expose() != secret.expose()));
        secrets
    }

    /// Removes the files that hold secrets.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn remove_secrets(&self) -> io::Result<()> {
        removed(Path::new(self.variables.temp_project_dir()))
    }
}

fn removed(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// False if somebody else has it locked.
fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The script of a step as the shell gets it: each command is shown in the log before it runs, and the first that fails ends
/// it. Of a command of several lines only the first is shown, as GitLab's own runner does.
#[must_use]
pub fn script(step: &Step) -> String {
    let mut text = "set -e\n".to_owned();
    for command in &step.script {
        let mut lines = command.trim().lines();
        let first = lines.next().unwrap_or_default();
        let note = if lines.next().is_some() { " # collapsed multi-line command" } else { "" };
        let shown = format!("{}$ {first}{note}{}", ansi::BOLD_GREEN, ansi::RESET);
        text.push_str(&format!("printf '%s\\n' {}\n{command}\n", quote(&shown)));
    }
    text
}
