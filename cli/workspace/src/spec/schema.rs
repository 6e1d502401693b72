//! The JSON Schema of a specification, for editors.

use schemars::Schema;

use super::Spec;

/// The schema of `microagent.yaml`, request JSON and manifests (JSON Schema 2020-12).
pub fn schema() -> Schema {
    schemars::schema_for!(Spec)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_schema_has_every_field_with_its_description() {
        let schema = schema().to_value();
        assert_eq!(schema["additionalProperties"], Value::Bool(false));
        let Value::Object(properties) = &schema["properties"] else {
            panic!("{schema}");
        };
        for field in [
            "name",
            "image",
            "imageCommand",
            "resources",
            "health",
            "mediation",
        ] {
            assert!(properties.contains_key(field), "{field}");
        }
        for (field, property) in properties {
            assert!(property["description"].is_string(), "{field}");
        }
        let resources = &schema["$defs"]["Resources"]["properties"];
        assert!(resources["memoryMiB"].is_object(), "{resources}");
    }
}
