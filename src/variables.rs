//! Variables: what a job's environment is made of.
//!
//! GitLab sends variables whose values refer to each other; the runner adds its own and expands them. This is done here as
//! the official runner does it: once, in one pass, without shell operators.

mod expansion;
mod quoting;

use std::collections::BTreeMap;
use std::fmt;

use crate::api::job_spec::{JobSpec, Variable};
use crate::secret::{RunnerToken, Secret};

pub use quoting::{export, quote};

/// What a runner knows of the place where a job runs, and tells it in variables.
///
/// The default is that of the official runner in a container: projects below `/builds`, an environment of the job's own.
#[derive(Clone, Debug)]
pub struct Place {
    builds_dir: String,
    project_dir: Option<String>,
    temp_project_dir: Option<String>,
    concurrent_id: u64,
    concurrent_project_id: u64,
    shared: bool,
    runner: Vec<Variable>,
    environment: Vec<Variable>,
}

impl Default for Place {
    fn default() -> Self {
        Self::new("/builds")
    }
}

impl Place {
    /// Projects are checked out below this folder.
    #[must_use]
    pub fn new(builds_dir: impl Into<String>) -> Self {
        Self {
            builds_dir: builds_dir.into(),
            project_dir: None,
            temp_project_dir: None,
            concurrent_id: 0,
            concurrent_project_id: 0,
            shared: false,
            runner: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The project is checked out here, and not at its path below the folder of all.
    #[must_use]
    pub fn with_project_dir(mut self, folder: impl Into<String>) -> Self {
        self.project_dir = Some(folder.into());
        self
    }

    /// File variables are written here. By default that is the project's folder with `.tmp` behind it.
    #[must_use]
    pub fn with_temp_project_dir(mut self, folder: impl Into<String>) -> Self {
        self.temp_project_dir = Some(folder.into());
        self
    }

    /// The number of this job among those that run on this machine, and among those of its project.
    #[must_use]
    pub fn with_concurrent(mut self, id: u64, project_id: u64) -> Self {
        (self.concurrent_id, self.concurrent_project_id) = (id, project_id);
        self
    }

    /// Jobs share the environment they run in (`CI_SHARED_ENVIRONMENT`), in place of `CI_DISPOSABLE_ENVIRONMENT`.
    #[must_use]
    pub fn with_shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Which runner it is: `CI_RUNNER_SHORT_TOKEN`.
    #[must_use]
    pub fn with_token(mut self, token: &RunnerToken) -> Self {
        self.environment.push(Variable::new("CI_RUNNER_SHORT_TOKEN", token.short()));
        self
    }

    /// What runs the job: `CI_RUNNER_VERSION`, `CI_RUNNER_REVISION` and `CI_RUNNER_EXECUTABLE_ARCH`.
    #[must_use]
    pub fn with_info(mut self, info: &crate::api::info::Info) -> Self {
        let architecture = info.platform().zip(info.architecture());
        self.runner.push(Variable::new("CI_RUNNER_VERSION", info.version()));
        self.runner.push(Variable::new("CI_RUNNER_REVISION", info.revision().unwrap_or_default()));
        self.runner
            .extend(architecture.map(|(os, cpu)| Variable::new("CI_RUNNER_EXECUTABLE_ARCH", format!("{os}/{cpu}"))));
        self
    }

    /// A variable that the runner gives to all its jobs. Those of a job win over it.
    #[must_use]
    pub fn with_variable(mut self, variable: Variable) -> Self {
        self.environment.push(variable);
        self
    }

    /// The PEM chain of GitLab's certificate, for tools in the job: the file variable `CI_SERVER_TLS_CA_FILE`.
    #[must_use]
    pub fn with_tls_ca_chain(self, pem: impl Into<String>) -> Self {
        let mut variable = Variable::new("CI_SERVER_TLS_CA_FILE", pem);
        (variable.file, variable.raw) = (true, true);
        self.with_variable(variable)
    }
}

/// The variables of a job, those of the runner included. Of several with one name the last counts. `Debug` shows names,
/// never values.
#[derive(Clone)]
pub struct Variables {
    list: Vec<Variable>,
    /// The last of each name.
    index: BTreeMap<String, usize>,
    temp_dir: String,
}

impl Variables {
    /// The payload's variables between those of the runner, in the official order: a job may override where it runs, but
    /// not what runs it.
    #[must_use]
    pub fn new(spec: &JobSpec, place: &Place) -> Self {
        let builds = place.builds_dir.trim_end_matches('/');
        // Where a server does not name the path, a job's own variable does: it must not lead out of the folder.
        let parts = spec.project_path().unwrap_or("project").split('/');
        let path: Vec<&str> = parts.filter(|part| !matches!(*part, "" | "." | "..")).collect();
        let project = place.project_dir.clone().unwrap_or_else(|| format!("{builds}/{}", path.join("/")));
        let temp_dir = place.temp_project_dir.clone().unwrap_or_else(|| format!("{project}.tmp"));
        let timeout = spec.timeout().map_or(7200, |timeout| timeout.as_secs());
        let mut variables = Self { list: Vec::new(), index: BTreeMap::new(), temp_dir: temp_dir.clone() };
        if let Some(image) = &spec.image {
            variables.push(Variable::new("CI_JOB_IMAGE", image.name.as_str()));
        }
        place.environment.iter().for_each(|variable| variables.push(variable.clone()));
        for (key, value) in [
            ("CI_BUILDS_DIR", place.builds_dir.clone()),
            ("CI_PROJECT_DIR", project),
            ("CI_CONCURRENT_ID", place.concurrent_id.to_string()),
            ("CI_CONCURRENT_PROJECT_ID", place.concurrent_project_id.to_string()),
            ("CI_SERVER", "yes".to_owned()),
            ("CI_JOB_STATUS", "running".to_owned()),
            ("CI_JOB_TIMEOUT", timeout.to_string()),
        ] {
            variables.push(Variable::new(key, value));
        }
        spec.variables.iter().for_each(|variable| variables.push(variable.clone()));
        let kind = if place.shared { "CI_SHARED_ENVIRONMENT" } else { "CI_DISPOSABLE_ENVIRONMENT" };
        variables.push(Variable::new(kind, "true"));
        place.runner.iter().for_each(|variable| variables.push(variable.clone()));
        variables.push(Variable::new("RUNNER_TEMP_PROJECT_DIR", temp_dir));
        variables
    }

    /// Adds a variable that wins over all before it: a fetched secret, or `CI_JOB_STATUS` before `after_script`.
    pub fn push(&mut self, variable: Variable) {
        self.index.insert(variable.key.clone(), self.list.len());
        self.list.push(variable);
    }

    /// The variable of this name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Variable> {
        self.list.get(*self.index.get(key)?)
    }

    /// The value of a variable, expanded; of a file variable, the path of the file. **Secret**, unless it is public.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<String> {
        let variable = self.get(key)?;
        Some(if variable.file { self.path(variable) } else { self.content(variable) })
    }

    /// A text with its references to variables replaced by their values: a name of an image or a cache, a path.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        expansion::expand(text, |key| self.value(key))
    }

    /// Whether a variable says yes: `true` or `t` in any case, or any spelling of 1.
    #[must_use]
    pub fn is_true(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| is_true(&value))
    }

    /// Names and values for the environment of a process, each name once. **Secret.** A value with a NUL in it, which no
    /// process can take, is left out, and so is a name that is empty or has `=` or NUL in it.
    ///
    /// Write [`Variables::files`] first: what they hold is named here.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, Secret)> {
        let named = self.index.keys().filter(|key| !key.is_empty() && !key.contains(['=', '\0']));
        let valued = named.filter_map(|key| Some((key.clone(), self.value(key)?)));
        let fits = valued.filter(|(_, value)| !value.contains('\0'));
        fits.map(|(key, value)| (key, Secret::new(value))).collect()
    }

    /// Paths and contents of the files that file variables name, to be written before the job runs, readable by it alone.
    /// A name that could leave the folder is left out.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Secret)> {
        let last = self.index.values().filter_map(|at| self.list.get(*at));
        let files = last.filter(|variable| variable.file && is_file_name(&variable.key));
        files.map(|variable| (self.path(variable), Secret::new(self.content(variable)))).collect()
    }

    /// The folder of those files.
    #[must_use]
    pub fn temp_project_dir(&self) -> &str {
        &self.temp_dir
    }

    /// The values that must not show in the log: those of all masked variables, also of those that were overridden,
    /// expanded, without white space around them, each once, none empty.
    #[must_use]
    pub fn masked(&self) -> Vec<Secret> {
        let mut values: Vec<String> =
            self.list.iter().filter(|variable| variable.masked).map(|variable| self.content(variable)).collect();
        values.iter_mut().for_each(|value| *value = value.trim().to_owned());
        values.retain(|value| !value.is_empty());
        values.sort_unstable();
        values.dedup();
        values.into_iter().map(Secret::new).collect()
    }

    /// The value itself, expanded in one pass: what it refers to is not expanded again.
    fn content(&self, variable: &Variable) -> String {
        if variable.raw {
            return variable.value().to_owned();
        }
        expansion::expand(variable.value(), |key| {
            let found = self.get(key)?;
            Some(if found.file { self.path(found) } else { found.value().to_owned() })
        })
    }

    fn path(&self, variable: &Variable) -> String {
        format!("{}/{}", self.temp_dir, variable.key)
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}

/// Whether a name is one of a file, and of nothing else.
fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0'])
}

/// What GitLab's runner takes for true: `true` and `t` in any case, and every spelling of 1.
pub(crate) fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("t") || value.parse() == Ok(1_u64)
}
