//! A filter in the kernel's form: a classic BPF program that looks at a call's number and arguments.
//!
//! It is a list of blocks. Each starts with the call's number in the accumulator, and either ends the program or is
//! skipped as a whole.

#![allow(unsafe_code)] // the only module that calls seccomp(2)

use std::io;
use std::mem::offset_of;

use libc::{c_int, c_long, seccomp_data, sock_filter};

/// What `seccomp_data` calls the architecture: its number in ELF, 64 bits, little-endian (linux/audit.h).
pub(super) const ARCHITECTURE: u32 = 0xc000_0000
    | if cfg!(target_arch = "x86_64") {
        62 /* EM_X86_64 */
    } else {
        183 /* EM_AARCH64 */
    };

/// What an argument must be. Only its lower 32 bits are checked: all arguments that are checked are ints.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test<'a> {
    OneOf(&'a [c_int]),
    /// This one bit.
    With(c_int),
    /// None of these bits.
    Without(c_int),
}

#[derive(Debug)]
pub(super) struct Filter(Vec<sock_filter>);

impl Filter {
    /// A filter that refuses every call.
    pub(super) fn new() -> Self {
        Self(vec![
            load(offset_of!(seccomp_data, arch)),
            jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
            end(refuse(libc::ENOSYS)),
            load(offset_of!(seccomp_data, nr)),
        ])
    }

    /// Allows these calls.
    pub(super) fn allow(&mut self, calls: &[c_long]) {
        for &call in calls {
            self.0.extend([jump(libc::BPF_JEQ, call as u32, 0, 1), end(libc::SECCOMP_RET_ALLOW)]);
        }
    }

    /// Allows a call if this argument, counted from 0, passes the test. Otherwise the call fails with this error.
    pub(super) fn allow_if(&mut self, call: c_long, argument: usize, test: Test<'_>, error: c_int) {
        let mut block = vec![load(offset_of!(seccomp_data, args) + argument * size_of::<u64>())];
        let allow = end(libc::SECCOMP_RET_ALLOW);
        match test {
            Test::OneOf(values) => {
                for &value in values {
                    block.extend([jump(libc::BPF_JEQ, value as u32, 0, 1), allow]);
                }
            }
            Test::With(bits) => block.extend([jump(libc::BPF_JSET, bits as u32, 0, 1), allow]),
            Test::Without(bits) => block.extend([jump(libc::BPF_JSET, bits as u32, 1, 0), allow]),
        }
        block.push(end(refuse(error)));
        self.0.push(jump(libc::BPF_JEQ, call as u32, 0, block.len() as u8));
        self.0.extend(block);
    }

    /// Installs the filter for this thread and those that it starts. It cannot be removed.
    pub(super) fn install(mut self) -> io::Result<()> {
        self.0.push(end(refuse(libc::ENOSYS)));
        // Without this flag, kernels before 5.16 turn on Spectre mitigations for any process with a filter.
        set(&mut self.0, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW).or_else(|error| match error.kind() {
            // Kernels before 4.17 do not know the flag.
            io::ErrorKind::InvalidInput => set(&mut self.0, 0),
            _ => Err(error),
        })
    }
}

fn set(instructions: &mut [sock_filter], flags: libc::c_ulong) -> io::Result<()> {
    let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_mut_ptr() };
    // SAFETY: the kernel reads the instructions, which outlive the call, and keeps a copy of its own.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The verdict that makes a call fail with this error.
pub(super) fn refuse(error: c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | error as u32
}

/// Loads a word of `seccomp_data`; of a 64-bit field the lower half, as the machine is little-endian.
fn load(offset: usize) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset as u32)
}

/// Skips so many instructions, depending on the test.
fn jump(test: u32, operand: u32, when_true: u8, when_false: u8) -> sock_filter {
    instruction(libc::BPF_JMP | test | libc::BPF_K, when_true, when_false, operand)
}

fn end(verdict: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, verdict)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
impl Filter {
    /// The verdict on a call whose arguments are all the same, as the kernel would compute it.
    pub(super) fn verdict(&self, architecture: u32, call: u32, argument: u32) -> u32 {
        let (mut at, mut word) = (0, 0);
        // `install` adds the refusal at the end.
        while let Some(instruction) = self.0.get(at) {
            at += 1;
            let holds = match u32::from(instruction.code) & 0xf7 {
                code if code == libc::BPF_RET => return instruction.k,
                code if code == libc::BPF_JMP | libc::BPF_JEQ => word == instruction.k,
                code if code == libc::BPF_JMP | libc::BPF_JSET => word & instruction.k != 0,
                _ => {
                    word = match instruction.k as usize {
                        offset if offset == offset_of!(seccomp_data, arch) => architecture,
                        offset if offset == offset_of!(seccomp_data, nr) => call,
                        _ => argument,
                    };
                    continue;
                }
            };
            at += usize::from(if holds { instruction.jt } else { instruction.jf });
        }
        refuse(libc::ENOSYS)
    }
}
