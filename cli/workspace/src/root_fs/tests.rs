use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use microagent_tests::tree;
use microagent_tree::{Entry, Kind, Policy, Sink, TreeError, Writer};
use microagent_vmm::virtio::block::Presence;
use proptest::prelude::*;
use tempfile::TempDir;

use super::blocks::BLOCK;
use super::*;

/// A file system with and one without checksums, made by mke2fs from a directory.
struct Made {
    directory: TempDir,
    tree: PathBuf,
}

impl Made {
    fn image(&self, checksums: bool) -> PathBuf {
        let name = if checksums {
            "checksums.img"
        } else {
            "plain.img"
        };
        self.directory.path().join(name)
    }
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        build(&tree);
        let made = Made { directory, tree };
        for (checksums, feature) in [(true, "metadata_csum"), (false, "^metadata_csum")] {
            let status = Command::new("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-O", feature, "-d"])
                .arg(&made.tree)
                .arg(made.image(checksums))
                .arg("64M")
                .status();
            assert!(status.unwrap().success());
        }
        made
    })
}

/// A tree with everything that ext4 stores in different ways.
fn build(tree: &Path) {
    let at = |name: &str| tree.join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    // Linux and mke2fs index a directory that has more than one block.
    fs::create_dir(at("many")).unwrap();
    for number in 0..1500 {
        fs::write(at(&format!("many/a-name-of-some-length-{number}")), "").unwrap();
    }
    fs::write(at("a/file"), "content").unwrap();
    fs::hard_link(at("a/file"), at("a/b/again")).unwrap();
    fs::set_permissions(at("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(at("a/b"), fs::Permissions::from_mode(0o1777)).unwrap();
    let long = "x".repeat(200);
    for (link, target) in [
        ("short", "a/file"),
        ("long", &long),
        ("absolute", "/a/b"),
        ("a/up", "../../../../a/file"),
        ("loop", "loop"),
        ("a/b/dotdot", ".."),
    ] {
        symlink(target, at(link)).unwrap();
    }
    // Every second block is a hole: an extent tree of two levels.
    let holes = File::create(at("holes")).unwrap();
    for number in 0..400 {
        holes
            .write_all_at(&[(number % 255) as u8 + 1; 4096], number * 2 * BLOCK)
            .unwrap();
    }
    holes.set_len(4 << 20).unwrap();
    let noise: Vec<u8> = (0..3_000_001_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(at("large"), noise).unwrap();
    let small = File::create(at("attributes")).unwrap();
    for (name, length) in [("user.small", 5), ("user.large", 900)] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&small, name, &vec![b'v'; length], flags).unwrap();
    }
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, 0o640.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
}

fn copied(fs: &RootFs, to: &Path) {
    let policy = Policy {
        owners: rustix::process::geteuid().is_root(),
        privileges: true,
    };
    let parent = File::open(to.parent().unwrap()).unwrap();
    let mut writer = Writer::new(parent.into(), to.file_name().unwrap(), policy);
    fs.copy(&fs.root().unwrap(), &mut writer).unwrap();
    assert_eq!(writer.finish().unwrap().count, 0);
}

/// The listing of a tree, without the directory that mke2fs adds.
fn listing(tree: &Path) -> Vec<String> {
    let mut lines = tree::list(tree).unwrap();
    lines.retain(|line| !line.starts_with("/lost+found "));
    lines
}

#[test]
fn a_file_system_is_read_as_it_was_made() {
    for checksums in [true, false] {
        let made = made();
        let fs = RootFs::open(Blocks::base(&made.image(checksums)).unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy");
        copied(&fs, &copy);
        assert_eq!(listing(&copy), listing(&made.tree), "{checksums}");
    }
}

#[test]
fn paths_are_resolved_in_the_file_system_only() {
    let fs = RootFs::open(Blocks::base(&made().image(true)).unwrap()).unwrap();
    for (path, last, expected) in [
        ("/", Last::Keep, Ok("")),
        ("", Last::Keep, Ok("")),
        ("/../../a/./b/..", Last::Keep, Ok("a")),
        ("a//file", Last::Keep, Ok("a/file")),
        ("/short", Last::Keep, Ok("short")),
        ("/short", Last::Follow, Ok("a/file")),
        ("/a/up", Last::Follow, Ok("a/file")),
        ("/absolute/c", Last::Keep, Ok("a/b/c")),
        ("/absolute", Last::Keep, Ok("absolute")),
        ("/absolute/", Last::Keep, Ok("a/b")),
        ("/absolute/.", Last::Keep, Ok("a/b")),
        ("/a/b/dotdot/file", Last::Keep, Ok("a/file")),
        (
            "/many/a-name-of-some-length-1499",
            Last::Keep,
            Ok("many/a-name-of-some-length-1499"),
        ),
        (
            "/a/file/x",
            Last::Keep,
            Err("/a/file/x is not a directory in the guest"),
        ),
        (
            "/a/file/",
            Last::Keep,
            Err("/a/file/ is not a directory in the guest"),
        ),
        (
            "/none/../a",
            Last::Keep,
            Err("there is no /none/../a in the guest"),
        ),
        (
            "/loop",
            Last::Follow,
            Err("/loop has too many levels of symbolic links"),
        ),
        ("/long", Last::Follow, Err("there is no /long in the guest")),
    ] {
        let found = fs.resolve(path.as_bytes(), last).map(|found| found.path);
        let found = found.map_err(|error| error.to_string());
        let expected = expected.map(|path: &str| path.as_bytes().to_vec());
        assert_eq!(found, expected.map_err(str::to_owned), "{path} {last:?}");
    }
}

#[test]
fn what_the_guest_wrote_hides_the_base() {
    let image = fs::read(made().image(true)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (base, delta) = (
        File::create(path("base")).unwrap(),
        File::create(path("delta")).unwrap(),
    );
    let map = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path("map"))
        .unwrap();
    let len = image.len() as u64;
    let mut held = Presence::open(map, len).unwrap();
    base.set_len(len).unwrap();
    delta.set_len(len).unwrap();
    for (number, block) in image.chunks(BLOCK as usize).enumerate() {
        let number = number as u64;
        let garbage = [0x5a; BLOCK as usize];
        // Runs of different lengths.
        let in_delta = number % 7 < 3 || number % 64 > 40;
        if in_delta {
            held.set(number);
        }
        let (right, wrong) = if in_delta {
            (&delta, &base)
        } else {
            (&base, &delta)
        };
        right.write_all_at(block, number * BLOCK).unwrap();
        wrong.write_all_at(&garbage, number * BLOCK).unwrap();
    }
    held.store().unwrap();
    let blocks = Blocks::with_delta(&path("base"), &path("delta"), &path("map")).unwrap();
    copied(&RootFs::open(blocks).unwrap(), &path("copy"));
    assert_eq!(listing(&path("copy")), listing(&made().tree));

    let open = |delta: &str, map: &str| Blocks::with_delta(&path("base"), &path(delta), &path(map));
    // A delta that belongs to another map, or is used by a VM.
    assert!(matches!(
        open("delta", "none"),
        Err(RootFsError::Presence { .. })
    ));
    assert!(matches!(
        open("none", "map"),
        Err(RootFsError::Presence { .. })
    ));
    open("none", "none").unwrap();
    let vm = microagent_vmm::virtio::block::lock(&delta, &path("delta"), true);
    vm.unwrap();
    assert!(matches!(open("delta", "map"), Err(RootFsError::InUse(_))));
}

#[test]
fn a_journal_that_has_to_be_replayed_is_refused() {
    let mut image = fs::read(made().image(false)).unwrap();
    image[1024 + 0x60] |= 4;
    assert!(matches!(open(&image), Err(RootFsError::Dirty)));
}

fn open(image: &[u8]) -> Result<RootFs, RootFsError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), image).unwrap();
    RootFs::open(Blocks::base(file.path())?)
}

/// Checks what every sink relies on.
#[derive(Default)]
struct Checked {
    left: u64,
    entries: u64,
}

impl Sink for Checked {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        assert_eq!(self.left, 0);
        microagent_tree::check_path(&entry.path)?;
        self.entries += 1;
        self.left = match entry.kind {
            Kind::File { size } => size,
            _ => 0,
        };
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        self.left = self.left.checked_sub(bytes.len() as u64).unwrap();
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), TreeError> {
        self.left = self.left.checked_sub(length).unwrap();
        Ok(())
    }
}

/// Where metadata is: the superblock, the descriptors and the first inodes, directories and extent
/// trees, as mke2fs lays them out.
fn metadata() -> impl Strategy<Value = usize> {
    static USED: OnceLock<Vec<usize>> = OnceLock::new();
    let used = USED.get_or_init(|| {
        let image = fs::read(made().image(false)).unwrap();
        let noise = fs::read(made().tree.join("large")).unwrap();
        let is_content = |block: &[u8]| {
            block.iter().all(|&byte| byte == block[0])
                || noise
                    .chunks(BLOCK as usize)
                    .any(|part| block.starts_with(part))
        };
        let blocks = image.chunks(BLOCK as usize).enumerate();
        blocks
            .filter(|(_, block)| !is_content(block))
            .map(|(number, _)| number)
            .collect()
    });
    (prop::sample::select(used.clone()), 0..BLOCK as usize)
        .prop_map(|(block, at)| block * BLOCK as usize + at)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A damaged file system without checksums ends in an error or in a tree, soon.
    #[test]
    fn damage_never_panics(
        flips in prop::collection::vec((metadata(), any::<u8>()), 1..20),
        superblock in prop::collection::vec((0x00..0x180_usize, any::<u8>()), 0..2),
    ) {
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        let image = IMAGE.get_or_init(|| fs::read(made().image(false)).unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), image).unwrap();
        let places = superblock.iter().map(|(at, byte)| (1024 + at, *byte));
        for (at, byte) in flips.iter().copied().chain(places) {
            file.as_file().write_all_at(&[byte], at as u64).unwrap();
        }
        let fs = Blocks::base(file.path()).and_then(RootFs::open);
        if let Ok((fs, root)) = fs.and_then(|fs| { let root = fs.root()?; Ok((fs, root)) }) {
            let mut sink = Checked::default();
            if fs.copy(&root, &mut sink).is_ok() {
                prop_assert_eq!(sink.left, 0);
            }
            let _ = fs.resolve(b"/absolute/../up/many/a-name-of-some-length-7", Last::Follow);
        }
    }
}

/// Directories and extents that refer to each other, which checksums do not prevent: a guest's
/// kernel writes what its root tells it to.
#[test]
fn circles_end() {
    let image = fs::read(made().image(false)).unwrap();
    let fs = open(&image).unwrap();
    let inode = |path: &str| {
        let found = fs.resolve(path.as_bytes(), Last::Keep).unwrap();
        found.node.number()
    };
    // The entry of /a/b/c leads to /a.
    let (child, ancestor) = (inode("/a/b/c"), inode("/a"));
    let entry: Vec<u8> = [&child.to_le_bytes()[..], &[12, 0, 1, 2, b'c']].concat();
    let at = image
        .windows(entry.len())
        .position(|window| window == entry);
    let mut circular = image.clone();
    let at = at.unwrap_or_else(|| {
        // It is not the last entry of its block if the directory has others.
        let loose = [&child.to_le_bytes()[..]].concat();
        (0..image.len() - 8)
            .find(|&at| image[at..at + 4] == loose && image[at + 6..at + 9] == [1, 2, b'c'])
            .unwrap()
    });
    circular[at..at + 4].copy_from_slice(&ancestor.to_le_bytes());
    let fs = open(&circular).unwrap();
    let error = fs
        .copy(&fs.root().unwrap(), &mut Checked::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the file system is damaged: a directory has several names"
    );
}
