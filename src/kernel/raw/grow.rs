//! Growing a mounted file system to a size, by the drivers' own ioctls (`fs/ext4/ext4.h`, `linux/btrfs.h`,
//! `fs/xfs/libxfs/xfs_fs.h`).
#![expect(unsafe_code, reason = "ioctl(2) takes an untyped argument")]

use std::os::fd::{AsRawFd, BorrowedFd};

use super::IoctlError;

/// What btrfs takes for the name of a size: a word, NUL, and nothing.
const BTRFS_NAME_SIZE: usize = 4088;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct BtrfsArguments {
    descriptor: i64,
    name: [u8; BTRFS_NAME_SIZE],
}

/// `struct xfs_fsop_geom_v1`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct XfsGeometry {
    block_size: u32,
    rt_extent_size: u32,
    ag_blocks: u32,
    ag_count: u32,
    log_blocks: u32,
    sector_size: u32,
    inode_size: u32,
    inode_percentage: u32,
    data_blocks: u64,
    rt_blocks: u64,
    rt_extents: u64,
    log_start: u64,
    uuid: [u8; 16],
    stripe_unit: u32,
    stripe_width: u32,
    version: i32,
    flags: u32,
    log_sector_size: u32,
    rt_sector_size: u32,
    directory_block_size: u32,
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrowth {
    blocks: u64,
    inode_percentage: u32,
}

/// The shape of an xfs, as far as growing needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfsShape {
    /// The size of its blocks, in bytes.
    pub block_size: u32,
    /// How many of them it has for data.
    pub blocks: u64,
    /// How much of it may become inodes, in per cent.
    pub inode_percentage: u32,
}

/// `EXT4_IOC_RESIZE_FS`: lets the ext4 that the open directory is in have this many blocks of its own size.
///
/// # Errors
/// [`IoctlError::Unsupported`] where it is no ext4.
#[doc(alias = "EXT4_IOC_RESIZE_FS")]
pub fn grow_ext4(directory: BorrowedFd<'_>, blocks: u64) -> Result<(), IoctlError> {
    // SAFETY: the kernel reads one `__u64` from the address, which is that of a live `u64`.
    unsafe { request::ext4_resize_fs(directory.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

/// `BTRFS_IOC_RESIZE` with the word `max`: lets the btrfs on one device that the open directory is in fill its device.
///
/// # Errors
/// [`IoctlError::Unsupported`] where it is no btrfs.
#[doc(alias = "BTRFS_IOC_RESIZE")]
pub fn grow_btrfs(directory: BorrowedFd<'_>) -> Result<(), IoctlError> {
    let mut arguments = BtrfsArguments { descriptor: 0, name: [0; BTRFS_NAME_SIZE] };
    for (place, byte) in arguments.name.iter_mut().zip(b"max") {
        *place = *byte;
    }
    // SAFETY: the kernel reads one `struct btrfs_ioctl_vol_args` from the address, which is that of a live value of the
    // same layout whose name ends with NUL.
    unsafe { request::btrfs_resize(directory.as_raw_fd(), &raw const arguments) }?;
    Ok(())
}

/// `XFS_IOC_FSGEOMETRY_V1`: the shape of the xfs that the open directory is in.
///
/// # Errors
/// [`IoctlError::Unsupported`] where it is no xfs.
#[doc(alias = "XFS_IOC_FSGEOMETRY_V1")]
pub fn xfs_shape(directory: BorrowedFd<'_>) -> Result<XfsShape, IoctlError> {
    let mut geometry = XfsGeometry::default();
    // SAFETY: the kernel writes one `struct xfs_fsop_geom_v1` to the address, which is that of a live, exclusively
    // borrowed value of the same layout.
    unsafe { request::xfs_geometry(directory.as_raw_fd(), &raw mut geometry) }?;
    Ok(XfsShape {
        block_size: geometry.block_size,
        blocks: geometry.data_blocks,
        inode_percentage: geometry.inode_percentage,
    })
}

/// `XFS_IOC_FSGROWFSDATA`: lets the xfs that the open directory is in have this many blocks of its own size.
///
/// # Errors
/// [`IoctlError::Unsupported`] where it is no xfs.
#[doc(alias = "XFS_IOC_FSGROWFSDATA")]
pub fn grow_xfs(directory: BorrowedFd<'_>, blocks: u64, inode_percentage: u32) -> Result<(), IoctlError> {
    let growth = XfsGrowth { blocks, inode_percentage };
    // SAFETY: the kernel reads one `struct xfs_growfs_data` from the address, which is that of a live value of the same
    // layout.
    unsafe { request::xfs_grow_data(directory.as_raw_fd(), &raw const growth) }?;
    Ok(())
}

/// The bare calls, with the request numbers of the headers.
mod request {
    use super::{BtrfsArguments, XfsGeometry, XfsGrowth};

    nix::ioctl_write_ptr!(ext4_resize_fs, b'f', 16, u64);
    nix::ioctl_write_ptr!(btrfs_resize, 0x94, 3, BtrfsArguments);
    nix::ioctl_read!(xfs_geometry, b'X', 100, XfsGeometry);
    nix::ioctl_write_ptr!(xfs_grow_data, b'X', 110, XfsGrowth);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_directory_of_another_file_system_is_named_as_such() {
        let proc = File::open("/proc").unwrap();
        assert_eq!(grow_ext4(proc.as_fd(), 1), Err(IoctlError::Unsupported));
        assert_eq!(grow_btrfs(proc.as_fd()), Err(IoctlError::Unsupported));
        assert_eq!(xfs_shape(proc.as_fd()), Err(IoctlError::Unsupported));
        assert_eq!(grow_xfs(proc.as_fd(), 1, 25), Err(IoctlError::Unsupported));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_request_numbers_are_those_of_the_headers() {
        assert_eq!(nix::request_code_write!(b'f', 16, size_of::<u64>()), 0x4008_6610);
        assert_eq!(nix::request_code_write!(0x94, 3, size_of::<BtrfsArguments>()), 0x5000_9403);
        assert_eq!(nix::request_code_read!(b'X', 100, size_of::<XfsGeometry>()), 0x8070_5864);
        assert_eq!(nix::request_code_write!(b'X', 110, size_of::<XfsGrowth>()), 0x4010_586e);
    }
}
