//! An error, the way out that it names, and the engine that follows it.

use microagent_tests::microagent::{Finished, Host};

/// An error and its remediation. All scripts run in the same directory, with the variables of the
/// [`Scene`] and the functions of [`PRELUDE`].
#[derive(Debug)]
pub struct Remedy {
    /// Creates the fault.
    pub given: &'static str,
    /// The command that fails.
    pub command: &'static str,
    /// Its exit code.
    pub code: i32,
    /// The remediation as it is in the source, with `{}` for what is only known at run time.
    pub says: &'static str,
    /// What it says, as a script: `$1`, `$2` and so on are what is printed in place of `{}`,
    /// `$SAID` is all of it, and the file `errors` has all of standard error.
    pub follow: &'static str,
    /// The command that works now; if empty, the one that failed.
    pub works: &'static str,
}

impl Remedy {
    /// A usage error whose remediation changes only the command.
    pub const NEW: Remedy = Remedy {
        given: ":",
        command: "",
        code: 1,
        says: "",
        follow: ":",
        works: "",
    };
}

/// What the scripts of all tables have.
const PRELUDE: &str = r#"
resolve() { microagent image resolve "$@"; }
build() { microagent rootfs build --allow-mutable --image "$@"; }
vm() { microagent --quiet --engine qemu run "$@"; }
sudo() { "$@"; }
skopeo_copy() { skopeo copy --quiet --insecure-policy --src-tls-verify=false --dest-tls-verify=false "$@"; }
"#;

/// Where a table's scripts run.
#[derive(Debug)]
pub struct Scene {
    /// The environment.
    pub host: Host,
    /// Functions of its scripts, beside [`PRELUDE`].
    pub functions: &'static str,
    /// Variables of its scripts.
    pub variables: Vec<(&'static str, String)>,
}

impl Scene {
    /// Runs a script with these variables as well.
    pub fn script(&self, text: &str, variables: &[(String, String)]) -> Finished {
        let text = format!("{PRELUDE}{}{text}", self.functions);
        let mut invocation = self.host.shell(&text);
        for (name, value) in &self.variables {
            invocation.variable(name, value);
        }
        for (name, value) in variables {
            invocation.variable(name, value);
        }
        invocation.finish()
    }

    /// Makes each command fail, follows what is printed, and runs it again.
    ///
    /// # Panics
    /// If remediations differ or do not help, with all of them.
    pub fn follow(&self, remedies: &[Remedy]) {
        let failed: Vec<String> = (remedies.iter())
            .filter_map(|remedy| {
                let works = match remedy.works {
                    "" => remedy.command,
                    works => works,
                };
                let script = format!("{}\n{works}", remedy.follow);
                let Remedy {
                    given,
                    command,
                    code,
                    says,
                    ..
                } = remedy;
                self.provoke(given, command, *code, says, &script).err()
            })
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    }

    /// Makes `command` fail and runs a script that follows what it says; returns its output.
    ///
    /// # Errors
    /// What differs, or why the script failed.
    pub fn provoke(
        &self,
        given: &str,
        command: &str,
        code: i32,
        says: &str,
        script: &str,
    ) -> Result<String, String> {
        let prepared = self.script(&format!("set -e\n{given}"), &[]);
        if prepared.code != Some(0) {
            return Err(format!("{given}: {}", prepared.errors()));
        }
        let failed = self.script(&format!("{{ {command}\n}} 2>errors"), &[]);
        let errors = std::fs::read(self.host.path("errors")).unwrap();
        let errors = String::from_utf8_lossy(&errors);
        // A command that reports problems as its result prints the remediation there.
        let printed = match serde_json::from_str::<serde_json::Value>(&errors) {
            Ok(document) => document["error"]["remediation"]
                .as_str()
                .unwrap_or("")
                .to_owned(),
            Err(_) => format!("{}{errors}", failed.text()),
        };
        if failed.code != Some(code) {
            return Err(format!("{command} exits with {:?}: {printed}", failed.code));
        }
        let said = printed.lines().rev().find_map(|line| {
            let line = line.trim();
            let line = line.strip_prefix("-> ").unwrap_or(line);
            gaps(says, line).map(|gaps| (line.to_owned(), gaps))
        });
        let Some((said, gaps)) = said else {
            return Err(format!("{command} does not print {says:?} but:\n{printed}"));
        };
        let mut variables = vec![("SAID".to_owned(), said.clone())];
        let mut arguments = String::new();
        for (number, gap) in gaps.into_iter().enumerate() {
            arguments.push_str(&format!(" \"$GAP{number}\""));
            variables.push((format!("GAP{number}"), gap));
        }
        let text = format!("set -e\nset --{arguments}\n{script}");
        let followed = self.script(&text, &variables);
        match followed.code {
            Some(0) => Ok(followed.text()),
            _ => Err(format!(
                "{command} says: {said}\nfollowed by: {script}\n{}{}",
                followed.text(),
                followed.errors()
            )),
        }
    }
}

/// What a text has in place of each `{}` of a template; `None` if it differs elsewhere.
pub fn gaps(template: &str, text: &str) -> Option<Vec<String>> {
    let mut pieces = template.split("{}");
    let mut rest = text.strip_prefix(pieces.next()?)?;
    let mut gaps = Vec::new();
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        let end = match (piece, pieces.peek()) {
            ("", None) => rest.len(),
            (piece, None) => rest.len() - rest.ends_with(piece).then_some(piece.len())?,
            (piece, Some(_)) => rest.find(piece)?,
        };
        gaps.push(rest[..end].to_owned());
        rest = &rest[end + piece.len()..];
    }
    rest.is_empty().then_some(gaps)
}
