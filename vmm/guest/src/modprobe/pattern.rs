//! Shell patterns as in `modules.alias`: `*`, `?` and `[…]`.

/// Whether the whole `name`, in which `-` is `_`, matches. Outside brackets `-` in the pattern is
/// `_`, too.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut position) = (0, 0);
    // Where to continue if the rest does not match: after the last `*`, one byte later in the name.
    let mut retry = None;
    while position < name.len() || at < pattern.len() {
        if pattern.get(at) == Some(&b'*') {
            retry = Some((at, position + 1));
            at += 1;
            continue;
        }
        let step = name
            .get(position)
            .and_then(|&byte| match_one(&pattern[at..], byte));
        if let Some(length) = step {
            (at, position) = (at + length, position + 1);
            continue;
        }
        match retry {
            Some((star, next)) if next <= name.len() => {
                retry = Some((star, next + 1));
                (at, position) = (star + 1, next);
            }
            _ => return false,
        }
    }
    true
}

/// The length of the pattern's first element, if it matches the byte.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => {
            let (rest, negated) = match rest {
                [b'!' | b'^', rest @ ..] => (rest, true),
                rest => (rest, false),
            };
            // A bracket that comes first is an element of the set.
            let end = 1 + rest.get(1..)?.iter().position(|&byte| byte == b']')?;
            let is_in = is_in_set(&rest[..end], byte);
            (is_in != negated).then_some(pattern.len() - rest.len() + end + 1)
        }
        [b'-', ..] => (byte == b'_').then_some(1),
        [first, ..] => (*first == byte).then_some(1),
        [] => None,
    }
}

fn is_in_set(mut set: &[u8], byte: u8) -> bool {
    loop {
        set = match set {
            [low, b'-', high, rest @ ..] => {
                if (low..=high).contains(&&byte) {
                    return true;
                }
                rest
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return true;
                }
                rest
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_in_the_shell() {
        for (pattern, name) in [
            ("fs-overlay", "fs_overlay"),
            ("char-major-21-*", "char_major_21_"),
            ("char-major-21-*", "char_major_21_255"),
            ("*", ""),
            ("a*b*c", "a_x_b_y_b_c"),
            ("usb:v05ACp[0-9A-F]?*", "usb:v05ACpF2d"),
            ("x[!0-9]y", "xay"),
            ("x[a-c_]y", "x_y"),
            ("[]]", "]"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("fs-overlay", "fs_overlay2"),
            ("fs-overlay", "fs_overla"),
            ("char-major-21-*", "char_major_2"),
            ("a*b*c", "a_x_c_b"),
            ("x[!0-9]y", "x1y"),
            ("x[0-9", "x0"),
            ("?", ""),
            ("", "x"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_patterns_end(pattern in "[a*?\\[\\]!-]{0,12}", name in "[ab_]{0,12}") {
            matches(&pattern, &name);
        }
    }
}
