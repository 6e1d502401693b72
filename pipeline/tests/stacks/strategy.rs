//! Random stacks of layers.
//!
//! proptest generates and shrinks a list of steps that do not refer to the tree
//! by name: "replace the third existing name". [`stack`] turns them into members
//! one by one; the [`Model`] supplies the existing names. Invalid members are
//! dropped, except that a rare one is kept as the last member of the image.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::member::{
    Body, Compression, EndOfArchive, Form, Kind, Layer, Member, Meta, Sparse, Stack,
};
use crate::model::Model;
use crate::portable;

/// Which members and encodings the stacks use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scope {
    /// Everything that a tar can encode.
    Full,
    /// What tools that archive a directory write and umoci unpacks the same way
    /// (see [`portable`]).
    Portable,
}

/// Maximum length of a generated name in bytes: `PATH_MAX` less room for the
/// mount point below which the tree is listed.
const LONGEST: usize = 3500;

#[derive(Debug, Clone)]
enum Step {
    Put(PathChoice, Kind, Meta),
    Link(PathChoice, Index),
    Whiteout(Index),
    WhiteoutMissing(PathChoice),
    Opaque(Index),
    /// Below a symbolic link: a whiteout, an opaque mark, a hard link to a file there.
    WhiteoutThrough(Index, Vec<u8>),
    OpaqueThrough(Index),
    LinkThrough(PathChoice, Index, Vec<u8>),
    /// A file in a directory that is named like a whiteout of this name.
    BelowWhiteout(Index),
    /// Many names in one directory, some of them not UTF-8.
    ManyNames(Index, u8),
    Aufs,
    /// A member for the root directory.
    Root(Meta),
}

#[derive(Debug, Clone)]
enum PathChoice {
    Existing(Index),
    Under(Index, Vec<u8>),
    /// Below a symbolic link.
    Through(Index, Vec<u8>),
    Fresh(Vec<Vec<u8>>),
}

#[derive(Debug, Clone)]
struct Spelling {
    prefix: &'static [u8],
    doubled: bool,
    slash: bool,
    form: Form,
}

pub fn stack(scope: Scope) -> impl Strategy<Value = Stack> {
    let step = (step(), spelling(), weighted(0.01, Just(())));
    let layer = (
        vec(step, 1..16),
        select(vec![
            Compression::Plain,
            Compression::Gzip,
            Compression::GzipMembers,
            Compression::Zstd,
            Compression::ZstdFrames,
        ]),
        select(vec![
            EndOfArchive::Marker,
            EndOfArchive::Padded,
            EndOfArchive::Missing,
        ]),
        prop::bool::weighted(0.1),
    );
    // Small file systems are fast to build; the default size is rarely used.
    let size = prop_oneof![60 => (16u64..24).prop_map(Some), 1 => Just(None)];
    (vec(layer, 1..7), size).prop_map(move |(layers, size_mib)| {
        let mut model = Model::default();
        let mut stack = Stack {
            layers: Vec::new(),
            size_mib,
        };
        let mut refused = false;
        for (steps, compression, end_of_archive, global_header) in layers {
            model.begin_layer();
            let mut layer = Layer {
                members: Vec::new(),
                compression,
                end_of_archive,
                global_header,
            };
            if scope == Scope::Portable {
                layer.compression = portable::compression(compression);
                layer.global_header = false;
            }
            for (step, spelling, keep) in steps {
                for member in members(step, &spelling, &model) {
                    let member = match scope {
                        Scope::Full => Some(member),
                        Scope::Portable => portable::member(member, &model, &layer),
                    };
                    let Some(member) = member else { continue };
                    let mut next = model.clone();
                    let possible = member.name.len() < LONGEST && next.apply(&member).is_ok();
                    let kept = scope == Scope::Full && keep.is_some();
                    if !refused && (possible || kept) {
                        layer.members.push(member);
                        refused = !possible;
                        model = next;
                    }
                }
            }
            stack.layers.push(layer);
        }
        stack
    })
}

fn members(step: Step, spelling: &Spelling, model: &Model) -> Vec<Member> {
    let paths = model.paths();
    let pick = |index: &Index, directory: Option<bool>| -> Vec<u8> {
        let wanted = |(_, is): &&(Vec<u8>, bool)| directory.is_none_or(|wanted| wanted == *is);
        let names: Vec<&Vec<u8>> = paths.iter().filter(wanted).map(|(name, _)| name).collect();
        match names.is_empty() {
            true => b"a".to_vec(),
            false => names[index.index(names.len())].clone(),
        }
    };
    let links = model.links();
    let link = |index: &Index| match links.is_empty() {
        true => b"a".to_vec(),
        false => links[index.index(links.len())].clone(),
    };
    let under = |directory: &[u8], name: &[u8]| match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    };
    let resolve = |path: &PathChoice| match path {
        PathChoice::Existing(index) => pick(index, None),
        PathChoice::Under(index, name) => under(&pick(index, Some(true)), name),
        PathChoice::Through(index, name) => under(&link(index), name),
        PathChoice::Fresh(parts) => parts.join(&b'/'),
    };
    let hidden = |path: &[u8]| match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => under(&path[..slash], &[b".wh.", &path[slash + 1..]].concat()),
        None => [b".wh.", path].concat(),
    };
    let member = |name: Vec<u8>, kind: Kind, meta: Meta| Member {
        name: spelling.of(name, &kind),
        kind,
        meta,
        form: spelling.form,
    };
    let empty_file = |name: Vec<u8>| member(name, Kind::File(Body::default()), Meta::default());
    match step {
        Step::Put(path, mut kind, meta) => {
            // Linux does not support these attributes on other types.
            let meta = without_impossible_xattrs(meta, &kind);
            if let (Kind::File(body), Sparse::Dense) = (&mut kind, spelling.form.sparse) {
                // All bytes are stored, so the size must be bounded.
                body.size = body.size.min(300_000);
                body.runs
                    .retain(|(at, data)| at + data.len() as u64 <= body.size);
            }
            vec![member(resolve(&path), kind, meta)]
        }
        Step::Link(path, index) => {
            let target = pick(&index, Some(false));
            let target = [spelling.prefix, &target].concat();
            vec![member(
                resolve(&path),
                Kind::Hardlink(target),
                Meta::default(),
            )]
        }
        Step::Whiteout(index) => vec![empty_file(hidden(&pick(&index, None)))],
        Step::WhiteoutMissing(path) => vec![empty_file(hidden(&resolve(&path)))],
        Step::Opaque(index) => vec![empty_file(under(
            &pick(&index, Some(true)),
            b".wh..wh..opq",
        ))],
        Step::WhiteoutThrough(index, name) => {
            vec![empty_file(hidden(&under(&link(&index), &name)))]
        }
        Step::OpaqueThrough(index) => vec![empty_file(under(&link(&index), b".wh..wh..opq"))],
        Step::LinkThrough(path, index, name) => {
            let target = Kind::Hardlink(under(&link(&index), &name));
            vec![member(resolve(&path), target, Meta::default())]
        }
        Step::BelowWhiteout(index) => {
            let directory = hidden(&pick(&index, None));
            vec![empty_file(under(&directory, b"f"))]
        }
        Step::ManyNames(index, seed) => {
            let directory = pick(&index, Some(true));
            let one = |number: u8| {
                let mut name = format!("{number}{}", "n".repeat(180)).into_bytes();
                if number % 8 == seed {
                    name[100] = 0xff;
                }
                empty_file(under(&directory, &name))
            };
            (0..60).map(one).collect()
        }
        Step::Aufs => vec![
            empty_file(b".wh..wh.plnk/12.34".to_vec()),
            empty_file(b".wh..wh.aufs".to_vec()),
            member(
                b"a".to_vec(),
                Kind::Hardlink(b".wh..wh.plnk/12.34".to_vec()),
                Meta::default(),
            ),
        ],
        Step::Root(meta) => vec![member(Vec::new(), Kind::Directory, meta)],
    }
}

impl Spelling {
    /// Spells a name in one of several equivalent ways.
    fn of(&self, name: Vec<u8>, kind: &Kind) -> Vec<u8> {
        let mut spelled = self.prefix.to_vec();
        for byte in &name {
            spelled.push(*byte);
            if *byte == b'/' && self.doubled {
                spelled.extend(b"./");
            }
        }
        if spelled.is_empty() {
            spelled = b"./".to_vec();
        }
        if *kind == Kind::Directory && self.slash && !spelled.ends_with(b"/") {
            spelled.push(b'/');
        }
        spelled
    }
}

fn without_impossible_xattrs(mut meta: Meta, kind: &Kind) -> Meta {
    meta.xattrs.retain(|(name, _)| match kind {
        Kind::File(_) => true,
        Kind::Directory => name != b"security.capability",
        _ => name.starts_with(b"trusted."),
    });
    meta
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (path_choice(), kind(), meta()).prop_map(|(p, k, m)| Step::Put(p, k, m)),
        3 => (path_choice(), any::<Index>()).prop_map(|(p, i)| Step::Link(p, i)),
        2 => any::<Index>().prop_map(Step::Whiteout),
        1 => path_choice().prop_map(Step::WhiteoutMissing),
        1 => any::<Index>().prop_map(Step::Opaque),
        1 => (any::<Index>(), component()).prop_map(|(i, c)| Step::WhiteoutThrough(i, c)),
        1 => any::<Index>().prop_map(Step::OpaqueThrough),
        1 => (path_choice(), any::<Index>(), component())
            .prop_map(|(p, i, c)| Step::LinkThrough(p, i, c)),
        1 => any::<Index>().prop_map(Step::BelowWhiteout),
        1 => meta().prop_map(Step::Root),
        // Rare, because ManyNames makes a case slow.
        1 => (prop::bool::weighted(0.1), any::<Index>(), 0u8..16).prop_map(|(crowd, i, seed)| {
            if crowd { Step::ManyNames(i, seed) } else { Step::Aufs }
        }),
    ]
}

fn path_choice() -> impl Strategy<Value = PathChoice> {
    let long_way = (vec(component(), 20..60), vec(component(), 1..3));
    prop_oneof![
        40 => any::<Index>().prop_map(PathChoice::Existing),
        40 => (any::<Index>(), component()).prop_map(|(i, c)| PathChoice::Under(i, c)),
        30 => (any::<Index>(), component()).prop_map(|(i, c)| PathChoice::Through(i, c)),
        40 => vec(component(), 1..4).prop_map(PathChoice::Fresh),
        1 => long_way.prop_map(|(way, end)| PathChoice::Fresh([way, end].concat())),
    ]
}

fn component() -> impl Strategy<Value = Vec<u8>> {
    let odd: Vec<Vec<u8>> = vec![
        vec![b'L'; 255],
        vec![b'm'; 120],
        [&[0xff; 100][..], b"\xfe", &[0x80; 80]].concat(),
        b"\xff\xfe".to_vec(),
        b"\xc3\xa9".to_vec(),
        b"sp ace\"\\x2d\n'".to_vec(),
        b".wh".to_vec(),
        b"...".to_vec(),
        b"-rf".to_vec(),
        b"lost+found".to_vec(),
        (1..32).chain(127..=255).collect(),
    ];
    prop_oneof![
        8 => select(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec(), b"d".to_vec()]),
        2 => select(odd),
    ]
}

fn spelling() -> impl Strategy<Value = Spelling> {
    let form = (
        any::<(bool, bool)>(),
        prop::bool::weighted(0.1),
        select(vec![
            Sparse::Dense,
            Sparse::OldGnu,
            Sparse::Pax00,
            Sparse::Pax01,
            Sparse::Pax10,
        ]),
    );
    let prefix = select(vec![&b""[..], b"", b"./", b"/", b".//"]);
    (prefix, prop::bool::weighted(0.05), any::<bool>(), form).prop_map(
        |(prefix, doubled, slash, ((gnu, ustar), old_directory, sparse))| Spelling {
            prefix,
            doubled,
            slash,
            form: Form {
                gnu,
                prefix: ustar,
                old_directory,
                sparse,
            },
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let device = (
        select(vec![0u32, 1, 8, 255, 256, 4095]),
        select(vec![0u32, 3, 255, 256, 65_536, 1_048_575]),
    );
    prop_oneof![
        6 => body().prop_map(Kind::File),
        6 => Just(Kind::Directory),
        4 => target().prop_map(Kind::Symlink),
        1 => device.clone().prop_map(|(major, minor)| Kind::Char(major, minor)),
        1 => device.prop_map(|(major, minor)| Kind::Block(major, minor)),
        1 => Just(Kind::Fifo),
    ]
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    let parts = vec(
        prop_oneof![4 => component(), 1 => Just(b"..".to_vec()), 1 => Just(b".".to_vec())],
        1..4,
    );
    let lengths = select(vec![58usize, 59, 60, 61, 100, 101, 255, 1000, 4095]);
    prop_oneof![
        8 => (parts, prop::bool::weighted(0.3)).prop_map(|(parts, absolute)| {
            [if absolute { &b"/"[..] } else { b"" }, &parts.join(&b'/')].concat()
        }),
        1 => (lengths, select(vec![b't', 0xff])).prop_map(|(length, byte)| vec![byte; length]),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let hole = prop_oneof![
        3 => Just(0u64),
        2 => select(vec![1u64, 511, 512, 4095, 4096, 4097, 100_000]),
        // Holes of up to a terabyte.
        1 => select(vec![1u64 << 31, (1 << 33) + 5, 1 << 40]),
    ];
    let length = prop_oneof![
        4 => select(vec![1usize, 2, 511, 512, 513, 4095, 4096, 4097]),
        1 => 1usize..20_000,
    ];
    let byte = prop_oneof![5 => 1u8..=255, 1 => Just(0u8)];
    let few = vec((hole.clone(), length, byte.clone()), 0..4);
    // More runs than fit into an old GNU header.
    let many = vec((select(vec![1u64, 4096, 5000]), 1usize..3, byte), 4..60);
    let runs = prop_oneof![8 => few, 1 => many];
    (runs, hole).prop_map(|(runs, end)| {
        let mut body = Body::default();
        for (hole, length, first) in runs {
            let at = body.size + hole;
            // The bytes vary with their position, unless all are zero.
            let step = u8::from(first != 0);
            let bytes = (0..length).map(|i| first.wrapping_add((i / 7) as u8 * step));
            body.runs.push((at, bytes.collect()));
            body.size = at + length as u64;
        }
        body.size += end;
        body
    })
}

fn meta() -> impl Strategy<Value = Meta> {
    let id = || {
        select(vec![
            0u32,
            0,
            0,
            1000,
            65_535,
            65_536,
            0o7_777_777,
            0o10_000_000,
            u32::MAX - 1,
        ])
    };
    let seconds = prop_oneof![
        4 => 0i64..(1 << 31),
        2 => select(vec![
            -1, -2, -(1i64 << 31), 1 << 31, (1 << 32) - 1, 1 << 33,
            (1 << 34) - (1 << 31) - 1,
        ]),
        1 => select(vec![
            -(1i64 << 31) - 1, (1 << 34) - (1 << 31), 1 << 40, -(1 << 40), i64::MAX,
        ]),
    ];
    let nanos = prop_oneof![3 => Just(0u32), 1 => 1u32..1_000_000_000];
    let mode = prop_oneof![
        2 => select(vec![0o644u16, 0o755, 0o4755, 0o1777, 0]),
        1 => 0u16..=0o7777,
    ];
    let xattrs = prop_oneof![3 => Just(Vec::new()), 1 => vec(xattr(), 1..4)];
    (mode, id(), id(), (seconds, nanos), xattrs).prop_map(|(mode, uid, gid, mtime, mut xattrs)| {
        xattrs.sort();
        xattrs.dedup_by(|one, other| one.0 == other.0);
        Meta {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        }
    })
}

fn xattr() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let capability = |version: u8, length: usize| {
        let mut value = vec![1, 0, 0, version, 0, 32, 0, 0];
        value.resize(length, 0);
        (b"security.capability".to_vec(), value)
    };
    let names = select(vec![
        "user.a".to_owned(),
        "user.b\n=".to_owned(),
        format!("user.{}", "n".repeat(250)),
        "trusted.t".to_owned(),
        "security.selinux".to_owned(),
        "com.apple.quarantine".to_owned(),
    ]);
    let values = prop_oneof![
        4 => vec(any::<u8>(), 0..20),
        1 => vec(any::<u8>(), 100..900),
    ];
    prop_oneof![
        5 => (names, values).prop_map(|(name, value)| (name.into_bytes(), value)),
        1 => select(vec![capability(2, 20), capability(3, 24)]),
    ]
}
