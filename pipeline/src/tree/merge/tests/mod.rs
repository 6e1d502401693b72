mod limits;
mod links;
mod model;

use std::collections::BTreeMap;

use super::*;
use crate::tar::entry::{Attributes, Content};

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

/// As mknod(2), and so umoci and podman.
#[test]
fn the_number_of_a_device_is_reduced_to_12_and_20_bits() {
    use crate::tar::entry::Device;
    let device = |major, minor| Device { major, minor };
    let mut merger = Merger::new();
    merger.begin_layer(0, "");
    let cases = [
        (device(4095, (1 << 20) - 1), device(4095, (1 << 20) - 1)),
        (device(4096 + 7, (1 << 20) + 9), device(7, 9)),
        (device(u32::MAX, u32::MAX), device(4095, (1 << 20) - 1)),
    ];
    for (number, (given, _)) in cases.iter().enumerate() {
        let kinds = [
            EntryKind::CharDevice(*given),
            EntryKind::BlockDevice(*given),
        ];
        for (name, kind) in ["c", "b"].iter().zip(kinds) {
            let mut entry = member('f', &format!("{name}{number}"), "");
            entry.kind = kind;
            merger.add(entry).unwrap();
        }
    }
    let tree = merger.finish();
    for (number, (_, expected)) in cases.into_iter().enumerate() {
        let kind = |name: &str| {
            let edge = tree.lookup(ROOT, format!("{name}{number}").as_bytes());
            tree.inode(edge.unwrap().inode).kind.clone()
        };
        assert_eq!(kind("c"), InodeKind::CharDevice(expected));
        assert_eq!(kind("b"), InodeKind::BlockDevice(expected));
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
