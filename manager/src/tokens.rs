//! Who may do what: tokens, stored as hashes, kept in memory by the leader.

mod bootstrap;

pub(crate) use bootstrap::bootstrap;

use crate::records::{RecordError, encode, keys};
use fgpu_domain::ids::UserName;
use fgpu_domain::time::UnixMillis;
use fgpu_service::secret::{RandomError, Token, TokenHash, TokenId};
use fgpu_store::{Compare, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Everything but acting as an agent.
    Admin,
    /// Their own sessions, and looking at nodes and devices.
    Member,
    /// Acting as the agent of a node, and nothing else.
    Agent,
}

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    pub(crate) id: TokenId,
    pub(crate) user: UserName,
    pub(crate) role: Role,
    pub(crate) hash: TokenHash,
    pub(crate) created_at: UnixMillis,
    /// `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<UnixMillis>,
}

/// Whose request this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: UserName,
    pub(crate) role: Role,
}

/// Why a token could not be made, or the first one not be written.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record could not be made.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The file for the first token.
    #[error("cannot {action} the first administrator's token in {}; the folder must exist and be writable", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The tokens of the cluster while this manager leads it.
#[derive(Clone)]
pub(crate) struct Tokens {
    store: Arc<dyn Store>,
    fence: Compare,
    known: Arc<RwLock<BTreeMap<TokenId, TokenRecord>>>,
}

impl TokenRecord {
    pub(crate) fn new(
        token: &Token,
        user: UserName,
        role: Role,
        now: UnixMillis,
        lifetime_ms: Option<u64>,
    ) -> Self {
        let (id, hash) = (token.id().clone(), token.hash());
        let expires_at = lifetime_ms.map(|lifetime| now.plus(lifetime));
        Self { id, user, role, hash, created_at: now, expires_at }
    }
}

impl Tokens {
    /// Tokens as loaded; writes are made under `fence`.
    pub(crate) fn new(store: Arc<dyn Store>, fence: Compare, records: Vec<TokenRecord>) -> Self {
        let known = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        Self { store, fence, known: Arc::new(RwLock::new(known)) }
    }

    /// Whose token `text` is, if it is one and has not expired.
    pub(crate) fn authenticate(&self, text: &str, now: UnixMillis) -> Option<Identity> {
        let token: Token = text.parse().ok()?;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let record = known.get(token.id())?;
        let valid = token.matches(&record.hash) && record.expires_at.is_none_or(|at| now < at);
        valid.then(|| Identity { user: record.user.clone(), role: record.role })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn list(&self) -> Vec<TokenRecord> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().cloned().collect()
    }

    /// Stores a token, then knows it.
    pub(crate) async fn insert(&self, record: TokenRecord) -> Result<(), TokensError> {
        let key = keys::token(&record.id);
        let value = encode(&key, &record)?;
        let txn = Txn::new()
            .compare(self.fence.clone())
            .compare(Compare::absent(&key))
            .put(&key, value.clone());
        match self.store.commit(txn).await {
            Ok(_) => {}
            // The answer may have been lost after the write: then the record is there.
            Err(error @ (StoreError::Unknown { .. } | StoreError::Conflict { .. })) => {
                let there = self.store.range(&key).await?;
                if !there.entries.iter().any(|entry| entry.key == key && entry.value == value) {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(record.id.clone(), record);
        Ok(())
    }

    /// Deletes a token; false if there is none. It is refused from the moment this is called, even
    /// if the store does not answer.
    pub(crate) async fn revoke(&self, id: &TokenId) -> Result<bool, TokensError> {
        let removed =
            self.known.write().unwrap_or_else(PoisonError::into_inner).remove(id).is_some();
        let key = keys::token(id);
        let there = self.store.range(&key).await?.entries.iter().any(|entry| entry.key == key);
        if there {
            let txn = Txn::new().compare(self.fence.clone()).delete(&key);
            match self.store.commit(txn.clone()).await {
                // Deleting twice does no harm.
                Err(StoreError::Unknown { .. }) => self.store.commit(txn).await?,
                other => other?,
            };
        }
        Ok(removed || there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_store::{EmbeddedStore, Fault, FaultyStore};

    const NOW: UnixMillis = UnixMillis(1_000_000);

    async fn tokens(folder: &tempfile::TempDir) -> (Arc<FaultyStore<EmbeddedStore>>, Tokens) {
        let store = EmbeddedStore::open(folder.path().join("store")).await.unwrap();
        let store = Arc::new(FaultyStore::new(store));
        let fence = Compare::absent(keys::LEADER);
        let shared: Arc<dyn Store> = store.clone();
        (store, Tokens::new(shared, fence, Vec::new()))
    }

    fn record(token: &Token, lifetime_ms: Option<u64>) -> TokenRecord {
        TokenRecord::new(token, UserName::new("ann").unwrap(), Role::Member, NOW, lifetime_ms)
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires_or_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let (_, tokens) = tokens(&folder).await;
        let (lasting, short) = (Token::generate().unwrap(), Token::generate().unwrap());
        tokens.insert(record(&lasting, None)).await.unwrap();
        tokens.insert(record(&short, Some(1000))).await.unwrap();
        let good = |token: &Token, at| tokens.authenticate(token.secret().expose(), at).is_some();

        assert!(good(&lasting, NOW) && good(&short, NOW.plus(999)));
        assert!(!good(&short, NOW.plus(1000)));
        assert!(!good(&Token::generate().unwrap(), NOW));
        assert!(tokens.revoke(lasting.id()).await.unwrap());
        assert!(!good(&lasting, NOW));
        assert!(!tokens.revoke(lasting.id()).await.unwrap());
    }

    #[tokio::test]
    async fn the_store_never_sees_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let (store, tokens) = tokens(&folder).await;
        let token = Token::generate().unwrap();
        tokens.insert(record(&token, None)).await.unwrap();

        let secret = token.secret().expose().splitn(3, '_').nth(2).unwrap().to_owned();
        for entry in store.range("").await.unwrap().entries {
            assert!(!String::from_utf8_lossy(&entry.value).contains(&secret));
        }
    }

    #[tokio::test]
    async fn a_lost_answer_of_the_store_neither_fails_nor_doubles_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let (store, tokens) = tokens(&folder).await;
        let token = Token::generate().unwrap();
        store.fail_next_commits([Fault::LostAck]);

        tokens.insert(record(&token, None)).await.unwrap();

        assert!(tokens.authenticate(token.secret().expose(), NOW).is_some());
        let lost = Token::generate().unwrap();
        store.fail_next_commits([Fault::LostRequest]);
        assert!(tokens.insert(record(&lost, None)).await.is_err());
        assert!(tokens.authenticate(lost.secret().expose(), NOW).is_none());
    }
}
