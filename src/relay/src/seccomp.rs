//! The only system calls that the relay may make once it listens (seccomp(2)).
//!
//! A refused call fails as on a kernel that does not have it; the process is not killed. Libraries support old kernels
//! and fall back to another call. Where they cannot, one connection gets an error.

mod filter;

use std::io;

use filter::{Filter, Test};
use libc::c_long;

use crate::{Config, Listen};

/// What every connection does again and again. These come first, since kernels before 5.11 run the filter from its start
/// at each call.
const OFTEN: &[c_long] = &[
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_connect,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    libc::SYS_getpeername,
    libc::SYS_clock_gettime,
    libc::SYS_timerfd_settime,
];

/// What a C library needs for memory, threads and signals.
const RUNTIME: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrandom,
];

/// Reading /proc: what listens, and where containers are.
const FILES: &[c_long] = &[
    libc::SYS_getdents64,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_fcntl,
];

/// Entering a container's network, and finding a path in its files: the flags of openat2 are behind a pointer, so that a filter
/// cannot check them.
const CONTAINERS: &[c_long] = &[libc::SYS_setns, libc::SYS_openat2];

/// Removing a Unix listener's path at the end.
const UNIX_LISTENER: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

/// The families of sockets that the relay dials or listens at.
const FAMILIES: [i32; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_VSOCK];

/// Restricts this thread and those that it starts to the system calls that a relay with these options makes. The thread
/// must have set no_new_privs, or have CAP_SYS_ADMIN.
///
/// # Errors
/// The kernel does not support such filters.
pub fn confine(listen: &[Listen], config: &Config) -> io::Result<()> {
    filter(listen, config).install()
}

fn filter(listen: &[Listen], config: &Config) -> Filter {
    let mut filter = Filter::new();
    filter.allow(OFTEN);
    filter.allow_if(libc::SYS_socket, 0, Test::OneOf(&FAMILIES), libc::EAFNOSUPPORT);
    filter.allow(RUNTIME);
    // No new code.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        filter.allow_if(call, 2, Test::Without(libc::PROT_EXEC), libc::EACCES);
    }
    // Threads, but not processes. The flags of clone3 are behind a pointer; without it libraries use clone.
    filter.allow_if(libc::SYS_clone, 0, Test::With(libc::CLONE_THREAD), libc::EPERM);
    // For abort(3), and for no other process.
    filter.allow_if(libc::SYS_tgkill, 0, Test::OneOf(&[std::process::id() as i32]), libc::EPERM);
    filter.allow(FILES);
    let writing = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
    filter.allow_if(libc::SYS_openat, 2, Test::Without(writing), libc::EACCES);
    #[cfg(target_arch = "x86_64")]
    filter.allow_if(libc::SYS_open, 1, Test::Without(writing), libc::EACCES);
    if config.containers.path.is_some() || config.containers.by_cgroup {
        filter.allow(CONTAINERS);
    }
    if listen.iter().any(|listen| matches!(listen, Listen::Unix { .. })) {
        filter.allow(UNIX_LISTENER);
    }
    filter
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::process::Command;

    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_no_new_privs};

    use super::*;
    use gangplank_podnet::Containers;

    /// Runs `act` in a thread with the filter for these options.
    fn confined(listen: &str, containers: Containers, act: impl FnOnce() + Send + 'static) {
        let (listen, config) = (listen.parse().unwrap(), Config { containers, ..Config::default() });
        let thread = std::thread::spawn(move || {
            set_no_new_privs(true).unwrap();
            confine(&[listen], &config).unwrap();
            act();
        });
        thread.join().unwrap();
    }

    fn enter_own_network() -> Result<(), Errno> {
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&own), Some(LinkNameSpaceType::Network))
    }

    #[test]
    fn what_the_relay_does_not_do_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        confined("vsock://1023", Containers::default(), move || {
            assert!(Command::new("/bin/true").status().is_err());
            for result in [File::create(&path), File::options().append(true).open("/dev/null")] {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
            }
            assert_eq!(std::fs::remove_file("/nowhere").unwrap_err().raw_os_error(), Some(libc::ENOSYS));
            for family in [AddressFamily::NETLINK, AddressFamily::PACKET] {
                assert_eq!(socket(family, SocketType::RAW, None).unwrap_err(), Errno::AFNOSUPPORT);
            }
            assert_eq!(enter_own_network(), Err(Errno::NOSYS));
            let own = rustix::process::getpid();
            assert_eq!(rustix::process::kill_process(own, rustix::process::Signal::KILL), Err(Errno::NOSYS));
        });
    }

    #[test]
    fn what_it_does_is_not() {
        confined("unix:///run/relay.sock", Containers { path: None, by_cgroup: true }, || {
            std::thread::spawn(|| std::fs::read_to_string("/proc/self/status").unwrap()).join().unwrap();
            assert!(std::fs::read_dir("/proc").unwrap().count() > 0);
            socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            assert_eq!(std::fs::remove_file("/nowhere").unwrap_err().kind(), ErrorKind::NotFound);
            // This works as root; otherwise the kernel itself refuses.
            assert_ne!(enter_own_network(), Err(Errno::NOSYS));
        });
    }

    #[test]
    fn calls_of_another_architecture_are_refused() {
        let filter = filter(&[], &Config::default());
        let refused = filter::refuse(libc::ENOSYS);
        let read = libc::SYS_read as u32;
        assert_eq!(filter.verdict(filter::ARCHITECTURE, read, 0), libc::SECCOMP_RET_ALLOW);
        // 32-bit programs of x86 and ARM (AUDIT_ARCH_I386, AUDIT_ARCH_ARM), whatever the number means there.
        for architecture in [0x4000_0003, 0x4000_0028] {
            for call in 0..512 {
                assert_eq!(filter.verdict(architecture, call, 0), refused, "{call}");
            }
        }
        // x86-64 with 32-bit pointers has the same architecture, and a bit in the number.
        assert_eq!(filter.verdict(filter::ARCHITECTURE, read | 0x4000_0000, 0), refused);
    }

    #[test]
    fn arguments_decide_where_they_are_looked_at() {
        let filter = filter(&[], &Config::default());
        let verdict =
            |call: c_long, argument: i32| filter.verdict(filter::ARCHITECTURE, call as u32, argument as u32);
        for (call, allowed, other, error) in [
            (libc::SYS_socket, libc::AF_VSOCK, libc::AF_NETLINK, libc::EAFNOSUPPORT),
            (libc::SYS_mmap, libc::PROT_READ, libc::PROT_READ | libc::PROT_EXEC, libc::EACCES),
            (libc::SYS_mprotect, libc::PROT_NONE, libc::PROT_EXEC, libc::EACCES),
            (libc::SYS_clone, libc::CLONE_THREAD | libc::CLONE_VM, libc::CLONE_VM, libc::EPERM),
            (libc::SYS_tgkill, std::process::id() as i32, 1, libc::EPERM),
            (libc::SYS_openat, libc::O_CLOEXEC, libc::O_RDWR, libc::EACCES),
        ] {
            assert_eq!(verdict(call, allowed), libc::SECCOMP_RET_ALLOW, "{call}");
            assert_eq!(verdict(call, other), filter::refuse(error), "{call}");
        }
        assert_eq!(verdict(libc::SYS_execve, 0), filter::refuse(libc::ENOSYS));
        assert_eq!(verdict(libc::SYS_clone3, 0), filter::refuse(libc::ENOSYS));
    }
}
