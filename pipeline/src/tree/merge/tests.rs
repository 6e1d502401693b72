use super::*;
use crate::tar::entry::{Attributes, Content};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A member: `d` directory, `f` file, `l` symlink, `h` hard link; a file's
/// size identifies it.
fn member(kind: char, path: &str, detail: &str) -> Entry {
    let kind = match kind {
        'd' => EntryKind::Directory,
        'f' => EntryKind::File(Content::dense(detail.len() as u64, 0)),
        'l' => EntryKind::Symlink {
            target: detail.into(),
        },
        'h' => EntryKind::Hardlink {
            target: detail.into(),
        },
        other => panic!("{other}"),
    };
    Entry {
        path: path.into(),
        kind,
        attributes: Attributes {
            mode: 0o700,
            ..Attributes::default()
        },
    }
}

/// A layer: the arguments of [`member`] for each of its members.
type Members<'a> = &'a [(char, &'a str, &'a str)];

fn merge(layers: &[Members<'_>]) -> Result<Tree, MergeProblem> {
    let mut merger = Merger::new();
    for (number, layer) in layers.iter().enumerate() {
        merger.begin_layer(number, "sha256:x");
        for (kind, path, detail) in *layer {
            let added = merger.add(member(*kind, path, detail));
            added.map_err(|error| error.problem)?;
        }
    }
    Ok(merger.finish())
}

/// The tree as lines: `path mode` with `/` for a directory, `-> target` for a
/// symlink, `= bytes` for a file, `~ other` for a later name of the same inode.
fn lines(tree: &Tree) -> Vec<String> {
    fn below(
        tree: &Tree,
        id: InodeId,
        at: &str,
        seen: &mut BTreeMap<InodeId, String>,
        out: &mut Vec<String>,
    ) {
        for (name, edge) in tree.names(id) {
            let path = format!("{at}{}", String::from_utf8_lossy(name));
            let inode = tree.inode(edge.inode);
            let mode = inode.attributes.mode;
            if let Some(first) = seen.get(&edge.inode) {
                out.push(format!("{path} ~ {first}"));
                continue;
            }
            seen.insert(edge.inode, path.clone());
            match &inode.kind {
                InodeKind::Directory(_) => {
                    out.push(format!("{path}/ {mode:o}"));
                    below(tree, edge.inode, &format!("{path}/"), seen, out);
                }
                InodeKind::File { layer, content } => {
                    out.push(format!("{path} = {} of {layer}", content.size));
                }
                InodeKind::Symlink { target } => {
                    out.push(format!("{path} -> {}", String::from_utf8_lossy(target)));
                }
                other => out.push(format!("{path} {other:?}")),
            }
        }
    }
    let mut out = Vec::new();
    below(tree, ROOT, "", &mut BTreeMap::new(), &mut out);
    out
}

fn merged(layers: &[Members<'_>]) -> Vec<String> {
    lines(&merge(layers).unwrap())
}

#[test]
fn a_whiteout_hides_lower_layers_and_not_its_own() {
    let base: &[(char, &str, &str)] = &[('d', "a", ""), ('f', "a/old", "1"), ('f', "gone", "")];
    for upper in [
        &[
            ('f', ".wh.gone", ""),
            ('d', "a", ""),
            ('f', "a/.wh..wh..opq", ""),
            ('f', "a/new", "22"),
        ][..],
        &[
            ('f', "a/new", "22"),
            ('f', "a/.wh..wh..opq", ""),
            ('d', "a", ""),
            ('f', ".wh.gone", ""),
        ],
        &[
            ('f', ".wh.gone", ""),
            ('d', "a", ""),
            ('f', "a/new", "22"),
            ('f', ".wh.a", ""),
        ],
    ] {
        assert_eq!(merged(&[base, upper]), ["a/ 700", "a/new = 2 of 1"]);
    }
    // The type of a whiteout does not matter.
    let shipped_as_link = [('h', ".wh.gone", "a/old"), ('f', ".wh.a", "")];
    assert!(merged(&[base, &shipped_as_link]).is_empty());
    // The directory and a name in it, and names that are not there.
    assert!(
        merged(&[
            base,
            &[
                ('f', ".wh.a", ""),
                ('f', "a/.wh.old", ""),
                ('f', ".wh.gone", ""),
                ('f', "x/.wh.y", "")
            ]
        ])
        .is_empty()
    );
}

#[test]
fn an_opaque_marker_clears_all_lower_layers() {
    assert_eq!(
        merged(&[
            &[('f', "d/s/1", "")],
            &[('f', "d/s/2", "")],
            &[('f', "d/.wh..wh..opq", ""), ('f', "d/s/3", "")],
        ]),
        ["d/ 755", "d/s/ 755", "d/s/3 = 0 of 2"]
    );
}

#[test]
fn types_change_and_directories_are_merged() {
    assert_eq!(
        merged(&[
            &[
                ('d', "x", ""),
                ('f', "x/in", ""),
                ('f', "y", ""),
                ('l', "z", "x"),
                ('d', "same", ""),
                ('f', "same/in", "")
            ],
            &[
                ('f', "x", "1"),
                ('d', "y", ""),
                ('d', "z", ""),
                ('f', "z/in", ""),
                ('d', "same", "")
            ],
        ]),
        [
            "same/ 700",
            "same/in = 0 of 0",
            "x = 1 of 1",
            "y/ 700",
            "z/ 700",
            "z/in = 0 of 1"
        ]
    );
    // A file in the place of a parent directory is replaced, even within a layer.
    assert_eq!(
        merged(&[&[('f', "a/b", ""), ('f', "a/b/c", "1")]]),
        ["a/ 755", "a/b/ 755", "a/b/c = 1 of 0"]
    );
}

#[test]
fn names_are_relative_to_the_root_in_every_form() {
    assert_eq!(
        merged(&[&[
            ('d', "./", ""),
            ('d', "/", ""),
            ('f', "/a", ""),
            ('f', "./b", "1"),
            ('f', "c//./d", "22"),
            ('f', "x\\2d", "")
        ]]),
        [
            "a = 0 of 0",
            "b = 1 of 0",
            "c/ 755",
            "c/d = 2 of 0",
            "x\\2d = 0 of 0"
        ]
    );
}

#[test]
fn hard_links_work_across_layers_and_break_when_a_name_is_replaced() {
    assert_eq!(
        merged(&[
            &[('f', "a", "1")],
            &[('h', "b", "/a"), ('h', "c", "./a")],
            &[('f', "a", "22")]
        ]),
        ["a = 2 of 2", "b = 1 of 0", "c ~ b"]
    );
    // Over a path that exists, over itself, and to a symbolic link.
    assert_eq!(
        merged(&[&[
            ('f', "a", "1"),
            ('f', "b/x", ""),
            ('h', "b", "a"),
            ('h', "a", "a"),
            ('l', "s", "a"),
            ('h', "t", "s")
        ]]),
        ["a = 1 of 0", "b ~ a", "s -> a", "t ~ s"]
    );
}

#[test]
fn symbolic_links_in_a_path_are_followed_inside_the_root() {
    assert_eq!(
        merged(&[
            &[
                ('d', "usr/lib", ""),
                ('l', "lib", "usr/lib"),
                ('l', "var/run", "/run"),
                ('l', "var/up", "../run")
            ],
            &[
                ('f', "lib/x", ""),
                ('f', "var/run/y", "1"),
                ('f', "var/up/z", "22"),
                ('f', "lib/.wh.none", ""),
                ('h', "h", "lib/x")
            ],
        ]),
        [
            "h = 0 of 1",
            "lib -> usr/lib",
            "run/ 755",
            "run/y = 1 of 1",
            "run/z = 2 of 1",
            "usr/ 755",
            "usr/lib/ 700",
            "usr/lib/x ~ h",
            "var/ 755",
            "var/run -> /run",
            "var/up -> ../run"
        ]
    );
    // A relative link of the same layer that stays inside.
    assert_eq!(
        merged(&[&[('l', "lib", "usr/lib"), ('f', "lib/x", "")]]).len(),
        4
    );
}

/// Every result is that of `umoci unpack` 0.4.7, and of `podman pull` 4.3.1 where that accepts it.
#[test]
fn links_on_the_way_are_resolved_as_linux_does_inside_the_root() {
    let cases: &[(&[Members<'_>], &[&str])] = &[
        // An absolute link of the same layer, to a directory with and without a member.
        (
            &[&[('l', "var/run", "/run"), ('f', "var/run/x", "1")]],
            &["run/ 755", "run/x = 1 of 0", "var/ 755", "var/run -> /run"],
        ),
        // `..` of the root is the root, in the same layer and across layers.
        (
            &[
                &[('l', "v/r", "../../../run"), ('f', "v/r/x", "1")],
                &[('f', "v/r/y", "22")],
            ],
            &[
                "run/ 755",
                "run/x = 1 of 0",
                "run/y = 2 of 1",
                "v/ 755",
                "v/r -> ../../../run",
            ],
        ),
        // Chains, relative and absolute, with a slash at the end.
        (
            &[&[
                ('d', "r", ""),
                ('l', "a", "./b/."),
                ('l', "b", "/c"),
                ('l', "c", "r/"),
                ('f', "a/x", "1"),
            ]],
            &["a -> ./b/.", "b -> /c", "c -> r/", "r/ 700", "r/x = 1 of 0"],
        ),
        // To the root itself.
        (
            &[&[
                ('l', "v", "/"),
                ('f', "v/x", ""),
                ('l', "w", ".."),
                ('f', "w/y", ""),
            ]],
            &["v -> /", "w -> ..", "x = 0 of 0", "y = 0 of 0"],
        ),
        // Components that are not there: created, unless `..` takes them back.
        (
            &[&[('l', "a", "p/../q/r"), ('f', "a/x", "1")]],
            &["a -> p/../q/r", "q/ 755", "q/r/ 755", "q/r/x = 1 of 0"],
        ),
        (
            &[&[('f', "p", ""), ('l', "a", "p/../q"), ('f', "a/x", "1")]],
            &["a -> p/../q", "p = 0 of 0", "q/ 755", "q/x = 1 of 0"],
        ),
        // Whiteouts and opaque marks through links; nothing is created for them.
        (
            &[
                &[
                    ('f', "run/x", ""),
                    ('f', "run/y", ""),
                    ('l', "var", "/run"),
                    ('l', "o", "gone"),
                ],
                &[
                    ('f', "var/.wh.x", ""),
                    ('f', "o/.wh.x", ""),
                    ('f', "o/.wh..wh..opq", ""),
                ],
            ],
            &["o -> gone", "run/ 755", "run/y = 0 of 0", "var -> /run"],
        ),
        (
            &[
                &[('f', "run/x", ""), ('l', "var", "run")],
                &[('f', "var/y", "1"), ('f', "var/.wh..wh..opq", "")],
            ],
            &["run/ 755", "run/y = 1 of 1", "var -> run"],
        ),
        // What a layer adds below a link belongs to the link's target.
        (
            &[
                &[('f', "r/k", ""), ('l', "a", "r")],
                &[('f', "a/x", "1"), ('f', ".wh.a", ""), ('f', ".wh.r", "")],
            ],
            &["r/ 755", "r/x = 1 of 1"],
        ),
        (
            &[
                &[('l', "usr/lib", "/lib"), ('d', "lib", "")],
                &[('f', "usr/lib/x", "1"), ('f', ".wh.usr", "")],
            ],
            &["lib/ 700", "lib/x = 1 of 1"],
        ),
        // The target of a hard link.
        (
            &[&[
                ('f', "run/x", "1"),
                ('l', "v", "../../run"),
                ('h', "h", "v/x"),
                ('h', "i", "no/../run/x"),
            ]],
            &[
                "h = 1 of 0",
                "i ~ h",
                "run/ 755",
                "run/x ~ h",
                "v -> ../../run",
            ],
        ),
        // `..` in a name takes back the name before it, not the target of a link.
        (
            &[&[('d', "p/q", ""), ('l', "a", "p/q"), ('f', "a/../x", "1")]],
            &["a -> p/q", "p/ 755", "p/q/ 700", "x = 1 of 0"],
        ),
    ];
    for (layers, expected) in cases {
        assert_eq!(merged(layers), *expected, "{layers:?}");
    }
}

#[test]
fn a_path_has_the_limits_of_linux() {
    let links = |count: usize| {
        let mut merger = Merger::new();
        merger.begin_layer(0, "");
        merger.add(member('d', "l0", "")).unwrap();
        for number in 1..=count {
            let target = format!("l{}", number - 1);
            merger
                .add(member('l', &format!("l{number}"), &target))
                .unwrap();
        }
        let added = merger.add(member('f', &format!("l{count}/x"), ""));
        added.map_err(|error| error.problem)
    };
    assert_eq!(links(40), Ok(()));
    assert_eq!(links(41), Err(MergeProblem::SymlinkLoop));
    // The same through links that multiply, and through a directory deeper than a path may be.
    let long = "d/".repeat(500);
    let deep = "d/".repeat(1000);
    let cases: &[(Members<'_>, MergeProblem)] = &[
        (
            &[('l', "a", "a"), ('f', "a/x", "")],
            MergeProblem::SymlinkLoop,
        ),
        (
            &[('l', "a", "a/b"), ('f', "a/x", "")],
            MergeProblem::SymlinkLoop,
        ),
        (
            &[('l', "a", "b"), ('l', "b", "a"), ('f', "a/.wh.x", "")],
            MergeProblem::SymlinkLoop,
        ),
        (
            &[('l', "a", "b"), ('l', "b", "a"), ('h', "h", "a/x")],
            MergeProblem::SymlinkLoop,
        ),
        (
            &[
                ('l', "l", &long),
                ('l', "l/l", &long),
                ('l', "l/l/l", &long),
                ('f', "l/l/l/x", ""),
            ],
            MergeProblem::SymlinkSteps,
        ),
        (
            &[
                ('l', "l", &deep),
                ('d', "l/y", ""),
                ('d', &format!("l/{deep}"), ""),
                ('l', "m", &deep),
                ('f', &format!("m/{deep}{deep}"), ""),
            ],
            MergeProblem::BadName,
        ),
        (
            &[('l', "a", &"x".repeat(256)), ('f', "a/y", "")],
            MergeProblem::BadName,
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(merge(&[layer]).unwrap_err(), *expected);
    }
}

#[test]
fn a_name_that_leaves_the_root_is_rejected() {
    let cases: &[(Members<'_>, MergeProblem)] = &[
        (&[('f', "../evil", "")], MergeProblem::Escape),
        (&[('f', "/../evil", "")], MergeProblem::Escape),
        (&[('f', "a/../../evil", "")], MergeProblem::Escape),
        (&[('d', "..", "")], MergeProblem::Escape),
        (&[('f', "../.wh.evil", "")], MergeProblem::Escape),
        (
            &[('h', "a", "../etc/shadow")],
            MergeProblem::LinkEscape("../etc/shadow".into()),
        ),
        (
            &[('h', "a", "/etc/shadow")],
            MergeProblem::MissingTarget("/etc/shadow".into()),
        ),
        (
            &[('l', "o", "/etc"), ('h', "a", "o/shadow")],
            MergeProblem::MissingTarget("o/shadow".into()),
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(merge(&[layer]).unwrap_err(), *expected, "{layer:?}");
    }
}

/// As umoci and podman: only the last component of a name makes a whiteout.
#[test]
fn a_directory_named_like_a_whiteout_is_ordinary_as_a_parent() {
    assert_eq!(
        merged(&[
            &[('f', "d/f", "")],
            &[
                ('d', ".wh.d", ""),
                ('f', ".wh.d/f", "1"),
                ('f', ".wh.d/g", "")
            ],
            &[('f', ".wh.d/.wh.g", "")],
        ]),
        [".wh.d/ 755", ".wh.d/f = 1 of 1"]
    );
    // And such a directory can be hidden.
    assert!(merged(&[&[('f', ".wh.d/f", "")], &[('f', ".wh..wh.d", "")]]).is_empty());
}

/// The content of files with several names, as AUFS stores it.
#[test]
fn hard_links_to_the_files_of_aufs_have_their_content() {
    let layer: Members<'_> = &[
        ('d', ".wh..wh.plnk", ""),
        ('f', ".wh..wh.plnk/12.34", "333"),
        ('h', "a", ".wh..wh.plnk/12.34"),
        ('h', "d/b", "/.wh..wh.plnk/12.34"),
        ('d', ".wh..wh.orph", ""),
        ('f', ".wh..wh.orph/x", ""),
    ];
    assert_eq!(merged(&[layer]), ["a = 3 of 0", "d/ 755", "d/b ~ a"]);
    assert_eq!(
        merge(&[&[('h', "a", ".wh..wh.plnk/12.34")]]).unwrap_err(),
        MergeProblem::MissingTarget(".wh..wh.plnk/12.34".into())
    );
    // Replacing one name leaves the other.
    assert_eq!(
        merged(&[layer, &[('f', "a", "1")]]),
        ["a = 1 of 1", "d/ 755", "d/b = 3 of 0"]
    );
}

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
        with("system.posix_acl_access", 9),
        Err(MergeProblem::Attributes)
    );
    assert_eq!(with(&format!("user.{}", "n".repeat(255)), 1), Ok(()));
    assert_eq!(
        with(&format!("user.{}", "n".repeat(256)), 1),
        Err(MergeProblem::Attributes)
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

#[test]
fn members_that_cannot_be_unpacked_are_rejected() {
    let long = "n".repeat(256);
    let cases: &[(Members<'_>, MergeProblem)] = &[
        (&[('f', ".wh.", "")], MergeProblem::BadWhiteout),
        (&[('f', ".wh...", "")], MergeProblem::BadWhiteout),
        (&[('f', "a/.wh..", "")], MergeProblem::BadWhiteout),
        (&[('f', "", "")], MergeProblem::Root),
        (&[('l', "./", "x")], MergeProblem::Root),
        (&[('f', &long, "")], MergeProblem::BadName),
        (&[('f', "a\0b", "")], MergeProblem::BadName),
        (&[('l', "a", "")], MergeProblem::BadTarget),
        (&[('h', "a", "b")], MergeProblem::MissingTarget("b".into())),
        (
            &[('d', "b", ""), ('h', "a", "b")],
            MergeProblem::DirectoryTarget("b".into()),
        ),
        (
            &[('l', "a", "b"), ('l', "b", "a"), ('f', "a/x", "")],
            MergeProblem::SymlinkLoop,
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(merge(&[layer]).unwrap_err(), *expected, "{layer:?}");
    }
}

#[test]
fn the_message_names_the_layer_and_the_member() {
    let mut merger = Merger::new();
    merger.begin_layer(0, "sha256:abc");
    let error = merger.add(member('f', "../evil", "")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer sha256:abc: cannot unpack \"../evil\": its name leaves the root directory"
    );
}

#[test]
fn in_a_tar_that_is_not_a_layer_whiteouts_are_ordinary_files() {
    let mut merger = Merger::without_whiteouts();
    merger.begin_layer(0, "tar");
    for path in ["a", ".wh.a", "d/.wh..wh..opq", ".wh..wh.plnk/1.2", ".wh."] {
        merger.add(member('f', path, "1")).unwrap();
    }
    assert_eq!(
        lines(&merger.finish()),
        [
            ".wh. = 1 of 0",
            ".wh..wh.plnk/ 755",
            ".wh..wh.plnk/1.2 = 1 of 0",
            ".wh.a = 1 of 0",
            "a = 1 of 0",
            "d/ 755",
            "d/.wh..wh..opq = 1 of 0",
        ]
    );
}

#[test]
fn aufs_files_are_dropped() {
    assert!(
        merged(&[&[
            ('f', ".wh..wh.aufs", ""),
            ('d', ".wh..wh.plnk", ""),
            ('f', ".wh..wh.plnk/1.2", ""),
            ('d', ".wh..wh.orph", "")
        ]])
        .is_empty()
    );
}

/// A model of the same rules: a flat map of whole paths, for layers without
/// symbolic links in paths. Slow but simple.
#[derive(Default)]
struct Model {
    /// Path to (type, id, last layer). Hard links have the same `id`.
    paths: BTreeMap<Vec<String>, (Node, usize, usize)>,
    next: usize,
}

#[derive(Clone, PartialEq, Debug)]
enum Node {
    Directory(u16),
    File(u64, usize),
}

impl Model {
    fn set(&mut self, path: &[String], node: Node, layer: usize) {
        self.next += 1;
        self.paths.insert(path.to_vec(), (node, self.next, layer));
    }

    fn parents(&mut self, path: &[String], layer: usize) {
        for length in 1..path.len() {
            let parent = &path[..length];
            match self.paths.get_mut(parent) {
                Some((Node::Directory(_), _, touched)) => *touched = layer,
                _ => self.set(parent, Node::Directory(0o755), layer),
            }
        }
    }

    fn drop_below(&mut self, path: &[String], keep_from: usize) {
        self.paths.retain(|other, (_, _, layer)| {
            !(other.len() > path.len() && other.starts_with(path)) || *layer >= keep_from
        });
    }

    fn add(&mut self, kind: u8, path: &[String], size: u64, layer: usize) {
        match kind {
            // whiteout
            0 => {
                let dead = self
                    .paths
                    .get(path)
                    .is_some_and(|(_, _, touched)| *touched < layer);
                self.drop_below(path, layer);
                if dead {
                    self.paths.remove(path);
                }
            }
            // opaque
            1 => self.drop_below(path, layer),
            // directory
            2 => {
                self.parents(path, layer);
                match self.paths.get_mut(path) {
                    Some((node @ Node::Directory(_), _, touched)) => {
                        *node = Node::Directory(0o700);
                        *touched = layer;
                    }
                    _ => self.set(path, Node::Directory(0o700), layer),
                }
            }
            // file
            _ => {
                self.parents(path, layer);
                self.drop_below(path, usize::MAX);
                self.set(path, Node::File(size, layer), layer);
            }
        }
    }

    /// False if the target is not a file; then the layer is invalid.
    fn link(&mut self, path: &[String], target: &[String], layer: usize) -> bool {
        let Some((node @ Node::File(..), id, _)) = self.paths.get(target).cloned() else {
            return false;
        };
        self.parents(path, layer);
        self.drop_below(path, usize::MAX);
        self.paths.insert(path.to_vec(), (node, id, layer));
        true
    }

    fn lines(&self) -> Vec<String> {
        let mut first: BTreeMap<usize, String> = BTreeMap::new();
        let mut out = Vec::new();
        for (path, (node, id, _)) in &self.paths {
            let path = path.join("/");
            match node {
                Node::Directory(mode) => out.push(format!("{path}/ {mode:o}")),
                Node::File(..) if first.contains_key(id) => {
                    out.push(format!("{path} ~ {}", first[id]));
                }
                Node::File(size, layer) => {
                    first.insert(*id, path.clone());
                    out.push(format!("{path} = {size} of {layer}"));
                }
            }
        }
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_stack_of_layers_is_merged_as_in_the_model(
        layers in proptest::collection::vec(
            proptest::collection::vec(
                (0u8..7, proptest::collection::vec("[ab]", 1..4), proptest::collection::vec("[ab]", 1..4), 0u64..5),
                0..8,
            ),
            1..5,
        ),
    ) {
        let mut merger = Merger::new();
        let mut model = Model::default();
        'layers: for (number, layer) in layers.iter().enumerate() {
            merger.begin_layer(number, "");
            for (kind, path, target, size) in layer {
                let joined = path.join("/");
                let (last, parents) = path.split_last().unwrap();
                let entry = match kind {
                    0 => member('f', &[parents, &[format!(".wh.{last}")]].concat().join("/"), ""),
                    1 => member('f', &format!("{joined}/.wh..wh..opq"), ""),
                    2 => member('d', &joined, ""),
                    6 => member('h', &joined, &target.join("/")),
                    _ => member('f', &joined, &"x".repeat(*size as usize)),
                };
                let added = merger.add(entry);
                if *kind != 6 {
                    prop_assert!(added.is_ok());
                    model.add(*kind, path, *size, number);
                } else if !model.link(path, target, number) {
                    prop_assert!(added.is_err());
                    break 'layers;
                } else {
                    prop_assert!(added.is_ok());
                }
            }
        }
        prop_assert_eq!(lines(&merger.finish()), model.lines());
    }
}
