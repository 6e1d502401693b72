//! Names and link targets that are not UTF-8. ext4 supports them, but the writer
//! accepts only text, so it gets a stand-in of the same length, which is
//! replaced by the real bytes in the finished image.
//!
//! The replacement changes the bytes of the name and the checksum of their
//! block, but not the structure of the directory. A large directory is an index
//! of leaf blocks, each for a range of name hashes. Therefore the hash of the
//! stand-in is chosen just below that of the real name, with no other name's
//! hash between them, and the image is verified afterwards.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use mkext4::csum;
use mkext4::dirhash::{HashSeed, Signedness, half_md4};
use mkext4::reader::Fs;
use mkext4::spec::{self, DirentIter};

const BLOCK: u64 = spec::BLOCK_SIZE as u64;
/// The maximum number of candidates for a stand-in with a close hash. The
/// expected number is the number of names in the directory.
const CANDIDATES: u64 = 1 << 18;
/// The maximum work for all stand-ins of an image, in hashed blocks of 32 bytes; some seconds. For
/// N short names in one directory about 5 N² candidates are hashed, and an image decides about N:
/// more than two thousand are possible.
const MAX_WORK: u64 = 1 << 25;
/// The maximum length of a name in bytes (`EXT4_NAME_LEN`).
const MAX_NAME: usize = 255;
/// The characters of stand-ins.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
/// Offsets in an inode: `i_block`, which holds a short link's target, and the two
/// halves of the checksum.
const INODE_BLOCK: usize = 0x28;
const INODE_CHECKSUM: [usize; 2] = [0x7c, 0x82];
/// The maximum length of a target that is stored in the inode.
const FAST_SYMLINK: usize = 59;

/// The stand-ins in an image and what they stand for.
#[derive(Debug, Default)]
pub(crate) struct StandIns {
    names: Vec<Name>,
    targets: Vec<Target>,
    used: HashSet<(String, String)>,
    work: u64,
    /// Of names with any hash: how many candidates of each length are used up in each directory.
    tried: Option<HashMap<(String, usize), u64>>,
}

/// The sorted hashes of a directory's real names.
#[derive(Debug)]
pub(crate) struct Hashes {
    sorted: Vec<u32>,
    seed: HashSeed,
}

impl Hashes {
    pub(crate) fn of<'a>(names: impl Iterator<Item = &'a [u8]>, seed: &HashSeed) -> Hashes {
        let mut sorted: Vec<u32> = names.map(|name| hash(seed, name)).collect();
        sorted.sort_unstable();
        Hashes {
            sorted,
            seed: *seed,
        }
    }

    /// The largest hash below this one.
    fn before(&self, hash: u32) -> Option<u32> {
        let index = self.sorted.partition_point(|other| *other < hash);
        self.sorted.get(index.checked_sub(1)?).copied()
    }
}

fn hash(seed: &HashSeed, name: &[u8]) -> u32 {
    half_md4(seed, Signedness::Signed, name).0
}

#[derive(Debug)]
struct Name {
    /// The path of the directory in the names of the writer.
    directory: String,
    stand_in: String,
    real: Vec<u8>,
}

#[derive(Debug)]
struct Target {
    link: String,
    real: Vec<u8>,
}

/// Why a stand-in could not be replaced.
#[derive(Debug)]
pub(crate) enum ReplaceError {
    /// The image file could not be written.
    Image(io::Error),
    /// The image could not be read back.
    Reader(mkext4::Error),
    /// The index of this directory cannot hold one of its real names.
    Sorted(String),
}

impl From<mkext4::Error> for ReplaceError {
    fn from(error: mkext4::Error) -> ReplaceError {
        match error {
            mkext4::Error::Io(error) => ReplaceError::Image(error),
            error => ReplaceError::Reader(error),
        }
    }
}

impl StandIns {
    /// Stand-ins that are never replaced, because nothing but their length matters.
    pub(crate) fn for_measuring() -> StandIns {
        StandIns {
            tried: Some(HashMap::new()),
            ..StandIns::default()
        }
    }

    /// A stand-in with any hash; longer than the name if all of its length are taken.
    fn with_any_hash(
        tried: &mut HashMap<(String, usize), u64>,
        directory: &str,
        length: usize,
        taken: &dyn Fn(&str) -> bool,
    ) -> Option<String> {
        (length..=MAX_NAME).find_map(|length| {
            let next = tried.entry((directory.to_owned(), length)).or_default();
            std::iter::from_fn(|| {
                let name = spelled(*next, length)?;
                *next += 1;
                Some(name)
            })
            .find(|name| !taken(name))
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.targets.is_empty()
    }

    /// A stand-in for the name `real` in `directory`. `hashes` are those of the
    /// directory's names, and `taken` returns whether a name is used there. `None`
    /// if every candidate of that length is taken, or [`MAX_WORK`] is done.
    pub(crate) fn for_name(
        &mut self,
        directory: &str,
        real: &[u8],
        hashes: &Hashes,
        taken: &dyn Fn(&str) -> bool,
    ) -> Option<String> {
        if let Some(tried) = &mut self.tried {
            return StandIns::with_any_hash(tried, directory, real.len(), taken);
        }
        let wanted = hash(&hashes.seed, real);
        let before = hashes.before(wanted);
        let mut best: Option<(u32, String)> = None;
        for number in 0..CANDIDATES {
            if self.work >= MAX_WORK {
                return None;
            }
            self.work += 1 + real.len() as u64 / 32;
            let Some(name) = spelled(number, real.len()) else {
                break;
            };
            let found = hash(&hashes.seed, name.as_bytes());
            // A hash above the real one wraps, so it is farther than any below.
            let distance = wanted.wrapping_sub(found);
            let closer = best.as_ref().is_none_or(|(least, _)| distance < *least);
            if closer && !taken(&name) && !self.used.contains(&(directory.into(), name.clone())) {
                best = Some((distance, name));
                if found <= wanted && before.is_none_or(|before| before < found) {
                    break;
                }
            }
        }
        let (_, stand_in) = best?;
        self.used.insert((directory.into(), stand_in.clone()));
        self.names.push(Name {
            directory: directory.to_owned(),
            stand_in: stand_in.clone(),
            real: real.to_vec(),
        });
        Some(stand_in)
    }

    /// A stand-in for the target `real` of the link at the path `link`.
    pub(crate) fn for_target(&mut self, link: &str, real: &[u8]) -> String {
        self.targets.push(Target {
            link: link.to_owned(),
            real: real.to_vec(),
        });
        "x".repeat(real.len())
    }

    /// Replaces the stand-ins in the image.
    pub(crate) fn replace(&self, image: &File) -> Result<(), ReplaceError> {
        if self.is_empty() {
            return Ok(());
        }
        let fs = Fs::open(image)?;
        for Target { link, real } in &self.targets {
            replace_target(&fs, image, fs.resolve(link)?, real)?;
        }
        // Every directory is looked up before any name in its path changes.
        let mut directories: HashMap<&str, (u32, Vec<&Name>)> = HashMap::new();
        for name in &self.names {
            let directory = match directories.get_mut(name.directory.as_str()) {
                Some(directory) => directory,
                None => {
                    let ino = fs.resolve(&name.directory)?;
                    directories
                        .entry(&name.directory)
                        .or_insert((ino, Vec::new()))
                }
            };
            directory.1.push(name);
        }
        let mut sorted = None;
        for (path, (ino, names)) in directories {
            if fs.inode(ino)?.flags & spec::iflags::INDEX != 0 {
                sorted = Some(path);
            }
            replace_names(&fs, image, ino, &names)?;
        }
        match sorted {
            Some(path) if !fs.verify()?.is_empty() => Err(ReplaceError::Sorted(path.to_owned())),
            _ => Ok(()),
        }
    }
}

/// The candidate with this number: its digits, padded on the left.
fn spelled(mut number: u64, length: usize) -> Option<String> {
    let mut name = vec![b'_'; length];
    for place in name.iter_mut().rev() {
        *place = *DIGITS.get((number % 64) as usize)?;
        number /= 64;
        if number == 0 {
            break;
        }
    }
    match number {
        0 => String::from_utf8(name).ok(),
        _ => None,
    }
}

fn replace_names(
    fs: &Fs<&File>,
    image: &File,
    ino: u32,
    names: &[&Name],
) -> Result<(), ReplaceError> {
    let names: HashMap<&[u8], &[u8]> = (names.iter())
        .map(|name| (name.stand_in.as_bytes(), name.real.as_slice()))
        .collect();
    let inode = fs.inode(ino)?;
    let seed = csum::inode_seed(fs.fs_seed(), ino, inode.generation);
    for extent in fs.extents(ino, &inode)? {
        for number in extent.physical..extent.physical + u64::from(extent.len) {
            let mut block = fs.read_block(number)?;
            // The index blocks of a sorted directory have no checksum tail.
            if spec::dirent::tail_checksum(&block).is_none() {
                continue;
            }
            let mut found: Vec<(usize, &[u8])> = Vec::new();
            for entry in DirentIter::new(&block) {
                let entry = entry?;
                if let Some(real) = names.get(entry.name) {
                    found.push((entry.offset + 8, real));
                }
            }
            for (offset, real) in &found {
                put(&mut block, *offset, real)?;
            }
            if !found.is_empty() {
                let sum = csum::dirent_block(seed, &block).to_le_bytes();
                let end = block.len() - sum.len();
                put(&mut block, end, &sum)?;
                write(image, number * BLOCK, &block)?;
            }
        }
    }
    Ok(())
}

fn replace_target(fs: &Fs<&File>, image: &File, ino: u32, real: &[u8]) -> Result<(), ReplaceError> {
    let inode = fs.inode(ino)?;
    if real.len() > FAST_SYMLINK {
        for extent in fs.extents(ino, &inode)? {
            write(image, extent.physical * BLOCK, real)?;
        }
        return Ok(());
    }
    let mut raw = fs.inode_raw(ino)?;
    put(&mut raw, INODE_BLOCK, real)?;
    set_inode_checksum(fs, ino, &mut raw)?;
    write(image, inode_offset(fs, ino)?, &raw)
}

/// Sets the checksum of an inode that was changed.
pub(super) fn set_inode_checksum(
    fs: &Fs<&File>,
    ino: u32,
    raw: &mut [u8],
) -> Result<(), ReplaceError> {
    let generation = fs.inode(ino)?.generation;
    let sum = csum::inode(fs.fs_seed(), ino, generation, raw).to_le_bytes();
    for (offset, half) in INODE_CHECKSUM.iter().zip(sum.chunks(2)) {
        put(raw, *offset, half)?;
    }
    Ok(())
}

/// The offset of an inode in the image.
pub(super) fn inode_offset(fs: &Fs<&File>, ino: u32) -> Result<u64, ReplaceError> {
    let per_group = u64::from(fs.superblock().inodes_per_group);
    let index = u64::from(ino).saturating_sub(1);
    let table = fs.group_desc(index / per_group)?.inode_table;
    Ok(table * BLOCK + index % per_group * spec::INODE_SIZE as u64)
}

pub(super) fn put(block: &mut [u8], offset: usize, bytes: &[u8]) -> Result<(), ReplaceError> {
    match block.get_mut(offset..offset + bytes.len()) {
        Some(place) => {
            place.copy_from_slice(bytes);
            Ok(())
        }
        None => Err(ReplaceError::Image(io::ErrorKind::InvalidData.into())),
    }
}

pub(super) fn write(image: &File, offset: u64, bytes: &[u8]) -> Result<(), ReplaceError> {
    image
        .write_all_at(bytes, offset)
        .map_err(ReplaceError::Image)
}
