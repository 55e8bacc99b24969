//! The store over an etcd cluster.
//!
//! [`EtcdStore`] maps the contract onto etcd's calls; `fault` says what each failure means,
//! `txn` translates transactions, `watch` turns etcd's watch into ours. The gRPC channel
//! reconnects by itself, so a store outlives restarts of etcd.
//!
//! What must always hold: every call ends within `request_timeout` (a range: each page of it);
//! no commit is sent twice by us; a commit that may have reached etcd is never reported as
//! failed, but as [`StoreError::Unknown`].

mod config;
mod fault;
mod range;
mod txn;
mod watch;

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Error, GetOptions, KvClient, LeaseClient, MaintenanceClient, WatchClient,
};

pub use self::config::{EtcdConfig, EtcdTls};
use crate::{LeaseId, PageStream, Snapshot, Store, StoreError, StoreStatus, Txn, WatchStream};

/// Most bytes of one answer. etcd bounds what goes in, not what comes out: a page of large
/// values may exceed tonic's default of 4 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A [`Store`] in etcd (3.4 or newer), under one prefix.
#[derive(Clone)]
pub struct EtcdStore {
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
    maintenance: MaintenanceClient,
    prefix: String,
    /// The endpoints, for messages.
    location: String,
    request_timeout: Duration,
}

impl EtcdStore {
    /// Connects to etcd and checks that it answers and lets us read.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a wrong setting, [`StoreError::Io`] if a certificate cannot be
    /// read, [`StoreError::Unavailable`] if no endpoint answers within `connect_timeout`,
    /// [`StoreError::Refused`] if etcd refuses the user or its certificate.
    pub async fn connect(config: EtcdConfig) -> Result<Self, StoreError> {
        let options = config.options().await?;
        let location = config.endpoints.join(",");
        let connect = async {
            let client = Client::connect(&config.endpoints, Some(options)).await?;
            let store = Self {
                kv: client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES),
                watch: client.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES),
                lease: client.lease_client(),
                maintenance: client.maintenance_client(),
                prefix: config.prefix.clone(),
                location: location.clone(),
                request_timeout: config.request_timeout,
            };
            let probe = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
            store.kv.clone().get(config.prefix.as_str(), Some(probe)).await?;
            Ok(store)
        };
        deadline(config.connect_timeout, &location, connect).await
    }

    /// Runs a call that may be repeated, within the deadline.
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, StoreError> {
        deadline(self.request_timeout, &self.location, call).await
    }

    fn full_key(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }
}

async fn deadline<T>(
    limit: Duration,
    location: &str,
    call: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(fault::classify(location, error)),
        Err(_) => Err(StoreError::Unavailable {
            endpoint: location.to_owned(),
            source: fault::no_answer(limit),
        }),
    }
}

/// The revision in an answer's header, which every answer of etcd has.
fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> i64 {
    header.map_or(0, etcd_client::ResponseHeader::revision)
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        range::range(self, prefix).await
    }

    async fn range_pages(&self, prefix: &str) -> Result<PageStream, StoreError> {
        Ok(range::pages(self, prefix))
    }

    async fn commit(&self, txn: Txn) -> Result<i64, StoreError> {
        txn::commit(self, txn).await
    }

    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream, StoreError> {
        watch::watch(self, prefix, from_revision).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let whole = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let seconds = if ttl.subsec_nanos() > 0 { whole.saturating_add(1) } else { whole.max(1) };
        let mut lease = self.lease.clone();
        let granted = self.call(async move { lease.grant(seconds, None).await }).await?;
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.lease.clone();
        match self.call(async move { client.keep_alive(lease.0).await.map(drop) }).await {
            Err(StoreError::LeaseExpired { .. }) => Err(StoreError::LeaseExpired { lease }),
            other => other,
        }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.lease.clone();
        match self.call(async move { client.revoke(lease.0).await.map(drop) }).await {
            Err(StoreError::LeaseExpired { .. }) => Ok(()),
            other => other,
        }
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        let mut kv = self.kv.clone();
        match self.call(async move { kv.compact(revision, None).await.map(drop) }).await {
            // Another manager has compacted as far already.
            Err(StoreError::Compacted { .. }) => Ok(()),
            other => other,
        }
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let mut maintenance = self.maintenance.clone();
        let status = self.call(async move { maintenance.status().await }).await?;
        Ok(StoreStatus {
            kind: "etcd",
            location: self.location.clone(),
            revision: revision_of(status.header()),
            size_bytes: u64::try_from(status.db_size()).unwrap_or(0),
            // Before etcd 3.6 the status does not tell the quota.
            quota_bytes: u64::try_from(status.db_size_quota()).ok().filter(|quota| *quota > 0),
        })
    }
}
