//! How many members the hardware could hold if nothing else ran.

use crate::placement::{NeverFits, NodeState, NodeView, Request, View};
use crate::plans::capacity::at_most;
use crate::plans::trial::Settled;

/// How many of at most `most` sessions that ask for `request` may have room when every node is
/// empty and in service: never fewer than would.
///
/// # Errors
/// [`NeverFits`] where not even one has.
pub fn most_ever(request: &Request, view: &View, most: u32) -> Result<u32, NeverFits> {
    let settled = Settled::new(request, view)?;
    let mut found = 0_u32;
    for node in view.iter() {
        if found >= most {
            break;
        }
        let room = at_most(&settled, &emptied(node), view.quantum(), most - found);
        found = found.saturating_add(room);
    }
    Ok(found)
}

/// A node with nothing on it that takes everything it can hold.
fn emptied(node: &NodeView) -> NodeView {
    let mut empty = NodeView {
        state: NodeState::Ready,
        cpu_free: node.cpu_total,
        memory_free: node.memory_total,
        ..node.clone()
    };
    for device in &mut empty.devices {
        (device.free, device.sessions, device.blocked) = (device.units.whole(), 0, None);
    }
    empty
}
