//! Reading everything back.

use super::{RecordError, decode, encode, keys};
use crate::error::ManagerError;
use crate::tokens::TokenRecord;
use fgpu_domain::class::PriorityClass;
use fgpu_domain::cluster::Records;
use fgpu_domain::ids::ClusterId;
use fgpu_domain::node::Node;
use fgpu_domain::project::Project;
use fgpu_domain::session::Session;
use fgpu_domain::time::UnixMillis;
use fgpu_domain::usage::Usage;
use fgpu_service::secret;
use fgpu_store::{Compare, Entry, MAX_TXN_BYTES, MAX_TXN_WRITES, Store, StoreError, Txn};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use tokio::sync::mpsc;

/// How often reading is begun again because what is read was compacted meanwhile.
const ATTEMPTS: usize = 5;
/// What a write takes of a transaction beside key and value.
const WRITE_OVERHEAD: usize = 64;

/// The cluster itself; written once, by its first leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterRecord {
    /// Carried by every container of this cluster.
    id: ClusterId,
    /// When it was made.
    created_at: UnixMillis,
}

/// All records of a store, as of one revision.
#[derive(Debug, Default)]
pub struct LoadedRecords {
    /// The cluster's id, if the cluster was ever led.
    pub cluster_id: Option<ClusterId>,
    /// What the cluster is made of.
    pub records: Records,
    pub(crate) tokens: Vec<TokenRecord>,
    /// Mod revision of the engine's mark; 0 if there is none.
    pub(crate) mark: i64,
}

/// Reads everything a manager keeps in `store`.
///
/// # Errors
/// [`ManagerError::Store`] if it does not answer, [`ManagerError::Record`] for a record that cannot
/// be read.
pub async fn load_records(store: &dyn Store) -> Result<LoadedRecords, ManagerError> {
    let mut attempt = 1;
    loop {
        match load_once(store).await {
            Err(ManagerError::Store(StoreError::Compacted { .. })) if attempt < ATTEMPTS => {
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Reads on while another thread decodes what has come.
async fn load_once(store: &dyn Store) -> Result<LoadedRecords, ManagerError> {
    let mut pages = store.range_pages("").await?;
    let (sender, receiver) = mpsc::channel(1);
    let decoding = tokio::task::spawn_blocking(move || decode_pages(receiver));
    while let Some(page) = pages.next().await {
        // The other end stops at a record that cannot be read, and says so below.
        if sender.send(page?.entries).await.is_err() {
            break;
        }
    }
    drop(sender);
    Ok(decoding.await??)
}

/// Decodes pages until no more come; each record's text is let go of at once.
fn decode_pages(mut pages: mpsc::Receiver<Vec<Entry>>) -> Result<LoadedRecords, RecordError> {
    let mut loaded = LoadedRecords::default();
    while let Some(page) = pages.blocking_recv() {
        for entry in page {
            loaded.take(&entry)?;
        }
    }
    Ok(loaded)
}

/// Writes records as a leader would have, many to a transaction: for measurements on a store of a
/// given size.
///
/// # Errors
/// [`ManagerError::Store`] if it does not take them, [`ManagerError::Record`] for one that cannot be
/// written.
pub async fn seed_records<'a>(
    store: &dyn Store,
    sessions: impl IntoIterator<Item = &'a Session>,
    nodes: impl IntoIterator<Item = &'a Node>,
) -> Result<(), ManagerError> {
    let mut writes: Vec<(String, Vec<u8>)> = Vec::new();
    for node in nodes {
        let key = keys::node(&node.name);
        writes.push((key.clone(), encode(&key, node)?));
    }
    for session in sessions {
        let key = keys::session(&session.id);
        writes.push((key.clone(), encode(&key, session)?));
    }
    let mut txn = Txn::new();
    for (key, value) in writes {
        let size = WRITE_OVERHEAD + key.len() + value.len();
        if txn.writes.len() >= MAX_TXN_WRITES || txn.size_bytes() + size > MAX_TXN_BYTES {
            store.commit(std::mem::take(&mut txn)).await?;
        }
        txn = txn.put(key, value);
    }
    store.commit(txn).await?;
    Ok(())
}

impl LoadedRecords {
    fn take(&mut self, entry: &Entry) -> Result<(), RecordError> {
        let key = entry.key.as_str();
        if key == keys::CLUSTER {
            let record: ClusterRecord = decode(key, &entry.value)?;
            self.cluster_id = Some(record.id);
        } else if key == keys::COMMIT {
            self.mark = entry.mod_revision;
        } else if let Some(id) = key.strip_prefix(keys::SESSIONS) {
            let session: Session = decode(key, &entry.value)?;
            check_place(key, id, &session.id)?;
            self.records.sessions.push(session);
        } else if let Some(name) = key.strip_prefix(keys::NODES) {
            let node: Node = decode(key, &entry.value)?;
            check_place(key, name, &node.name)?;
            self.records.nodes.push(node);
        } else if let Some(name) = key.strip_prefix(keys::PROJECTS) {
            let project: Project = decode(key, &entry.value)?;
            check_place(key, name, &project.name)?;
            self.records.projects.push(project);
        } else if let Some(name) = key.strip_prefix(keys::CLASSES) {
            let class: PriorityClass = decode(key, &entry.value)?;
            check_place(key, name, &class.name)?;
            self.records.classes.push(class);
        } else if let Some(name) = key.strip_prefix(keys::USAGE) {
            let usage: Usage = decode(key, &entry.value)?;
            check_place(key, name, &usage.project)?;
            self.records.usage.push(usage);
        } else if let Some(id) = key.strip_prefix(keys::TOKENS) {
            let token: TokenRecord = decode(key, &entry.value)?;
            check_place(key, id, &token.id)?;
            self.tokens.push(token);
        }
        Ok(())
    }
}

fn check_place(key: &str, expected: &str, found: &impl Display) -> Result<(), RecordError> {
    let found = found.to_string();
    if found == expected {
        return Ok(());
    }
    Err(RecordError::Misplaced { key: key.to_owned(), found })
}

/// The cluster's id; makes it if the store has none yet. `fence` is the leader's.
pub(crate) async fn ensure_cluster(
    store: &dyn Store,
    fence: &Compare,
    now: UnixMillis,
) -> Result<ClusterId, ManagerError> {
    let random = secret::random::<8>().map_err(crate::tokens::TokensError::Random)?;
    let id = ClusterId::new(secret::hex(&random)).unwrap_or_else(|error| unreachable!("{error}"));
    let record = encode(keys::CLUSTER, &ClusterRecord { id: id.clone(), created_at: now })?;
    let txn = Txn::new()
        .compare(fence.clone())
        .compare(Compare::absent(keys::CLUSTER))
        .put(keys::CLUSTER, record);
    match store.commit(txn).await {
        Ok(_) => Ok(id),
        // Another leader was faster, or this very write was applied and its answer lost.
        Err(error @ (StoreError::Conflict { .. } | StoreError::Unknown { .. })) => {
            load_records(store).await?.cluster_id.ok_or(ManagerError::Store(error))
        }
        Err(error) => Err(error.into()),
    }
}
