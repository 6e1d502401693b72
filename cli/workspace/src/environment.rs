//! The environment of a command in a guest, by the rules of container engines.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// `PATH` if nothing sets it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `PATH` and `HOSTNAME`, overridden by the image's variables, overridden by `overrides`. An entry of
/// the image without `=` is ignored: Docker passes it on as it is, where no program finds a value.
pub fn environment<'a>(
    image: &'a [String],
    overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
    hostname: &str,
) -> Vec<(String, String)> {
    let mut environment = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
    ];
    let image = image.iter().filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        (!name.is_empty()).then_some((name, value))
    });
    // An image may have many thousands of them.
    let mut positions: HashMap<&str, usize> = HashMap::from([("PATH", 0), ("HOSTNAME", 1)]);
    for (name, value) in image.chain(overrides) {
        match positions.entry(name) {
            Entry::Occupied(known) => value.clone_into(&mut environment[*known.get()].1),
            Entry::Vacant(new) => {
                new.insert(environment.len());
                environment.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_variables_take_linear_time() {
        let image: Vec<String> = (0..400_000).map(|n| format!("V{n}=x")).collect();
        let begun = std::time::Instant::now();
        assert_eq!(environment(&image, [], "box").len(), 400_002);
        // Quadratic time would be minutes.
        assert!(begun.elapsed().as_secs() < 20);
    }

    #[test]
    fn flags_override_the_image_and_the_image_overrides_defaults() {
        let image = ["A=1", "PATH=/opt/bin", "B=", "broken", "=x", "A=2"].map(str::to_owned);
        let overrides = [("B", "flag=yes"), ("C", "3")];
        let expected = [
            ("PATH", "/opt/bin"),
            ("HOSTNAME", "box"),
            ("A", "2"),
            ("B", "flag=yes"),
            ("C", "3"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment(&image, overrides, "box"), expected);
        assert_eq!(environment(&[], [], "box")[0].1, DEFAULT_PATH);
    }
}
