//! The kernel's own build, run in its tree: everything it says goes to a log, what a person wants
//! to know of it comes out.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::error::{KernelBuildError, KernelBuildFailure};
use crate::kernel::tool::Tool;

/// The name and place of every build, and its time: what differs between two builds of one source
/// must not get into the kernel (Documentation/kbuild/reproducible-builds.rst).
const ENVIRONMENT: &[(&str, &str)] = &[
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "microagent"),
    ("KBUILD_BUILD_HOST", "microagent"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];

/// The longest line of a build that is looked at, in bytes; a longer one comes in pieces.
const MAX_LINE: u64 = 64 << 10;

/// One source tree being built.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    tree: &'a Path,
    jobs: usize,
    log: File,
    log_path: PathBuf,
}

impl<'a> Build<'a> {
    /// A build in `tree` by `jobs` processes, whose output goes to the file `log`.
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

    /// Runs `make target`; `compiled` receives the size of each source file as it is compiled.
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
                None => summary.add(&text),
            }
        }
        running.finish().map_err(|_| {
            let detail = summary.text();
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
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A compiler's temporary files go with the tree.
    let own = [
        ("PATH".into(), path),
        ("TMPDIR".into(), tree.into()),
        ("HOME".into(), tree.into()),
    ];
    fixed.chain(own).collect()
}

/// The file that a line like `  CC      fs/ext4/inode.o` says is being compiled.
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

/// The most informative line of a failed build: the first error of a compiler or linker, or else the
/// target at which make stopped, or else the last line.
#[derive(Debug, Default)]
struct FailureSummary {
    error: Option<String>,
    given_up: Option<String>,
    last: Option<String>,
}

impl FailureSummary {
    fn add(&mut self, line: &str) {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        let says = |words: &[&str]| words.iter().any(|word| line.contains(word));
        if says(&["error:", "Error:", "undefined reference", "No space left"]) {
            self.error.get_or_insert_with(|| line.to_owned());
        } else if says(&["***"]) {
            self.given_up.get_or_insert_with(|| line.to_owned());
        }
        self.last = Some(line.to_owned());
    }

    fn text(self) -> String {
        let line = self.error.or(self.given_up).or(self.last);
        line.unwrap_or_else(|| "it said nothing".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Diagnosis;

    #[test]
    fn what_is_compiled_is_read_from_makes_lines() {
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
    fn the_first_error_is_preferred_to_its_consequences() {
        let summarized = |lines: &[&str]| {
            let mut summary = FailureSummary::default();
            lines.iter().for_each(|line| summary.add(line));
            summary.text()
        };
        let lines = [
            "  LD x",
            "a.c:1:2: error: no",
            "b.c:1:2: error: no",
            "make[1]: *** [a.o] Error 1",
            "make: *** [x] Error 2",
        ];
        assert_eq!(summarized(&lines), "a.c:1:2: error: no");
        assert_eq!(summarized(&lines[3..]), "make[1]: *** [a.o] Error 1");
        assert_eq!(summarized(&["Killed", ""]), "Killed");
        assert_eq!(summarized(&[]), "it said nothing");
    }

    #[test]
    fn a_failing_build_quotes_itself_and_leaves_its_log() {
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
