//! MIG instances: given whole, from the fullest card first.
//!
//! A request for instances never competes with one for devices, so the mix, the prices and the
//! measures of fragmentation know nothing of it. What matters among instances is that whole cards
//! become empty, as only an empty card can be partitioned anew: the card with the least left is
//! taken, of cards that are equally full one on the node with the least left.

use super::Request;
use super::entry::Entry;
use super::fit::{ShapeFit, apart};
use super::policy::Policy;
use super::score::{Judged, allocated_after, prefer};

/// Above every share in millionths.
const CARD: i64 = 1_000_001;

/// How good the node would be for a request for MIG instances; `None` where it has no room.
pub(super) fn judge(
    policy: Policy,
    request: &Request,
    entry: &Entry,
    fit: &ShapeFit,
) -> Option<Judged> {
    let prefer = prefer(policy);
    let mut rank = 0;
    fit.choose(entry, apart(request, entry), prefer, |_, slot| {
        rank += prefer.rank(entry.slots[slot].free_milli);
    })?;
    let node = match policy {
        Policy::Random => return Some(Judged { score: 0, first: None }),
        Policy::Spread => -allocated_after(request, entry, 0),
        _ => allocated_after(request, entry, 0),
    };
    let score = i64::try_from(rank).unwrap_or(i64::MAX).saturating_mul(CARD).saturating_add(node);
    Some(Judged { score, first: None })
}
