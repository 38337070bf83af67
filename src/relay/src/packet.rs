//! How large one write to the host may be.
//!
//! AF_VSOCK turns each write into packets of at most 64 KiB. Since Linux 6.17, and in current releases of 6.12, a packet
//! that does not fit into 32 KiB together with what the kernel adds is given to the device in several pieces. Devices
//! that expect one piece drop it silently or garble it: vhost-device-vsock 0.3.0 (seen), Firecracker
//! (firecracker#5475), Cloud Hypervisor before February 2026 (cloud-hypervisor#7672), libkrun before May 2026
//! (libkrun#535, #674). The guest cannot see which device it has, only which kernel.

/// The largest packet that is in one piece: 32 KiB less header and bookkeeping, some 400 bytes. That holds for pages of
/// 4 KiB; the larger pages of some arm64 kernels allow more.
pub(crate) const IN_ONE_PIECE: usize = (32 << 10) - 512;

/// The first kernel version of which some releases make packets of several pieces.
const FIRST_WITH_PIECES: (u32, u32) = (6, 12);

/// The most bytes of one write to the host on this kernel.
pub(crate) fn most() -> usize {
    most_for(&rustix::system::uname().release().to_string_lossy())
}

/// An unknown version counts as new: that is only slower.
fn most_for(release: &str) -> usize {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < FIRST_WITH_PIECES => usize::MAX,
        _ => IN_ONE_PIECE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_make_packets_of_several_pieces_get_smaller_writes() {
        for old in ["5.10.0", "6.1.0-53-cloud-amd64", "6.11.9", "6.6"] {
            assert_eq!(most_for(old), usize::MAX, "{old}");
        }
        for new in ["6.12.76", "6.17.0-rc1", "7.2.7", "10.0", "", "unknown", "6"] {
            assert_eq!(most_for(new), IN_ONE_PIECE, "{new}");
        }
    }
}
