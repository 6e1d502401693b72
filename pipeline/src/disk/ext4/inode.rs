//! Fields of an inode: mode, owner and times.

use mkext4::Meta;

use crate::tar::entry::Attributes;

/// Mode, owner and time of an inode.
pub(super) fn meta(attributes: &Attributes) -> Meta {
    let Attributes { mode, uid, gid, .. } = *attributes;
    Meta::new(mode, uid, gid, stored_time(attributes))
}

/// The modification time, clamped to the range of an inode: 34 bits of seconds from -2^31.
fn stored_time(attributes: &Attributes) -> (i64, u32) {
    const EARLIEST: i64 = -(1 << 31);
    const LATEST: i64 = (1 << 34) - (1 << 31) - 1;
    let seconds = attributes.mtime.seconds;
    match seconds.clamp(EARLIEST, LATEST) {
        same if same == seconds => (seconds, attributes.mtime.nanos),
        cut => (cut, 0),
    }
}

/// The modification time as the two fields of an inode (`ext4_encode_extra_time`).
pub(crate) fn timestamp(attributes: &Attributes) -> (u32, u32) {
    let (seconds, nanos) = stored_time(attributes);
    mkext4::spec::Inode::encode_timestamp(seconds, nanos)
}
