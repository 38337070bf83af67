//! Which streams hold up their session.

use slab::Slab;
use tokio::time::Instant;

use super::forward::{Forward, StallMark};
use crate::config::Limits;
use crate::dial::Connection;

/// A stream that moves less than this in `stream_stall_timeout`, while it holds up its session, is stuck.
const STALL_PROGRESS: u64 = 64 << 10;

/// The forwards that must go. While the budget is spent, every one that holds at least an equal share of the
/// `held` bytes must move.
pub(super) fn stuck<C: Connection, I>(
    forwards: &mut Slab<Forward<C, I>>,
    held: usize,
    spent: bool,
    now: Instant,
    limits: &Limits,
) -> Vec<usize> {
    let holders = forwards.iter().filter(|(_, f)| !f.is_clear()).count().max(1);
    let share = held / holders;
    let mut stuck = Vec::new();
    for (index, forward) in forwards {
        if !spent || forward.is_clear() || forward.charge() < share {
            forward.stall = None;
            continue;
        }
        let fresh = StallMark { since: now, sent: forward.sent };
        let mark = forward.stall.get_or_insert(fresh);
        if forward.sent - mark.sent >= STALL_PROGRESS {
            *mark = fresh;
        } else if now.saturating_duration_since(mark.since) >= limits.stream_stall_timeout {
            stuck.push(index);
        }
    }
    stuck
}
