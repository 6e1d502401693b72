//! Links on the way to a member.

use super::*;

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

/// As podman, which so treats every link of a lower layer; umoci refuses these layers.
#[test]
fn a_link_to_a_file_is_replaced_and_the_file_is_kept() {
    let shell: Members<'_> = &[('f', "bin/busybox", "333"), ('l', "bin/sh", "busybox")];
    let cases: &[(&[Members<'_>], &[&str])] = &[
        (
            &[shell, &[('f', "bin/sh/x", "1")]],
            &[
                "bin/ 755",
                "bin/busybox = 3 of 0",
                "bin/sh/ 755",
                "bin/sh/x = 1 of 1",
            ],
        ),
        (
            &[shell, &[('d', "bin/sh/x", "")]],
            &[
                "bin/ 755",
                "bin/busybox = 3 of 0",
                "bin/sh/ 755",
                "bin/sh/x/ 700",
            ],
        ),
        (
            &[shell, &[('h', "bin/sh/x", "bin/busybox")]],
            &[
                "bin/ 755",
                "bin/busybox = 3 of 0",
                "bin/sh/ 755",
                "bin/sh/x ~ bin/busybox",
            ],
        ),
        // Within a layer too, as a file in the place of a directory.
        (
            &[&[shell[0], shell[1], ('f', "bin/sh/x", "1")]],
            &[
                "bin/ 755",
                "bin/busybox = 3 of 0",
                "bin/sh/ 755",
                "bin/sh/x = 1 of 0",
            ],
        ),
        // Chains, relative and absolute; a link below a link to a directory; a link through a file.
        (
            &[
                &[('f', "b/f", "1"), ('l', "b/m", "/b/f"), ('l', "b/l", "m")],
                &[('f', "b/l/x/y", "22")],
            ],
            &[
                "b/ 755",
                "b/f = 1 of 0",
                "b/l/ 755",
                "b/l/x/ 755",
                "b/l/x/y = 2 of 1",
                "b/m -> /b/f",
            ],
        ),
        (
            &[
                &[('f', "b/f", "1"), ('l', "b/l", "f"), ('l', "c", "b")],
                &[('f', "c/l/x", "22")],
            ],
            &[
                "b/ 755",
                "b/f = 1 of 0",
                "b/l/ 755",
                "b/l/x = 2 of 1",
                "c -> b",
            ],
        ),
        (
            &[
                &[('f', "b", "1"), ('l', "l", "b/c/d")],
                &[('f', "l/x", "22")],
            ],
            &["b = 1 of 0", "l/ 755", "l/x = 2 of 1"],
        ),
        // Whiteouts hide nothing there, and create nothing.
        (
            &[
                &[('f', "b", "1"), ('l', "l", "b")],
                &[('f', "l/.wh.x", ""), ('f', "l/.wh..wh..opq", "")],
            ],
            &["b = 1 of 0", "l -> b"],
        ),
        // Loops of a lower layer.
        (
            &[&[('l', "a", "a")], &[('f', "a/x", "1"), ('f', "a/y", "22")]],
            &["a/ 755", "a/x = 1 of 1", "a/y = 2 of 1"],
        ),
        (
            &[
                &[('l', "a", "b"), ('l', "b", "a")],
                &[('f', "a/.wh.x", ""), ('d', "b/d", "")],
            ],
            &["a -> b", "b/ 755", "b/d/ 700"],
        ),
    ];
    for (layers, expected) in cases {
        assert_eq!(merged(layers), *expected, "{layers:?}");
    }
    // A hard link's target is not created.
    assert_eq!(
        merge(&[shell, &[('h', "h", "bin/sh/x")]]).unwrap_err(),
        MergeProblem::MissingTarget("bin/sh/x".into())
    );
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
