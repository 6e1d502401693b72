//! What a layer can make the merge do.

use super::*;

#[test]
fn attributes_that_ext4_cannot_store_are_refused_before_they_take_memory() {
    let with = |name: &str, length: usize| {
        let mut merger = Merger::new();
        merger.begin_layer(0, "");
        let mut member = member('f', "a", "");
        member.attributes.xattrs = vec![crate::tar::entry::Xattr {
            name: name.into(),
            value: vec![1; length],
        }];
        merger.add(member).map_err(|error| error.problem)
    };
    assert_eq!(with("user.a", 4036), Ok(()));
    assert_eq!(with("user.a", 4037), Err(MergeProblem::Attributes));
    assert_eq!(with("user.a", 1 << 20), Err(MergeProblem::Attributes));
    assert_eq!(
        with("security.capability", 9),
        Err(MergeProblem::Attribute {
            name: "security.capability".into(),
            reason: "it is not a file capability of version 2 or 3"
        })
    );
    // What is dropped does not count.
    assert_eq!(with("com.apple.big", 1 << 20), Ok(()));
}

/// A small layer, uncompressed some MiB, once took gigabytes.
#[test]
fn the_memory_of_a_tree_is_bounded() {
    let limit = |one: &dyn Fn(usize) -> Entry| {
        let mut merger = Merger::new();
        merger.begin_layer(0, "");
        (0..).find_map(|number| Some((number, merger.add(one(number)).err()?.problem)))
    };
    // Directories without members: 2000 with each name.
    let deep = |number| member('f', &format!("{number}/{}x", "d/".repeat(2000)), "");
    assert_eq!(limit(&deep), Some((131, MergeProblem::TooManyBlocks)));
    // Attributes of just the size that ext4 takes.
    let attributes = |number: usize| {
        let mut member = member('f', "same", "");
        member.attributes.xattrs = vec![crate::tar::entry::Xattr {
            name: b"user.a".to_vec(),
            value: [&number.to_le_bytes()[..], &[0; 4000]].concat(),
        }];
        member
    };
    let Some((files, problem)) = limit(&attributes) else {
        panic!("unlimited");
    };
    assert_eq!(problem, MergeProblem::TooLarge);
    assert!((100_000..140_000).contains(&files), "{files}");
}

/// Each member of these layers once took time in proportion to all members before it.
#[test]
fn marks_and_whiteouts_that_are_repeated_take_linear_time() {
    let mut merger = Merger::new();
    for layer in 0..2 {
        merger.begin_layer(layer, "");
        for number in 0..50_000 {
            let path = format!("d/s{}/f{number}", number % 100);
            merger.add(member('f', &path, "")).unwrap();
            merger.add(member('f', "d/.wh..wh..opq", "")).unwrap();
            merger.add(member('f', ".wh..wh..opq", "")).unwrap();
            merger.add(member('f', ".wh.d", "")).unwrap();
        }
    }
    // Four members, of four components together, a hundred thousand times.
    let work = merger.work();
    assert!(work < 1_000_000, "{work}");
    let files = lines(&merger.finish());
    assert_eq!(
        files.iter().filter(|line| line.ends_with("of 1")).count(),
        50_000
    );
    assert_eq!(files.len(), 50_101);
}
