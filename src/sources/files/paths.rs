//! Which files a source reads.

use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use walkdir::WalkDir;

use super::text::{no_file, refused};
use crate::error::{Error, Result};

const SETTING: &str = "source.files.paths";

/// What one entry of `source.files.paths` stands for.
#[derive(Debug)]
pub(super) enum Pattern {
    /// A file by its name.
    Literal(String),
    /// Every file that matches.
    Glob {
        /// The folder that all of them are under, as it stands in the pattern.
        root: String,
        matcher: GlobMatcher,
        /// How many folders deep to look; none for `**`.
        depth: Option<usize>,
        /// Whether names that begin with a dot may match.
        hidden: bool,
    },
}

impl Pattern {
    /// Reads a pattern: `*` and `?` stay inside a folder, `**` crosses folders, `[ab]` and `{a,b}` choose. Like a
    /// shell, `*` does not match names that begin with a dot. A name that is there as it stands is no pattern.
    pub(super) fn parse(base: &Path, pattern: &str) -> Result<Self> {
        let pattern = normal(pattern)?;
        if !pattern.contains(['*', '?', '[', '{']) || base.join(&pattern).exists() {
            return Ok(Self::Literal(pattern));
        }
        let parts: Vec<_> = pattern.split('/').collect();
        let fixed = parts.iter().take_while(|p| !p.contains(['*', '?', '[', '{'])).count().min(parts.len() - 1);
        let matcher = GlobBuilder::new(&pattern).literal_separator(true).empty_alternates(true).build();
        let matcher =
            matcher.map_err(|e| Error::settings(SETTING, format!("'{pattern}' is no pattern: {}", e.kind())))?;
        Ok(Self::Glob {
            root: parts[..fixed].join("/"),
            matcher: matcher.compile_matcher(),
            depth: (!pattern.contains("**")).then_some(parts.len() - fixed),
            hidden: parts[fixed..].iter().any(|p| p.starts_with('.')),
        })
    }

    /// Adds the files that it stands for now, by their paths as the source names them.
    pub(super) fn find(&self, base: &Path, found: &mut Vec<(String, PathBuf)>) -> Result<()> {
        match self {
            Self::Literal(path) => {
                found.push((path.clone(), base.join(path)));
                Ok(())
            }
            Self::Glob { root, matcher, depth, hidden } => {
                // '/x*' has an empty part before its first slash.
                let absolute = matcher.glob().glob().starts_with('/');
                let folder = if absolute { PathBuf::from(format!("{root}/")) } else { base.join(root) };
                if !folder.is_dir() {
                    return Ok(());
                }
                let walk = WalkDir::new(&folder).follow_links(true).min_depth(1).max_depth(depth.unwrap_or(usize::MAX));
                let visible = |name: &std::ffi::OsStr| *hidden || !name.as_encoded_bytes().starts_with(b".");
                for entry in walk.into_iter().filter_entry(|e| e.depth() == 0 || visible(e.file_name())) {
                    let entry = match entry {
                        Ok(entry) => entry,
                        // Gone while we looked, or a link to nothing.
                        Err(e) if e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => continue,
                        Err(e) => return Err(unwalkable(&e)),
                    };
                    let below = entry.path().strip_prefix(&folder).unwrap_or(entry.path());
                    let path = if root.is_empty() && !absolute {
                        below.to_path_buf()
                    } else {
                        Path::new(&format!("{root}/")).join(below)
                    };
                    if entry.file_type().is_dir() || !matcher.is_match(&path) {
                        continue;
                    }
                    let Some(name) = path.to_str() else {
                        return Err(Error::source(path.display().to_string(), "its name is not UTF-8; rename it"));
                    };
                    if !entry.file_type().is_file() {
                        return Err(no_file(name, false));
                    }
                    found.push((name.to_owned(), entry.into_path()));
                }
                Ok(())
            }
        }
    }

    /// The path, if this is a file by its name.
    pub(super) fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(path) => Some(path),
            Self::Glob { .. } => None,
        }
    }
}

fn unwalkable(error: &walkdir::Error) -> Error {
    let path = error.path().map_or_else(String::new, |p| p.display().to_string());
    match error.io_error() {
        Some(io) => refused(&path, 0, io),
        None => Error::source(path, "a link leads back to a folder above it; remove the link"),
    }
}

/// A path without the parts that say nothing, so that a file has one name.
fn normal(path: &str) -> Result<String> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::settings(SETTING, format!("'{}' is no path", path.escape_debug())));
    }
    let mut normal = PathBuf::new();
    for part in Path::new(path).components() {
        if part != Component::CurDir {
            normal.push(part);
        }
    }
    match normal.to_str() {
        Some("") | None => {
            Err(Error::settings(SETTING, format!("'{path}' is a folder; name the files in it ('*.jsonl')")))
        }
        Some(normal) => Ok(normal.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn find(base: &Path, pattern: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        Pattern::parse(base, pattern)?.find(base, &mut found)?;
        for (name, file) in &found {
            assert_eq!(base.join(name).canonicalize().unwrap(), file.canonicalize().unwrap());
        }
        let mut names: Vec<_> = found.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        Ok(names)
    }

    #[test]
    fn patterns_find_files() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        for file in ["a.jsonl", "b.jsonl.gz", "in/c.jsonl", "in/x/d.jsonl", "in/.hidden.jsonl", "in/we[i]rd.jsonl"] {
            fs::create_dir_all(base.join(file).parent().unwrap()).unwrap();
            fs::write(base.join(file), "").unwrap();
        }
        fs::create_dir(base.join("in/folder.jsonl")).unwrap();
        let list = |pattern: &str| find(base, pattern).unwrap();
        assert_eq!(list("*.jsonl"), ["a.jsonl"]);
        assert_eq!(list("./a.jsonl"), ["a.jsonl"]);
        assert_eq!(list("in//*.jsonl"), ["in/c.jsonl", "in/we[i]rd.jsonl"]);
        assert_eq!(list("**/*.jsonl"), ["a.jsonl", "in/c.jsonl", "in/we[i]rd.jsonl", "in/x/d.jsonl"]);
        assert_eq!(list("in/**/*.jsonl"), ["in/c.jsonl", "in/we[i]rd.jsonl", "in/x/d.jsonl"]);
        assert_eq!(list("in/.h*"), ["in/.hidden.jsonl"]);
        assert_eq!(list("in/we[i]rd.jsonl"), ["in/we[i]rd.jsonl"]);
        assert_eq!(list("{a,b}.jsonl{,.gz}"), ["a.jsonl", "b.jsonl.gz"]);
        assert_eq!(list("nothing/*.jsonl"), Vec::<String>::new());
        let absolute = format!("{}/in/*.jsonl", base.display());
        assert_eq!(
            list(&absolute),
            [format!("{}/in/c.jsonl", base.display()), format!("{}/in/we[i]rd.jsonl", base.display())]
        );
        assert_eq!(find(&base.join("in"), "../*.jsonl").unwrap(), ["../a.jsonl"]);
        for bad in ["", ".", "[", "{a"] {
            assert!(matches!(find(base, bad), Err(Error::Settings { .. })), "{bad}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_cannot_be_kept_are_named() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"a\xff.jsonl")), "").unwrap();
        assert!(find(folder.path(), "*.jsonl").unwrap_err().to_string().contains("UTF-8"));
        assert_eq!(find(folder.path(), "*.gz").unwrap(), Vec::<String>::new());
        fs::create_dir(folder.path().join("loop")).unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("loop/up")).unwrap();
        assert!(find(folder.path(), "**/*.gz").unwrap_err().to_string().contains("link"));
    }
}
