//! How much one write to the host may have.
//!
//! AF_VSOCK makes a packet of each write, of at most 64 KiB. Since Linux 6.17, and in the 6.12 that is maintained, one
//! that does not fit into 32 KiB with what the kernel adds is given to the device in several pieces. Devices that
//! expect one drop it without a word or garble it: vhost-device-vsock 0.3.0 (seen), Firecracker
//! (firecracker#5475), Cloud Hypervisor before February 2026 (cloud-hypervisor#7672), libkrun before May 2026
//! (libkrun#535, #674). Which device there is cannot be seen from inside, but which kernel.

/// The largest packet that lies in one piece: 32 KiB less header and bookkeeping, which are some 400 bytes, where pages
/// have 4 KiB as everywhere but on some arm64, and more there.
pub(crate) const IN_ONE_PIECE: usize = (32 << 10) - 512;

/// The first kernel, by its two numbers, of which some make packets of several pieces.
const FIRST_WITH_PIECES: (u32, u32) = (6, 12);

/// The most bytes of one write to the host on this kernel.
pub(crate) fn most() -> usize {
    most_for(&rustix::system::uname().release().to_string_lossy())
}

/// A kernel that does not say which it is counts as new, since that is only slower.
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
