//! Variables: what a job's environment is made of.
//!
//! GitLab sends variables whose values refer to each other; the runner adds its own and expands them. This is done here as
//! the official runner does it: once, in one pass, without shell operators.
//!
//! What a job's author writes can refer to long values many times over, so expansion is bounded: at most 1 MiB for one
//! value and 8 MiB for all of a job. What would be longer stays as it was written, and [`Variables::unexpanded`] names it.

pub(crate) mod expansion;
mod quoting;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::api::job_spec::{JobSpec, Variable};
use crate::secret::{RunnerToken, Secret};

pub use quoting::{export, quote};

/// The longest that one expanded value may be, in bytes. Linux takes no environment variable of more than 128 KiB.
const VALUE_LIMIT: usize = 1 << 20;

/// The longest that all expanded values of a job may be together, in bytes.
const JOB_LIMIT: usize = 8 << 20;

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

/// The variables of a job, those of the runner included. If a name occurs more than once, the last value wins. `Debug` shows
/// names, never values.
///
/// ```
/// use gitlab_runner_api::Assignment;
/// use gitlab_runner_api::variables::{Place, Variables};
///
/// let assignment = Assignment::from_json(
///     r#"{
///         "id": 1,
///         "token": "glcbt-0123456789",
///         "job_info": { "project_full_path": "group/project" },
///         "variables": [{ "key": "TAG", "value": "v1" }, { "key": "IMAGE", "value": "tool:$TAG" }]
///     }"#,
/// )?;
/// let variables = Variables::new(assignment.spec(), &Place::new("/builds"));
/// assert_eq!(variables.value("IMAGE").as_deref(), Some("tool:v1"));
/// assert_eq!(variables.expand("$CI_PROJECT_DIR/out"), "/builds/group/project/out");
/// // Names and values for the environment of the script, and files to be written before it starts.
/// let (environment, files) = (variables.environment(), variables.files());
/// assert!(files.is_empty() && environment.iter().any(|(name, _)| name == "TAG"));
/// # Ok::<(), gitlab_runner_api::ProtocolError>(())
/// ```
#[derive(Clone)]
pub struct Variables {
    list: Vec<Variable>,
    /// The last of each name.
    index: BTreeMap<String, usize>,
    temp_dir: String,
    /// Texts of the payload, beside variables, that have references: their places and what they say.
    texts: Vec<(String, String)>,
    bounds: Bounds,
}

/// What is too long to be expanded. Decided for all of a job at once, so that it does not depend on what is asked first.
#[derive(Clone, Debug, Default)]
struct Bounds {
    /// Of each variable in the list, how long its content is.
    lengths: Vec<usize>,
    /// The variables of the list that stay unexpanded.
    variables: BTreeSet<usize>,
    /// The texts that stay unexpanded.
    texts: BTreeSet<String>,
    /// The names of all these.
    names: Vec<String>,
}

impl Variables {
    /// The payload's variables between those of the runner, in the official order: a job may override where it runs, but
    /// not what runs it.
    ///
    /// The project's folder is the one that [`Place::with_project_dir`] names. Otherwise it is `GIT_CLONE_PATH`, if the job
    /// has that and it lies below the folder of all projects; otherwise the project's path below that folder. The path is
    /// taken from the payload, or, where a server does not name it, from the address of the repository.
    #[must_use]
    pub fn new(spec: &JobSpec, place: &Place) -> Self {
        let builds = place.builds_dir.trim_end_matches('/');
        let path = spec.project_path().map(Cow::Borrowed).or_else(|| spec.repo_path().map(Cow::Owned));
        let default = below(builds, path.as_deref().unwrap_or("project")).unwrap_or_else(|| builds.to_owned());
        let project = place.project_dir.clone().unwrap_or(default);
        let variables = Self::in_project(spec, place, project);
        // A path of the job's own can refer to where all projects are, which is among the variables.
        let clone_path = variables.value("GIT_CLONE_PATH").filter(|_| place.project_dir.is_none());
        match clone_path.and_then(|path| below(builds, path.strip_prefix(builds)?.strip_prefix('/')?)) {
            Some(project) => Self::in_project(spec, place, project),
            None => variables,
        }
    }

    fn in_project(spec: &JobSpec, place: &Place, project: String) -> Self {
        let temp_dir = place.temp_project_dir.clone().unwrap_or_else(|| format!("{project}.tmp"));
        let timeout = spec.timeout().map_or(7200, |timeout| timeout.as_secs());
        let mut variables = Self {
            list: Vec::new(),
            index: BTreeMap::new(),
            temp_dir: temp_dir.clone(),
            texts: texts(spec),
            bounds: Bounds::default(),
        };
        if let Some(image) = &spec.image {
            variables.add(Variable::new("CI_JOB_IMAGE", image.name.as_str()));
        }
        place.environment.iter().for_each(|variable| variables.add(variable.clone()));
        for (key, value) in [
            ("CI_BUILDS_DIR", place.builds_dir.clone()),
            ("CI_PROJECT_DIR", project),
            ("CI_CONCURRENT_ID", place.concurrent_id.to_string()),
            ("CI_CONCURRENT_PROJECT_ID", place.concurrent_project_id.to_string()),
            ("CI_SERVER", "yes".to_owned()),
            ("CI_JOB_STATUS", "running".to_owned()),
            ("CI_JOB_TIMEOUT", timeout.to_string()),
        ] {
            variables.add(Variable::new(key, value));
        }
        spec.variables.iter().for_each(|variable| variables.add(variable.clone()));
        let kind = if place.shared { "CI_SHARED_ENVIRONMENT" } else { "CI_DISPOSABLE_ENVIRONMENT" };
        variables.add(Variable::new(kind, "true"));
        place.runner.iter().for_each(|variable| variables.add(variable.clone()));
        variables.add(Variable::new("RUNNER_TEMP_PROJECT_DIR", temp_dir));
        variables.bound();
        variables
    }

    /// Adds a variable that wins over all before it: a fetched secret, or `CI_JOB_STATUS` before `after_script`.
    pub fn push(&mut self, variable: Variable) {
        self.add(variable);
        self.bound();
    }

    fn add(&mut self, variable: Variable) {
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
        self.inserted(key).map(Cow::into_owned)
    }

    /// What a reference to a variable in a text is replaced by.
    fn inserted(&self, key: &str) -> Option<Cow<'_, str>> {
        let at = *self.index.get(key)?;
        let variable = self.list.get(at)?;
        Some(if variable.file { self.path(variable).into() } else { self.content(at, variable) })
    }

    /// A text with its references to variables replaced by their values: a name of an image or a cache, a path.
    ///
    /// A text that would be longer than 1 MiB is returned as it is, and so is one of the payload that is named by
    /// [`Variables::unexpanded`].
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        if !expansion::has_references(text) || self.bounds.texts.contains(text) {
            return text.to_owned();
        }
        match expansion::expanded_len(text, VALUE_LIMIT, |key| self.inserted_len(&self.bounds.lengths, key)) {
            Some(len) => expansion::expand(text, len, |key| self.inserted(key)),
            None => text.to_owned(),
        }
    }

    /// The names of what is too long to be expanded and stays as it was written: variables by their names, other texts by
    /// their places in the payload, such as `cache[0].key`. One value may have 1 MiB, all of a job together 8 MiB.
    ///
    /// A [`Job`](crate::Job) tells of them by [`JobEvent::Unexpanded`](crate::JobEvent::Unexpanded).
    #[must_use]
    pub fn unexpanded(&self) -> &[String] {
        &self.bounds.names
    }

    /// Whether a variable says yes: `true` or `t` in any case, or any spelling of 1.
    #[must_use]
    pub fn is_true(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| expansion::is_true(&value))
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
        let last = self.index.values().filter_map(|at| Some((*at, self.list.get(*at)?)));
        let files = last.filter(|(_, variable)| variable.file && is_file_name(&variable.key));
        files.map(|(at, variable)| (self.path(variable), Secret::new(self.content(at, variable)))).collect()
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
        let masked = self.list.iter().enumerate().filter(|(_, variable)| variable.masked);
        let mut values: Vec<String> =
            masked.map(|(at, variable)| self.content(at, variable).trim().to_owned()).collect();
        values.retain(|value| !value.is_empty());
        values.sort_unstable();
        values.dedup();
        values.into_iter().map(Secret::new).collect()
    }

    /// The value itself, expanded in one pass: what it refers to is not expanded again.
    fn content<'v>(&'v self, at: usize, variable: &'v Variable) -> Cow<'v, str> {
        let value = variable.value();
        if variable.raw || !expansion::has_references(value) || self.bounds.variables.contains(&at) {
            return value.into();
        }
        let len = self.bounds.lengths.get(at).copied().unwrap_or_default();
        Cow::Owned(expansion::expand(value, len, |key| {
            let found = self.get(key)?;
            Some(if found.file { self.path(found).into() } else { found.value().into() })
        }))
    }

    /// Decides what is too long to be expanded. To be called whenever a variable was added.
    fn bound(&mut self) {
        let mut bounds = Bounds::default();
        let mut left = JOB_LIMIT;
        let mut fits = |length: Option<usize>| {
            let after = left.checked_sub(length?)?;
            left = after;
            length
        };
        for (at, variable) in self.list.iter().enumerate() {
            let value = variable.value();
            if variable.raw || !expansion::has_references(value) {
                bounds.lengths.push(value.len());
                continue;
            }
            let length = expansion::expanded_len(value, VALUE_LIMIT, |key| match self.get(key) {
                Some(found) if found.file => self.path_len(found),
                found => found.map_or(0, |found| found.value().len()),
            });
            let length = fits(length);
            bounds.lengths.push(length.unwrap_or(value.len()));
            if length.is_none() {
                bounds.variables.insert(at);
                bounds.names.push(shown_key(&variable.key).to_owned());
            }
        }
        for (name, text) in &self.texts {
            let length = expansion::expanded_len(text, VALUE_LIMIT, |key| self.inserted_len(&bounds.lengths, key));
            if fits(length).is_none() && bounds.texts.insert(text.clone()) {
                bounds.names.push(name.clone());
            }
        }
        self.bounds = bounds;
    }

    /// The length of the text that replaces a reference.
    fn inserted_len(&self, lengths: &[usize], key: &str) -> usize {
        let at = self.index.get(key).copied();
        match at.and_then(|at| self.list.get(at)) {
            Some(found) if found.file => self.path_len(found),
            _ => at.and_then(|at| lengths.get(at)).copied().unwrap_or_default(),
        }
    }

    fn path_len(&self, variable: &Variable) -> usize {
        self.temp_dir.len() + 1 + variable.key.len()
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

/// The folder at a path below another one; none if the path names that folder itself. `.` and `..` are left out, so that
/// a path of a job's own does not lead out of the folder.
fn below(folder: &str, path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    (!parts.is_empty()).then(|| format!("{folder}/{}", parts.join("/")))
}

/// A name that can be shown in a log; `*` for what is no name.
fn shown_key(key: &str) -> &str {
    if crate::api::members::is_plain(key) { key } else { "*" }
}

/// The texts of a payload that a job's author can write and a runner expands, beside variables: their places and what they
/// say. Those without references are left out.
fn texts(spec: &JobSpec) -> Vec<(String, String)> {
    let mut texts = Vec::new();
    let mut take = |place: &dyn Fn() -> String, text: &str| {
        if expansion::has_references(text) {
            texts.push((place(), text.to_owned()));
        }
    };
    if let Some(image) = &spec.image {
        take(&|| "image.name".to_owned(), &image.name);
    }
    for (at, service) in spec.services.iter().enumerate() {
        take(&|| format!("services[{at}].name"), &service.name);
        take(&|| format!("services[{at}].alias"), service.alias.as_deref().unwrap_or_default());
        for (of, variable) in service.variables.iter().enumerate() {
            take(&|| format!("services[{at}].variables[{of}].value"), &variable.value);
        }
    }
    for (at, artifact) in spec.artifacts.iter().enumerate() {
        take(&|| format!("artifacts[{at}].name"), artifact.name.as_deref().unwrap_or_default());
        for (of, path) in artifact.paths.iter().enumerate() {
            take(&|| format!("artifacts[{at}].paths[{of}]"), path);
        }
        for (of, path) in artifact.exclude.iter().enumerate() {
            take(&|| format!("artifacts[{at}].exclude[{of}]"), path);
        }
    }
    for (at, cache) in spec.cache.iter().enumerate() {
        take(&|| format!("cache[{at}].key"), &cache.key);
        take(&|| format!("cache[{at}].policy"), cache.policy.as_ref().map_or("", |policy| policy.as_str()));
        for (of, path) in cache.paths.iter().enumerate() {
            take(&|| format!("cache[{at}].paths[{of}]"), path);
        }
        for (of, key) in cache.fallback_keys.iter().enumerate() {
            take(&|| format!("cache[{at}].fallback_keys[{of}]"), key);
        }
    }
    texts
}

/// Whether a name is one of a file, and of nothing else.
fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0'])
}
