//! Names of the fields of a specification, and where a document has them.

use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A field of a specification. [`Display`](fmt::Display) has it as in `disks[1].mountpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field(Vec<Step>);

/// One step on the way to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
}

impl Field {
    /// The field with this path of names, as in `resources.memoryMiB`.
    pub fn new(path: &str) -> Field {
        let names = path.split('.').map(str::to_owned);
        Field(names.map(Step::Name).collect())
    }

    /// A field of this one.
    #[must_use]
    pub fn name(mut self, name: &str) -> Field {
        self.0.push(Step::Name(name.to_owned()));
        self
    }

    /// An entry of this list, counted from 0.
    #[must_use]
    pub fn index(mut self, index: usize) -> Field {
        self.0.push(Step::Index(index));
        self
    }

    /// This field of `used`, which was made of `document`, in `document`: entries of lists may have
    /// another number there. `None` if it has another value there, or none.
    pub fn find_in(&self, document: &Value, used: &Value) -> Option<Field> {
        let (mut there, mut here) = (document, used);
        let mut found = Vec::new();
        for step in &self.0 {
            let step = match step {
                Step::Name(name) => {
                    match (there.get(name), here.get(name)) {
                        (Some(known), Some(value)) => (there, here) = (known, value),
                        // What it should have is missing in both.
                        (None, None) if !found.is_empty() => break,
                        _ => return None,
                    }
                    Step::Name(name.clone())
                }
                Step::Index(index) => {
                    here = here.get(index)?;
                    let index = there.as_array()?.iter().position(|known| known == here)?;
                    there = &there[index];
                    Step::Index(index)
                }
            };
            found.push(step);
        }
        (there == here).then_some(Field(found))
    }

    /// The line of a YAML or JSON document that has the field, counted from 1; that of the nearest field
    /// around it if the document does not have it, and 0 if it cannot be found.
    pub fn line_in(&self, document: &str) -> u64 {
        let options = serde_saphyr::options! { with_snippet: false };
        let read: Result<Option<Node>, _> = serde_saphyr::from_str_with_options(document, options);
        let Ok(Some(mut node)) = read else { return 0 };
        let mut line = 0;
        for step in &self.0 {
            let next = match (node, step) {
                (Node::Map(fields), Step::Name(name)) => {
                    let mut fields = fields.into_iter();
                    let found = fields.find(|(key, _)| key.value == *name);
                    found.map(|(key, value)| (key.referenced.line(), value))
                }
                (Node::List(entries), Step::Index(index)) => {
                    let entry = entries.into_iter().nth(*index);
                    entry.map(|entry| (entry.referenced.line(), entry.value))
                }
                _ => None,
            };
            let Some(next) = next else { break };
            (line, node) = next;
        }
        line
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Name(name) if position == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A part of any document, with the positions of what it contains.
enum Node {
    Leaf,
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_none<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    entries.push(entry);
                }
                Ok(Node::List(entries))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Node::Map(fields))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_found_in_yaml_and_json() {
        let yaml = "\
# comment
name: a
resources:

  memoryMiB: 1
env: &e
  A.B: >-
    x
  1: 2
network: {mode: user,
  forwards: [
    {hostPort: 1, guestPort: 2},
    {hostPort: 0,
     guestPort: 2}]}
disks:
- name: d
  path: /x
  mountpoint: /a
-
  name: e
setup:
- ls
- *e
";
        for (field, line) in [
            (Field::new("name"), 2),
            (Field::new("resources"), 3),
            (Field::new("resources.memoryMiB"), 5),
            (Field::new("resources.cpuCount"), 3),
            (Field::new("env").name("A.B"), 7),
            (Field::new("env").name("1"), 9),
            (Field::new("network.mode"), 10),
            (Field::new("network.forwards").index(1), 13),
            (
                Field::new("network.forwards").index(1).name("guestPort"),
                14,
            ),
            (Field::new("disks").index(0).name("mountpoint"), 18),
            (Field::new("disks").index(1), 20),
            (Field::new("disks").index(1).name("path"), 20),
            (Field::new("disks").index(2), 15),
            (Field::new("setup").index(1), 23),
            (Field::new("profile"), 0),
        ] {
            assert_eq!(field.line_in(yaml), line, "{field}");
        }
        let json = "{\n\t\"name\": \"a\",\n\t\"env\": {\"\\u0041\\/\\\"\": \"\\ud83d\\ude00\",\n\t\"B\": \"\"},\n\
                    \"disks\": [\n{},\n{\"mode\":\n\"ro\"}]}";
        for (field, line) in [
            (Field::new("name"), 2),
            (Field::new("env").name("A/\""), 3),
            (Field::new("env").name("B"), 4),
            (Field::new("disks").index(1), 7),
            (Field::new("disks").index(1).name("mode"), 7),
        ] {
            assert_eq!(field.line_in(json), line, "{field}");
        }
        for text in ["", "[", "a: b: c"] {
            assert_eq!(Field::new("a").line_in(text), 0, "{text}");
        }
        let field = Field::new("network.forwards").index(1).name("hostPort");
        assert_eq!(field.to_string(), "network.forwards[1].hostPort");
    }

    #[test]
    fn a_value_is_that_of_the_document_unless_it_was_replaced() {
        let document = json!({
            "profile": "tiny",
            "disks": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        });
        let used = json!({
            "profile": "huge",
            "shell": "sh",
            "disks": [{"name": "b"}, {"name": "c"}, {"name": "a", "mode": "rw"}],
        });
        let disk = |index| Field::new("disks").index(index);
        for (field, found) in [
            (Field::new("profile"), None),
            (Field::new("shell"), None),
            (disk(0), Some(disk(1))),
            (disk(1).name("name"), Some(disk(2).name("name"))),
            (disk(1).name("path"), Some(disk(2))),
            (disk(2).name("name"), None),
            (Field::new("image"), None),
        ] {
            assert_eq!(field.find_in(&document, &used), found, "{field}");
        }
    }
}
