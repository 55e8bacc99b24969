//! Watches.

use etcd_client::{EventType, WatchOptions, WatchResponse};
use futures_util::stream;

use super::{EtcdStore, range};
use crate::{StoreError, WatchEvent, WatchStream};

pub(super) async fn watch(
    store: &EtcdStore,
    prefix: &str,
    from_revision: i64,
) -> Result<WatchStream, StoreError> {
    let start = store.full_key(prefix);
    let options = WatchOptions::new()
        .with_range(range::prefix_end(&start))
        .with_start_revision(from_revision);
    let mut client = store.watch.clone();
    let open = async move {
        let mut stream = client.watch(start, Some(options)).await?;
        // Only etcd's first message says that the watch stands; before it, changes could be missed.
        let first = stream.message().await?;
        Ok((stream, first))
    };
    let (stream, first) = store.call(open).await?;
    let watcher = Watcher { store: store.clone(), stream, from_revision };
    match first {
        Some(first) if first.created() && !first.canceled() => {
            Ok(Box::pin(stream::unfold(Some(watcher), Watcher::next_item)))
        }
        Some(first) => Err(watcher.cancelled(&first)),
        None => Err(watcher.ended()),
    }
}

struct Watcher {
    store: EtcdStore,
    stream: etcd_client::WatchStream,
    from_revision: i64,
}

impl Watcher {
    /// The next item; without a watcher after the last one.
    async fn next_item(
        watcher: Option<Self>,
    ) -> Option<(Result<Vec<WatchEvent>, StoreError>, Option<Self>)> {
        let mut watcher = watcher?;
        loop {
            let read = match watcher.stream.message().await {
                Ok(Some(message)) => watcher.events(&message),
                Ok(None) => Err(watcher.ended()),
                Err(error) => Err(super::fault::classify(&watcher.store.location, error)),
            };
            match read {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Some((Ok(events), Some(watcher))),
                Err(error) => return Some((Err(error), None)),
            }
        }
    }

    fn events(&self, message: &WatchResponse) -> Result<Vec<WatchEvent>, StoreError> {
        if message.canceled() {
            return Err(self.cancelled(message));
        }
        let mut events = Vec::with_capacity(message.events().len());
        for event in message.events() {
            let Some(entry) = event.kv() else { continue };
            events.push(match event.event_type() {
                EventType::Put => WatchEvent::Put(range::to_entry(&self.store, entry.clone())?),
                EventType::Delete => WatchEvent::Deleted {
                    key: range::own_key(&self.store, entry.key())?,
                    revision: entry.mod_revision(),
                },
            });
        }
        Ok(events)
    }

    fn cancelled(&self, message: &WatchResponse) -> StoreError {
        if message.compact_revision() > 0 {
            let (requested, oldest) = (self.from_revision, message.compact_revision());
            return StoreError::Compacted { requested, oldest };
        }
        let endpoint = self.store.location.clone();
        let source = format!("etcd ended the watch: {}", message.cancel_reason()).into();
        if message.cancel_reason().contains("permission denied") {
            return StoreError::Refused { endpoint, source };
        }
        StoreError::Unavailable { endpoint, source }
    }

    fn ended(&self) -> StoreError {
        StoreError::Unavailable {
            endpoint: self.store.location.clone(),
            source: "etcd closed the watch".into(),
        }
    }
}
