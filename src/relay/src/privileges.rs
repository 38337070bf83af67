//! Giving up privileges once the relay listens.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};

use crate::Config;

/// Gives up every capability that the configuration does not need, for this thread and those that it starts, and the
/// right to get new ones by running a program. A failure is ignored: the capability was not there, or the system is
/// stricter than this, and neither is a reason not to serve.
pub fn drop_unneeded(config: &Config) {
    let _ = set_no_new_privs(true);
    let needed = needed(config);
    if let Ok(mut sets) = capabilities(None) {
        sets.effective &= needed;
        sets.permitted &= needed;
        sets.inheritable = CapabilitySet::empty();
        let _ = set_capabilities(None, sets);
    }
}

fn needed(config: &Config) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    if config.containers.path.is_some() || config.containers.by_cgroup {
        needed |= CapabilitySet::SYS_ADMIN; // setns(2)
    }
    if config.containers.by_cgroup {
        needed |= CapabilitySet::SYS_PTRACE; // other processes' /proc/PID/ns/net and root
    }
    if config.rules.iter().any(gangplank_podnet::Rule::opens_paths) {
        needed |= CapabilitySet::DAC_OVERRIDE; // other users' sockets
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use gangplank_podnet::{Containers, Rule};

    #[test]
    fn each_option_keeps_what_it_needs() {
        assert_eq!(needed(&Config::default()), CapabilitySet::empty());
        let containers = Containers { path: None, by_cgroup: true };
        let rules = vec![Rule::allow("unix:/run/*".parse().unwrap())];
        let all = needed(&Config { containers, rules, ..Config::default() });
        assert!(
            all.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_OVERRIDE)
        );
        assert!(!all.contains(CapabilitySet::NET_ADMIN));
    }
}
