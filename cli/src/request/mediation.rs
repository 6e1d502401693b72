//! `--mediation PORT=HOST:PORT`, and the field of a specification.

use microagent_workspace::plan;
use microagent_workspace::spec::Mediation;

use crate::failure::Failure;

/// The mediation that the flags describe, validated.
///
/// # Errors
/// When it is invalid, or `optional` is given without one.
pub fn check(flag: Option<&str>, optional: bool) -> Result<Option<Mediation>, Failure> {
    let mediation = merge(flag, optional, None)?;
    mediation.as_ref().map_or(Ok(()), plan::mediation::check)?;
    Ok(mediation)
}

/// The mediation that the flags describe, or else that of the document. Its values are not checked.
///
/// # Errors
/// A flag that has no port or target, and `optional` without a mediation.
pub fn merge(
    flag: Option<&str>,
    optional: bool,
    document: Option<Mediation>,
) -> Result<Option<Mediation>, Failure> {
    let mediation = match flag {
        Some(word) => Some(parse(word)?),
        None => document,
    };
    let Some(mut mediation) = mediation else {
        return match optional {
            true => Err(with_form("--mediation-optional without --mediation")),
            false => Ok(None),
        };
    };
    mediation.required &= !optional;
    Ok(Some(mediation))
}

fn with_form(message: impl Into<String>) -> Failure {
    Failure::usage(message)
        .remediation("use --mediation PORT=HOST:PORT, such as 8000=127.0.0.1:8000")
}

fn parse(word: &str) -> Result<Mediation, Failure> {
    let invalid = |why: &str| with_form(format!("--mediation {word:?} {why}"));
    let (port, target) = word.split_once('=').ok_or_else(|| invalid("has no ="))?;
    Ok(Mediation {
        port: port
            .parse()
            .map_err(|_| invalid("does not start with a port"))?,
        target: target.to_owned(),
        required: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_document_and_optional_applies_to_both() {
        let document = || {
            Some(Mediation {
                port: 9,
                target: "db.example:5432".into(),
                required: true,
            })
        };
        let get = |flag, optional, document| merge(flag, optional, document).unwrap();
        assert_eq!(get(None, false, None), None);
        assert_eq!(get(None, false, document()), document());
        assert!(!get(None, true, document()).unwrap().required);
        let flag = get(Some("8000=[::1]:80"), false, document()).unwrap();
        assert_eq!(
            (flag.port, &*flag.target, flag.required),
            (8000, "[::1]:80", true)
        );
        assert!(!get(Some("8000=a:80"), true, None).unwrap().required);
    }

    #[test]
    fn invalid_values_are_named_with_a_remediation() {
        for (word, message) in [
            ("8000", "--mediation \"8000\" has no ="),
            ("x=a:1", "--mediation \"x=a:1\" does not start with a port"),
            (
                "-1=a:1",
                "--mediation \"-1=a:1\" does not start with a port",
            ),
            ("0=a:1", "mediation port 0 is not a vsock port"),
            (
                "4294967295=a:1",
                "mediation port 4294967295 is not a vsock port",
            ),
            (
                "1025=a:1",
                "mediation port 1025 is that of microagent's agent",
            ),
            (
                "1026=a:1",
                "mediation port 1026 is that of microagent's agent",
            ),
            ("1=a", "mediation target \"a\" is not HOST:PORT"),
            ("1=:80", "mediation target \":80\" is not HOST:PORT"),
            ("1=a:0", "mediation target \"a:0\" is not HOST:PORT"),
            ("1=a:65536", "mediation target \"a:65536\" is not HOST:PORT"),
            ("1=::1:80", "mediation target \"::1:80\" is not HOST:PORT"),
            (
                "1=tcp://a:80",
                "mediation target \"tcp://a:80\" is not HOST:PORT",
            ),
        ] {
            let failure = check(Some(word), false).unwrap_err();
            assert_eq!(failure.message, message);
            assert!(failure.remediation.is_some(), "{word}");
        }
        assert!(check(None, true).is_err());
    }
}
