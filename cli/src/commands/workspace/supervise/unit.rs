//! The systemd user unit that supervises a workspace (systemd.service(5)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, kind_of};
use crate::settings::Settings;

/// Writes or removes the unit of the workspace `name`.
pub fn change(
    name: &str,
    install: bool,
    limit: Option<u32>,
    settings: &Settings,
) -> Result<(), Failure> {
    let directory = directory()?;
    let path = directory.join(format!("microagent-{name}.service"));
    let cannot = |what: &str, error: &io::Error| {
        let message = format!("cannot {what} {}: {error}", path.display());
        Failure::new(kind_of(error), message)
    };
    let then = if install {
        let program = std::env::current_exe().map_err(|error| cannot("write", &error))?;
        let text = unit(&program, name, limit, settings);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| cannot("write", &error))?;
        format!("systemctl --user daemon-reload; systemctl --user enable --now microagent-{name}")
    } else {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot("remove", &error)),
        }
        format!("systemctl --user disable --now microagent-{name}; systemctl --user daemon-reload")
    };
    settings.output.text(&format!("{}\n", path.display()))?;
    settings.output.notice(&format!("then: {then}"));
    Ok(())
}

/// Where systemd looks for units of the user.
fn directory() -> Result<PathBuf, Failure> {
    let configured = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let configured = configured.filter(|path| path.is_absolute());
    let home = || std::env::home_dir().map(|home| home.join(".config"));
    let config = configured.or_else(home).ok_or_else(|| {
        Failure::usage("cannot determine the directory of units: no home directory")
    })?;
    Ok(config.join("systemd/user"))
}

fn unit(program: &Path, name: &str, limit: Option<u32>, settings: &Settings) -> String {
    let mut command = vec![
        program.display().to_string(),
        "--state-dir".to_owned(),
        settings.state_dir.display().to_string(),
    ];
    let engine = settings.engine.engine();
    command.extend(engine.map(|engine| format!("--engine={}", engine.name())));
    command.extend(["supervise".to_owned(), name.to_owned()]);
    command.extend(limit.map(|limit| format!("--max-restarts={limit}")));
    let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    format!(
        "[Unit]\n\
         Description=microagent workspace {name}\n\
         \n\
         [Service]\n\
         ExecStart={}\n\
         # The workspace outlives who supervises it.\n\
         KillMode=process\n\
         SuccessExitStatus=143\n\
         # Not after it gave up.\n\
         Restart=on-abnormal\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        command.join(" ")
    )
}

/// A word of a command line in a unit.
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' | '$' => text.extend([c, c]),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_systemd() {
        assert_eq!(quoted("/a b/50%$x\"\\"), r#""/a b/50%%$$x\"\\""#);
    }
}
