//! Where a test keeps its files.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use tempfile::TempDir;

/// A directory of the test's own, removed with the value; its path has no symbolic links.
#[derive(Debug)]
pub struct Place {
    _directory: TempDir,
    /// Where it is.
    pub path: PathBuf,
}

impl Place {
    /// An empty one.
    #[expect(
        clippy::new_without_default,
        reason = "it makes a directory, which no default should"
    )]
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a directory can be made");
        let path = directory.path().canonicalize().expect("it is there");
        Self {
            _directory: directory,
            path,
        }
    }

    /// The path of what has this name in it.
    pub fn of(&self, name: &str) -> String {
        format!("{}/{name}", self.path.display())
    }

    /// Its own path with a slash at the end: what all that is in it begins with.
    pub fn root(&self) -> String {
        self.of("")
    }

    /// Makes a file that holds its own name; yields its path.
    pub fn file(&self, name: &str, mode: u32) -> String {
        let path = self.of(name);
        fs::write(&path, name).expect("it can be written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
        path
    }
}
