//! The files of file variables.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use gitlab_runner_api::variables::Variables;

/// Writes the files of a job's file variables into the folder [`Variables::temp_project_dir`], which is created if it does not exist.
/// Only this user can read them. Remove the folder when the job has ended, because it contains secrets.
///
/// # Errors
///
/// The error of the operating system. Files that were written before it stay.
pub fn write_files(variables: &Variables) -> io::Result<()> {
    let files = variables.files();
    if !files.is_empty() {
        let mut folder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
        folder.recursive(true).create(variables.temp_project_dir())?;
    }
    for (path, content) in files {
        // A link that a job left behind in a shared folder must not be followed.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        private(Path::new(&path))?.write_all(content.expose().as_bytes())?;
    }
    Ok(())
}

fn private(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use gitlab_runner_api::Assignment;
    use gitlab_runner_api::variables::Place;

    use super::*;

    #[test]
    fn file_variables_are_written_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let temp = folder.path().join("a/b.tmp").display().to_string();
        let payload = r#"{"id":1,"token":"t","variables":[{"key":"KEY","value":"secret $X","file":true},
            {"key":"X","value":"x"},{"key":"../OUT","value":"o","file":true}]}"#;
        let assignment = Assignment::from_json(payload).unwrap();
        let variables = Variables::new(assignment.spec(), &Place::default().with_temp_project_dir(temp.as_str()));
        write_files(&variables).unwrap();
        write_files(&variables).unwrap();
        let path = variables.value("KEY").unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), fs::read_dir(&temp).unwrap().count()),
            ("secret x", 1)
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::metadata(&temp).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}
