//! Runs the kernel's build in its tree. The complete output goes to a log; progress and the cause
//! of a failure are extracted from it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::error::{KernelBuildError, KernelBuildFailure};
use crate::kernel::tool::Tool;
use crate::kernel::tool::search_path;

/// Fixed values for everything that would differ between two builds of one source
/// (Documentation/kbuild/reproducible-builds.rst).
const ENVIRONMENT: &[(&str, &str)] = &[
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "microagent"),
    ("KBUILD_BUILD_HOST", "microagent"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];

/// Maximum length of a line of the output in bytes; a longer one is split.
const MAX_LINE: u64 = 64 << 10;

/// A build of one source tree.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    tree: &'a Path,
    jobs: usize,
    log: File,
    log_path: PathBuf,
}

impl<'a> Build<'a> {
    /// Prepares a build in `tree` with `jobs` parallel processes and its log at `log_path`.
    pub(crate) fn new(
        tree: &'a Path,
        jobs: usize,
        log_path: &Path,
    ) -> Result<Build<'a>, KernelBuildError> {
        let log = File::create(log_path).map_err(|source| KernelBuildError::File {
            action: "write",
            path: log_path.to_owned(),
            source,
        })?;
        Ok(Build {
            tree,
            jobs,
            log,
            log_path: log_path.to_owned(),
        })
    }

    /// Runs `make target` and calls `compiled` with the size of each compiled source file.
    pub(crate) fn make(
        &mut self,
        target: &'static str,
        variables: &[&str],
        mut compiled: impl FnMut(u64),
    ) -> Result<(), KernelBuildFailure> {
        let script = r#"exec make "$@" 2>&1"#;
        let (running, stdout) = Tool::guarded("sh", &["-c"])
            .args([script, "sh"])
            .args([format!("-j{}", self.jobs), target.to_owned()])
            .args(variables)
            .current_dir(self.tree)
            .only_env(environment(self.tree))
            .start()?;
        let mut reader = BufReader::new(stdout);
        let mut summary = FailureSummary::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = std::io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut line);
            if !matches!(read, Ok(count) if count > 0) {
                break;
            }
            self.log
                .write_all(&line)
                .map_err(|source| self.cannot_log(source))?;
            let text = String::from_utf8_lossy(&line);
            match source_of(&text) {
                Some(source) => {
                    let metadata = fs::metadata(self.tree.join(source));
                    compiled(metadata.map_or(0, |metadata| metadata.len()));
                }
                None => summary.add_line(&text),
            }
        }
        running.finish().map_err(|_| {
            let detail = summary.into_text();
            let log = self.log_path.clone();
            KernelBuildFailure::from(KernelBuildError::Make {
                target,
                detail,
                log,
            })
        })
    }

    fn cannot_log(&self, source: std::io::Error) -> KernelBuildError {
        KernelBuildError::File {
            action: "write",
            path: self.log_path.clone(),
            source,
        }
    }
}

fn environment(tree: &Path) -> Vec<(OsString, OsString)> {
    let fixed = ENVIRONMENT
        .iter()
        .map(|(key, value)| (key.into(), value.into()));
    let path = search_path();
    // Temporary files of the compiler are deleted together with the tree.
    let own = [
        ("PATH".into(), path),
        ("TMPDIR".into(), tree.into()),
        ("HOME".into(), tree.into()),
    ];
    fixed.chain(own).collect()
}

/// The source file in a line such as `  CC      fs/ext4/inode.o`.
fn source_of(line: &str) -> Option<PathBuf> {
    let (step, object) = line.strip_prefix("  ")?.split_once(' ')?;
    let object = Path::new(object.trim());
    let end = match step {
        "CC" => "c",
        "AS" => "S",
        _ => return None,
    };
    (object.extension()? == "o").then(|| object.with_extension(end))
}

/// Finds the most relevant line of a failed build: the first error of a compiler or linker,
/// otherwise the first error of make, otherwise the last line.
#[derive(Debug, Default)]
struct FailureSummary {
    error: Option<String>,
    make_error: Option<String>,
    last: Option<String>,
}

impl FailureSummary {
    fn add_line(&mut self, line: &str) {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        const ERRORS: [&str; 4] = ["error:", "Error:", "undefined reference", "No space left"];
        if ERRORS.iter().any(|error| line.contains(error)) {
            self.error.get_or_insert_with(|| line.to_owned());
        } else if line.contains("***") {
            self.make_error.get_or_insert_with(|| line.to_owned());
        }
        self.last = Some(line.to_owned());
    }

    fn into_text(self) -> String {
        let line = self.error.or(self.make_error).or(self.last);
        line.unwrap_or_else(|| "no output".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Diagnosis;

    #[test]
    fn the_compiled_file_is_parsed_from_makes_output() {
        let source = |line: &str| source_of(line).map(|path| path.display().to_string());
        assert_eq!(
            source("  CC      fs/ext4/inode.o\n").as_deref(),
            Some("fs/ext4/inode.c")
        );
        assert_eq!(
            source("  AS      arch/x86/entry/entry_64.o\n").as_deref(),
            Some("arch/x86/entry/entry_64.S")
        );
        for other in [
            "  AR      fs/built-in.a\n",
            "  HOSTCC  scripts/x.o\n",
            "make: *** x\n",
            "  CC\n",
            "",
        ] {
            assert_eq!(source(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_first_compiler_error_is_preferred() {
        let summary = |lines: &[&str]| {
            let mut summary = FailureSummary::default();
            lines.iter().for_each(|line| summary.add_line(line));
            summary.into_text()
        };
        let lines = [
            "  LD x",
            "a.c:1:2: error: no",
            "b.c:1:2: error: no",
            "make[1]: *** [a.o] Error 1",
            "make: *** [x] Error 2",
        ];
        assert_eq!(summary(&lines), "a.c:1:2: error: no");
        assert_eq!(summary(&lines[3..]), "make[1]: *** [a.o] Error 1");
        assert_eq!(summary(&["Killed", ""]), "Killed");
        assert_eq!(summary(&[]), "no output");
    }

    #[test]
    fn a_failed_build_reports_its_error_and_keeps_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let makefile = "vmlinux:\n\t@echo '  CC      a.o'; echo x >a.c; \
                        echo \"a.c:1:1: error: $$KBUILD_BUILD_USER $${HOSTNAME-none}\" >&2; exit 1\n";
        fs::write(dir.path().join("Makefile"), makefile).unwrap();
        fs::write(dir.path().join("a.c"), "123").unwrap();
        let log = dir.path().join("log");
        let mut build = Build::new(dir.path(), 1, &log).unwrap();
        let mut sizes = Vec::new();
        let error = build
            .make("vmlinux", &[], |size| sizes.push(size))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "make vmlinux failed: a.c:1:1: error: microagent none"
        );
        let KernelBuildFailure::Build(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.remediation(), Some(format!("see {}", log.display())));
        assert_eq!(sizes.len(), 1);
        assert!(
            fs::read_to_string(&log)
                .unwrap()
                .starts_with("  CC      a.o\na.c:1:1: error")
        );
    }
}
