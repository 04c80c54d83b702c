//! A git repository that jobs are about, read with the program `git` and served by git's plain protocol.
//!
//! Git calls this protocol "dumb HTTP": the server only has files. The client asks for the list of branches and tags, and then for
//! one object or pack after the other. It cannot ask for a part of the history, so that a shallow clone is not possible.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::content::Content;

/// Variables that would lead `git` to another repository than the one that it is told. Hooks of git set them.
const MISLEADING: [&str; 6] = [
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
];

/// The number of hexadecimal digits of an object, for SHA-1 and for SHA-256.
const DIGITS: [usize; 2] = [40, 64];

/// A git repository that jobs are about: a worktree, or a bare repository. The program `git` reads it.
///
/// It is read whenever a job is queued or somebody clones it, so that it may change while it is served. Only its default branch
/// stays the one that was checked out when it was opened, or that a bare repository named then.
///
/// Clients get it by git's plain protocol. Only its objects, branches and tags can be read, not its configuration, nor what a
/// symbolic link in it leads to elsewhere. A part of the history cannot be asked for, so that the payload of a job has a `depth`
/// of 0 if the job names none.
///
/// ```no_run
/// use gitlab_runner_api_testkit::{Coordinator, NewJob, Settings, sim};
///
/// let repository = sim::Repository::open("widgets")?;
/// let options = sim::Options::new("a-secret").with_repository(repository);
/// let server = sim::serve(Coordinator::new(Settings::default()), options)?;
/// // A runner can clone this job.
/// let job = server.with(|gitlab, now| gitlab.queue(now, NewJob::new("test").with_branch("topic")));
/// # let _ = job;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Repository {
    /// What `git` is told: the folder `.git` of a worktree, the file `.git` of a linked one, or a bare repository.
    git_dir: PathBuf,
    /// The folder with the objects, without symbolic links in its path.
    folder: PathBuf,
    default_branch: String,
}

/// A commit, as jobs and the API for users show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) sha: String,
    pub(crate) message: String,
    pub(crate) author_name: String,
    pub(crate) author_email: String,
    /// When it was committed, in ISO 8601.
    pub(crate) committed_at: String,
    /// What the annotated tag says that it was found by. Empty for a branch and for a tag without a message.
    pub(crate) tag_message: String,
}

/// A branch or a tag.
#[derive(Debug)]
struct Reference {
    object: String,
    name: String,
    /// What an annotated tag stands for; else empty.
    peeled: String,
}

impl Repository {
    /// Opens a repository: a worktree, or a bare repository.
    ///
    /// # Errors
    ///
    /// If the program `git` cannot be started, if there is no repository in the folder or it has no branch, or if objects are missing
    /// in it: because it borrows them from another repository, or because it is a shallow or a partial clone.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let (path, within) = (path.as_ref(), path.as_ref().join(".git"));
        let git_dir = fs::canonicalize(if within.exists() { &within } else { path })?;
        let mut repository = Self { git_dir, folder: PathBuf::new(), default_branch: String::new() };
        // A linked worktree has the objects elsewhere. The answer may be relative to the worktree, which is not asked for.
        let common = repository.git(["rev-parse", "--path-format=absolute", "--git-common-dir"])?;
        repository.folder = fs::canonicalize(common.trim_end_matches('\n'))?;
        if let Some(why) = repository.why_incomplete() {
            let why = format!("the repository {why}, so that it cannot be cloned by git's plain protocol");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let nothing = || io::Error::new(io::ErrorKind::InvalidData, "the repository has no branch with a commit");
        repository.default_branch = repository.find_default_branch()?.ok_or_else(nothing)?;
        Ok(repository)
    }

    /// Why objects are missing that branches need. A client that asks for them would fail in the middle of a clone.
    fn why_incomplete(&self) -> Option<&'static str> {
        let has_content = |name| fs::read(self.folder.join(name)).is_ok_and(|text| !text.trim_ascii().is_empty());
        let packs = fs::read_dir(self.folder.join("objects/pack")).into_iter().flatten().flatten();
        let is_promised = |path: PathBuf| path.extension() == Some(OsStr::new("promisor"));
        if has_content("objects/info/alternates") {
            Some("borrows objects from another one")
        } else if has_content("shallow") {
            Some("has only a part of the history")
        } else if packs.map(|entry| entry.path()).any(is_promised) {
            Some("is a partial clone")
        } else {
            None
        }
    }

    pub(crate) fn default_branch(&self) -> &str {
        &self.default_branch
    }

    /// The branch that is checked out, or that a bare repository names. If it has no commit, then `main`, `master` or the first
    /// other branch.
    fn find_default_branch(&self) -> io::Result<Option<String>> {
        let branches = self.references("refs/heads")?;
        let has = |name: &str| branches.iter().any(|branch| branch.name.strip_prefix("refs/heads/") == Some(name));
        let head = self.git(["symbolic-ref", "--quiet", "--short", "HEAD"]).unwrap_or_default();
        let known = [head.trim_end_matches('\n'), "main", "master"].into_iter().find(|name| has(name));
        let first = || branches.first()?.name.strip_prefix("refs/heads/");
        Ok(known.or_else(first).map(str::to_owned))
    }

    /// The commit of a branch or a tag, by its full name such as `refs/heads/main`. `None` if there is none.
    pub(crate) fn commit(&self, name: &str) -> Option<Commit> {
        // For git this is a pattern, which may have several results. Only the one with exactly this name is meant.
        let found = self.references(name).ok()?;
        let reference = found.into_iter().find(|reference| reference.name == name)?;
        let format = "--format=%H%x00%an%x00%ae%x00%cI%x00%B";
        let log = ["-c", "log.showSignature=false", "log", "-1", "--no-color", "--encoding=UTF-8", format];
        let text = self.git(log.iter().copied().chain([reference.object.as_str()])).ok()?;
        let tag_message = match reference.peeled.as_str() {
            "" => String::new(),
            _ => self.git(["for-each-ref", "--format=%(contents)", name]).ok()?,
        };
        // Git ends what it prints with a newline.
        let mut parts = text.strip_suffix('\n').unwrap_or(&text).splitn(5, '\0').map(str::to_owned);
        Some(Commit {
            sha: parts.next().filter(|sha| DIGITS.contains(&sha.len()))?,
            author_name: parts.next()?,
            author_email: parts.next()?,
            committed_at: parts.next()?,
            message: parts.next()?,
            tag_message: tag_message.trim_end_matches('\n').to_owned(),
        })
    }

    /// The list of branches and tags as the plain protocol has it. `more` are references that the repository does not have.
    ///
    /// # Errors
    ///
    /// If `git` fails.
    pub(crate) fn advertise(&self, more: &[(String, &str)]) -> io::Result<String> {
        let mut lines = String::new();
        let (branches, tags) = (self.references("refs/heads")?, self.references("refs/tags")?);
        for Reference { object, name, peeled } in branches.into_iter().chain(tags) {
            _ = writeln!(lines, "{object}\t{name}");
            if !peeled.is_empty() {
                _ = writeln!(lines, "{peeled}\t{name}^{{}}");
            }
        }
        for (name, object) in more {
            _ = writeln!(lines, "{object}\t{name}");
        }
        Ok(lines)
    }

    /// The list of packs as the plain protocol has it.
    pub(crate) fn list_packs(&self) -> String {
        let entries = fs::read_dir(self.folder.join("objects/pack")).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut packs: Vec<String> = names.filter(|name| name.ends_with(".pack") && is_pack(name)).collect();
        packs.sort();
        packs.into_iter().map(|pack| format!("P {pack}\n")).collect::<String>() + "\n"
    }

    /// A file below `objects`: an object, a pack, or the index of one. `None` if it is none of these, does not exist, or is
    /// a symbolic link that leads out of the repository.
    pub(crate) fn object(&self, path: &str) -> Option<Content> {
        // No other file can be asked for: neither the configuration, which may contain passwords, nor one elsewhere.
        let is_object = |folder: &str, name: &str| {
            folder.len() == 2 && is_hexadecimal(folder) && DIGITS.contains(&(name.len() + 2)) && is_hexadecimal(name)
        };
        match path.split_once('/')? {
            ("pack", name) if is_pack(name) => {}
            (folder, name) if is_object(folder, name) => {}
            _ => return None,
        }
        let file = fs::canonicalize(self.folder.join("objects").join(path)).ok()?;
        if !file.starts_with(&self.folder) || !file.is_file() {
            return None;
        }
        Content::from_stored(fs::File::open(file).ok()?).ok()
    }

    /// The branches and tags below a name, in the order of their names.
    fn references(&self, below: &str) -> io::Result<Vec<Reference>> {
        let format = "--format=%(objectname) %(refname) %(*objectname)";
        let listed = self.git(["for-each-ref", format, below])?;
        let reference = |line: &str| {
            let mut parts = line.split(' ').map(str::to_owned);
            Some(Reference { object: parts.next()?, name: parts.next()?, peeled: parts.next()? })
        };
        Ok(listed.lines().filter_map(reference).collect())
    }

    /// What `git` prints.
    fn git<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> io::Result<String> {
        let mut command = Command::new("git");
        for name in MISLEADING {
            command.env_remove(name);
        }
        command.args([OsStr::new("--git-dir"), self.git_dir.as_os_str()]).args(words);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        let output = command.output().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the program git, which reads repositories, cannot be started: {error}"),
            )
        })?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            let told = told.lines().next().unwrap_or("git failed and says nothing").to_owned();
            return Err(io::Error::other(told));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Commit {
    /// The first line of the message.
    pub(crate) fn title(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }

    /// The message without its first line. GitLab shortens a title of 100 characters and more, and repeats all of the message
    /// here.
    pub(crate) fn description(&self) -> &str {
        if self.title().chars().count() >= 100 {
            return &self.message;
        }
        self.message.split_once('\n').map_or("", |(_, rest)| rest.trim_end_matches('\n'))
    }
}

/// Whether this is the name of a pack or of its index.
fn is_pack(name: &str) -> bool {
    let stem = name.strip_suffix(".pack").or_else(|| name.strip_suffix(".idx"));
    stem.and_then(|stem| stem.strip_prefix("pack-"))
        .is_some_and(|hash| DIGITS.contains(&hash.len()) && is_hexadecimal(hash))
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
