//! The labels of our containers: enough to know again what a container is, without any file.

use crate::order::Order;
use fgpu_domain::ids::SessionId;
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::session::OnDisconnect;
use fgpu_domain::slice::Grant;
use fgpu_runtime::{LABEL_GENERATION, LABEL_SESSION, Labels};

/// Label with the grant, as JSON.
pub const LABEL_SLICE: &str = "io.fgpu.slice";
/// Label with the user the session belongs to.
pub const LABEL_OWNER: &str = "io.fgpu.owner";
/// Label with what the agent does when it is cut off: `keep` or `stop`.
pub const LABEL_ON_DISCONNECT: &str = "io.fgpu.on-disconnect";

/// What the labels of a container tell of its placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// Which placement.
    pub id: PlacementId,
    /// What it holds; `None` where the label is missing or not readable.
    pub grant: Option<Grant>,
    /// The user it belongs to.
    pub owner: String,
    /// What happens when the agent is cut off.
    pub on_disconnect: OnDisconnect,
}

/// The labels of the container of `order`; those of cluster and node are set by the runtime.
#[must_use]
pub fn labels_of(id: &PlacementId, order: &Order) -> Labels {
    let grant = serde_json::to_string(&order.grant).expect("a grant has only string keys");
    let on_disconnect = match order.spec.on_disconnect {
        OnDisconnect::Keep => "keep",
        OnDisconnect::Stop => "stop",
    };
    [
        (LABEL_SESSION, id.session.to_string()),
        (LABEL_GENERATION, id.generation.to_string()),
        (LABEL_SLICE, grant),
        (LABEL_OWNER, order.owner.clone()),
        (LABEL_ON_DISCONNECT, on_disconnect.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Reads the labels of a container of ours, `None` where they name no placement.
#[must_use]
pub fn read(labels: &Labels) -> Option<Labelled> {
    let session = SessionId::new(labels.get(LABEL_SESSION)?.as_str()).ok()?;
    let generation = labels.get(LABEL_GENERATION)?.parse().ok()?;
    let on_disconnect = match labels.get(LABEL_ON_DISCONNECT).map(String::as_str) {
        Some("stop") => OnDisconnect::Stop,
        _ => OnDisconnect::Keep,
    };
    Some(Labelled {
        id: PlacementId { session, generation },
        grant: labels.get(LABEL_SLICE).and_then(|text| serde_json::from_str(text).ok()),
        owner: labels.get(LABEL_OWNER).cloned().unwrap_or_default(),
        on_disconnect,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::order;

    #[test]
    fn the_labels_of_a_container_give_back_its_placement_and_grant() {
        let id = PlacementId { session: SessionId::new("abcdef12").unwrap(), generation: 3 };
        let mut order = order(&["GPU-1"]);
        order.spec.on_disconnect = OnDisconnect::Stop;

        let read = read(&labels_of(&id, &order)).unwrap();

        assert_eq!(read.id, id);
        assert_eq!(read.grant.as_ref(), Some(&order.grant));
        assert_eq!(read.owner, order.owner);
        assert_eq!(read.on_disconnect, OnDisconnect::Stop);
    }

    #[test]
    fn labels_that_name_no_placement_are_not_read() {
        assert_eq!(read(&Labels::new()), None);
        let bad = [(LABEL_SESSION, "Not Ours"), (LABEL_GENERATION, "1")];
        assert_eq!(read(&bad.map(|(k, v)| (k.to_owned(), v.to_owned())).into()), None);
    }
}
