//! Reading and writing documents.
//!
//! YAML is read by `serde-saphyr`, which is maintained (`serde_yaml` is archived), limits what
//! aliases expand to, and tells the line of each error and the known fields as data. JSON is read
//! by `serde_json`, strictly.

use serde::Deserialize;
use serde_json::error::Category;
use serde_saphyr::{DuplicateKeyPolicy, Error};

use super::error::unknown;
use super::tolerant::Tolerant;
use super::{MAX_DOCUMENT, Spec, SpecError};

impl Spec {
    /// Reads a YAML 1.2 document.
    ///
    /// # Errors
    /// The first mistake.
    pub fn from_yaml(text: &str) -> Result<Spec, SpecError> {
        check_size(text)?;
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::Error,
            strict_booleans: true,
            with_snippet: false,
        };
        let read: Result<Option<Spec>, Error> = serde_saphyr::from_str_with_options(text, options);
        match read {
            Ok(spec) => Ok(spec.unwrap_or_default()),
            Err(error) => Err(SpecError {
                line: error.location().map_or(0, |location| location.line()),
                message: yaml_message(&error),
            }),
        }
    }

    /// Reads request JSON or a manifest.
    ///
    /// # Errors
    /// The first mistake.
    pub fn from_json(text: &str) -> Result<Spec, SpecError> {
        check_size(text)?;
        serde_json::from_str(text).map_err(|error| SpecError {
            line: error.line() as u64,
            message: json_message(&error),
        })
    }

    /// Reads a manifest, which may be of a newer release: fields that are not known are left out. What
    /// is to be started or changed is read by [`from_json`](Spec::from_json), because something
    /// would be missing.
    ///
    /// # Errors
    /// The first mistake.
    pub fn from_manifest(text: &str) -> Result<Spec, SpecError> {
        let read = Spec::from_json(text);
        let newer = || Spec::deserialize(Tolerant(serde_json::from_str(text).ok()?)).ok();
        match read {
            Err(error) if error.line > 0 => newer().ok_or(error),
            read => read,
        }
    }

    /// The specification as request JSON, which is also the manifest.
    pub fn to_json(&self) -> String {
        // Maps have string keys, and nothing here fails to be written.
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        json + "\n"
    }
}

fn check_size(text: &str) -> Result<(), SpecError> {
    if text.len() <= MAX_DOCUMENT {
        return Ok(());
    }
    Err(SpecError {
        line: 0,
        message: format!("the document has more than {} MiB", MAX_DOCUMENT >> 20),
    })
}

fn yaml_message(error: &Error) -> String {
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => unknown("field", field, expected),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => unknown("value", variant, expected),
        Error::SerdeMissingField { field, .. } => format!("field {field} is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("field {key:?} is given twice")
        }
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | Error::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => format!("{} is not {expected}", type_of(unexpected)),
        Error::Message { msg, .. } => one_line(msg),
        error => one_line(&error.render()),
    }
}

fn json_message(error: &serde_json::Error) -> String {
    // serde_json appends the position, which we print at the start.
    let text = error.to_string();
    let message = match text.rfind(" at line ") {
        Some(position) => &text[..position],
        None => &text,
    };
    if error.classify() != Category::Data {
        return format!("the JSON is invalid: {message}");
    }
    for (prefix, what) in [("unknown field ", "field"), ("unknown variant ", "value")] {
        if let Some(rest) = message.strip_prefix(prefix) {
            let mut words = rest.split('`').skip(1).step_by(2);
            let word = words.next().unwrap_or_default();
            return unknown(what, word, &words.collect::<Vec<_>>());
        }
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        return format!("field {} is missing", rest.trim_matches('`'));
    }
    if let Some(rest) = message.strip_prefix("duplicate field ") {
        return format!("field {:?} is given twice", rest.trim_matches('`'));
    }
    for prefix in ["invalid type: ", "invalid value: "] {
        let parts = message.strip_prefix(prefix);
        if let Some((unexpected, expected)) = parts.and_then(|rest| rest.split_once(", expected "))
        {
            return format!("{} is not {expected}", type_of(unexpected));
        }
    }
    one_line(message)
}

/// What was found, without a text: it may be a secret at the wrong place.
fn type_of(unexpected: &str) -> &str {
    match unexpected.starts_with("string ") {
        true => "a string",
        false => unexpected,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Entrypoint;
    use super::*;

    fn yaml_error(text: &str) -> String {
        Spec::from_yaml(text).unwrap_err().to_string()
    }

    fn json_error(text: &str) -> String {
        Spec::from_json(text).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_name_line_field_and_the_nearest_word() {
        for (text, expected) in [
            (
                "name: a\nresources:\n  memory: 512\n",
                "3: unknown field \"memory\"; did you mean memoryMiB?",
            ),
            (
                "imgae: x",
                "1: unknown field \"imgae\"; did you mean image?",
            ),
            (
                "restart: sometimes",
                "1: unknown value \"sometimes\"; use one of never, on-failure, always",
            ),
            (
                "network:\n  mode: host",
                "2: unknown value \"host\"; use one of user, nat, isolated, bridged",
            ),
            ("name: a\nname: b", "2: field \"name\" is given twice"),
            (
                "disks:\n  - name: a\n    path: /x\n",
                "3: field mountpoint is missing",
            ),
        ] {
            assert_eq!(yaml_error(text), expected, "{text}");
        }
        for (text, expected) in [
            (
                "{\n\"resources\": {\"memory\": 512}}",
                "2: unknown field \"memory\"; did you mean memoryMiB?",
            ),
            (
                "{\"restart\": \"sometimes\"}",
                "1: unknown value \"sometimes\"; use one of never, on-failure, always",
            ),
            (
                "{\"name\": \"a\",\n \"name\": \"b\"}",
                "2: field \"name\" is given twice",
            ),
            (
                "{\"resources\": {\"cpuCount\": \"two\"}}",
                "1: a string is not u32",
            ),
            ("{", "1: the JSON is invalid: EOF while parsing an object"),
            ("{} x", "1: the JSON is invalid: trailing characters"),
        ] {
            assert_eq!(json_error(text), expected, "{text}");
        }
    }

    #[test]
    fn an_entrypoint_is_a_command_line_or_a_list() {
        let entrypoint = |text: &str| Spec::from_yaml(text).unwrap().entrypoint.unwrap();
        assert_eq!(
            entrypoint("entrypoint: sleep 1 && ls").argv(),
            ["/bin/sh", "-c", "sleep 1 && ls"]
        );
        let list = Entrypoint::Argv(vec!["sleep".into(), "1".into()]);
        assert_eq!(entrypoint("entrypoint: [sleep, \"1\"]"), list);
        let expected = "a shell command, or a list of arguments that is not empty";
        for text in ["entrypoint: []", "entrypoint: ''", "entrypoint: {a: b}"] {
            let error = yaml_error(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn variables_are_text_and_modes_are_octal_digits() {
        let spec = Spec::from_yaml("env: {A: 8080, B: true, C: x, D: '', E: -1.5}").unwrap();
        let values: Vec<&str> = spec.env.values().map(String::as_str).collect();
        assert_eq!(values, ["8080", "true", "x", "", "-1.5"]);
        assert!(yaml_error("env:\n  A:\n").contains("the text of a variable"));
        let file = |mode: &str| format!("files:\n  - {{src: a, dst: /a, mode: {mode}}}");
        let spec = Spec::from_yaml(&file("'0644'")).unwrap();
        assert_eq!(spec.files[0].mode.unwrap().0, 0o644);
        for mode in ["0644", "'0888'", "'7'", "rw"] {
            let error = yaml_error(&file(mode));
            assert!(error.contains("octal digits in quotes"), "{mode}: {error}");
        }
    }

    #[test]
    fn aliases_do_not_expand_without_bound() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (this, before) in ('b'..='i').zip('a'..) {
            let list = vec![format!("*{before}"); 9].join(", ");
            text += &format!("{this}: &{this} [{list}]\n");
        }
        text = format!("setup:\n  - ok\nenv:\n{}", text.replace("\n", "\n  "));
        assert!(Spec::from_yaml(&text).is_err());
        assert_eq!(
            yaml_error(&"x".repeat(MAX_DOCUMENT + 1)),
            "the document has more than 4 MiB"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z:{}\\[\\],&*!|>'\"# \n-]{0,200}") {
            let _ = Spec::from_yaml(&text);
            let _ = Spec::from_json(&text);
        }
    }
}
