//! The ext4 file system of a disk. The layout of its structures is the crate `mkext4`'s, which also
//! writes these file systems; its reader is for file systems that can be trusted.

use mkext4::csum;
use mkext4::spec::{GroupDesc, Inode, ROOT_INO, Superblock, incompat, ro_compat};

use super::blocks::BLOCK;
use super::budget::Budget;
use super::file::Node;
use super::{Blocks, RootFsError};

/// Offset of the superblock.
const SUPERBLOCK: u64 = 1024;

/// The largest size of an inode in bytes.
const MAX_INODE: u64 = BLOCK;

/// A read-only view of an ext4 file system.
#[derive(Debug)]
pub struct RootFs {
    pub(super) blocks: Blocks,
    superblock: Superblock,
    groups: Vec<GroupDesc>,
    seed: u32,
    pub(super) budget: Budget,
}

impl RootFs {
    /// The file system on this disk.
    ///
    /// # Errors
    /// [`RootFsError::Dirty`] if its journal has to be replayed, [`RootFsError::Unsupported`] and
    /// [`RootFsError::Damaged`].
    pub fn open(blocks: Blocks) -> Result<RootFs, RootFsError> {
        let mut bytes = [0; Superblock::LEN];
        blocks.read(&mut bytes, SUPERBLOCK)?;
        let superblock = Superblock::decode(&bytes)?;
        check(&superblock, &bytes, blocks.len())?;
        let seed = match superblock.feature_incompat & incompat::CSUM_SEED {
            0 => csum::fs_seed(&superblock.uuid),
            _ => superblock.checksum_seed,
        };
        let size = superblock.desc_size();
        let count = usize::try_from(superblock.group_count());
        let count = count.map_err(|_| RootFsError::damaged("its group count"))?;
        // At most 64 bytes for each 128 MiB of the disk.
        let mut table = vec![0; count * size];
        blocks.read(
            &mut table,
            (u64::from(superblock.first_data_block) + 1) * BLOCK,
        )?;
        let groups = table.chunks_exact(size).map(GroupDesc::decode);
        let groups = groups.collect::<Result<_, _>>()?;
        let budget = Budget::new(superblock.blocks_count);
        Ok(RootFs {
            blocks,
            superblock,
            groups,
            seed,
            budget,
        })
    }

    /// Its root directory.
    ///
    /// # Errors
    /// [`RootFsError::Damaged`] if it is not a directory.
    pub fn root(&self) -> Result<Node, RootFsError> {
        let root = self.node(ROOT_INO)?;
        match root.is_directory() {
            true => Ok(root),
            false => Err(RootFsError::damaged("its root is not a directory")),
        }
    }

    /// The file with this inode number.
    pub(super) fn node(&self, number: u32) -> Result<Node, RootFsError> {
        if number == 0 || number > self.superblock.inodes_count {
            return Err(RootFsError::damaged(format!("there is no inode {number}")));
        }
        let per_group = self.superblock.inodes_per_group;
        let (group, index) = ((number - 1) / per_group, (number - 1) % per_group);
        let group = self.groups.get(group as usize);
        let group = group.ok_or_else(|| RootFsError::damaged("an inode without a group"))?;
        let size = u64::from(self.superblock.inode_size).min(MAX_INODE);
        let offset = group
            .inode_table
            .checked_mul(BLOCK)
            .and_then(|table| table.checked_add(u64::from(index) * size))
            .ok_or_else(|| RootFsError::damaged("an inode table outside the disk"))?;
        let mut raw = vec![0; size as usize];
        self.blocks.read(&mut raw, offset)?;
        let inode = Inode::decode(&raw)?;
        if self.has_checksums() {
            let mut sum = csum::inode(self.seed, number, inode.generation, &raw);
            let mut stored = inode.checksum;
            if inode.extra_isize < 4 {
                (sum, stored) = (sum & 0xffff, stored & 0xffff);
            }
            if sum != stored {
                let what = format!("inode {number} has a wrong checksum");
                return Err(RootFsError::damaged(what));
            }
        }
        Node::new(number, inode, raw)
    }

    /// One block.
    pub(super) fn block(&self, number: u64) -> Result<Vec<u8>, RootFsError> {
        let offset = number.checked_mul(BLOCK);
        let offset = offset.ok_or_else(|| RootFsError::damaged("a block outside the disk"))?;
        let mut block = vec![0; BLOCK as usize];
        self.blocks.read(&mut block, offset)?;
        Ok(block)
    }

    /// Whether metadata has checksums.
    pub(super) fn has_checksums(&self) -> bool {
        self.superblock.feature_ro_compat & ro_compat::METADATA_CSUM != 0
    }

    /// The seed of the checksums of what belongs to a file.
    pub(super) fn inode_seed(&self, node: &Node) -> u32 {
        csum::inode_seed(self.seed, node.number, node.inode.generation)
    }

    /// The seed of the other checksums.
    pub(super) fn seed(&self) -> u32 {
        self.seed
    }
}

/// Checks all that is later used as a divisor, a length or an index.
fn check(superblock: &Superblock, bytes: &[u8], len: u64) -> Result<(), RootFsError> {
    let damaged = |what: &str| Err(RootFsError::damaged(what));
    if superblock.feature_incompat & incompat::RECOVER != 0 {
        return Err(RootFsError::Dirty);
    }
    let unknown = superblock.feature_incompat & !incompat::READER;
    if unknown != 0 {
        let what = format!("incompatible features {unknown:#x}");
        return Err(RootFsError::Unsupported(what));
    }
    if superblock.log_block_size != 2 {
        return Err(RootFsError::Unsupported(
            "blocks of other than 4096 bytes".into(),
        ));
    }
    if superblock.feature_ro_compat & ro_compat::METADATA_CSUM != 0
        && csum::superblock(bytes) != superblock.checksum
    {
        return damaged("its superblock has a wrong checksum");
    }
    let has_64_bits = superblock.feature_incompat & incompat::BIT64 != 0;
    let (blocks, first) = (superblock.blocks_count, superblock.first_data_block);
    let valid = blocks > u64::from(first)
        && blocks <= len / BLOCK
        && superblock.blocks_per_group == mkext4::spec::BLOCKS_PER_GROUP
        && (1..=mkext4::spec::BLOCKS_PER_GROUP).contains(&superblock.inodes_per_group)
        && matches!(superblock.inode_size, 128 | 256 | 512 | 1024 | 2048 | 4096)
        && matches!((superblock.desc_size(), has_64_bits), (32, _) | (64, true));
    match valid {
        true => Ok(()),
        false => damaged("its superblock"),
    }
}
