//! Transactions.

use etcd_client::{
    Compare as EtcdCompare, CompareOp, GetOptions, PutOptions, TxnOp, TxnOpResponse,
};

use super::{EtcdStore, fault, revision_of};
use crate::{Compare, LeaseId, StoreError, Txn, Write};

/// Commits `txn`. If a compare does not hold, etcd reads the compared keys in the same step, so
/// that the conflict can name what failed.
pub(super) async fn commit(store: &EtcdStore, txn: Txn) -> Result<i64, StoreError> {
    txn.check()?;
    let compares: Vec<_> = txn.compares.iter().map(|compare| to_compare(store, compare)).collect();
    let reads: Vec<_> = txn.compares.iter().map(|compare| read_back(store, compare)).collect();
    let lease = txn.writes.iter().find_map(lease_of);
    let writes: Vec<_> = txn.writes.into_iter().map(|write| to_operation(store, write)).collect();
    let request = etcd_client::Txn::new().when(compares).and_then(writes).or_else(reads);
    let mut kv = store.kv.clone();
    let call = tokio::time::timeout(store.request_timeout, kv.txn(request));
    let answer = match call.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(match fault::classify_commit(&store.location, error) {
                StoreError::LeaseExpired { lease: unnamed } => {
                    StoreError::LeaseExpired { lease: lease.unwrap_or(unnamed) }
                }
                other => other,
            });
        }
        Err(_) => {
            return Err(StoreError::Unknown {
                location: store.location.clone(),
                source: fault::no_answer(store.request_timeout),
            });
        }
    };
    if answer.succeeded() {
        return Ok(revision_of(answer.header()));
    }
    let found = answer.op_responses();
    let failed = txn
        .compares
        .into_iter()
        .zip(&found)
        .filter(|(compare, found)| !holds(compare, found))
        .map(|(compare, _)| compare)
        .collect();
    Err(StoreError::Conflict { failed })
}

fn to_compare(store: &EtcdStore, compare: &Compare) -> EtcdCompare {
    let key = store.full_key(compare.key());
    match compare {
        Compare::Absent { .. } => EtcdCompare::create_revision(key, CompareOp::Equal, 0),
        Compare::ModRevision { revision, .. } => {
            EtcdCompare::mod_revision(key, CompareOp::Equal, *revision)
        }
        Compare::CreateRevision { revision, .. } => {
            EtcdCompare::create_revision(key, CompareOp::Equal, *revision)
        }
        Compare::Value { value, .. } => EtcdCompare::value(key, CompareOp::Equal, value.as_slice()),
    }
}

fn read_back(store: &EtcdStore, compare: &Compare) -> TxnOp {
    let options = match compare {
        Compare::Value { .. } => None,
        Compare::Absent { .. } | Compare::ModRevision { .. } | Compare::CreateRevision { .. } => {
            Some(GetOptions::new().with_keys_only())
        }
    };
    TxnOp::get(store.full_key(compare.key()), options)
}

fn to_operation(store: &EtcdStore, write: Write) -> TxnOp {
    let key = store.full_key(write.key());
    match write {
        Write::Put { value, lease, .. } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key, value, options)
        }
        Write::Delete { .. } => TxnOp::delete(key, None),
    }
}

fn lease_of(write: &Write) -> Option<LeaseId> {
    match write {
        Write::Put { lease, .. } => *lease,
        Write::Delete { .. } => None,
    }
}

fn holds(compare: &Compare, found: &TxnOpResponse) -> bool {
    let TxnOpResponse::Get(found) = found else { return false };
    let entry = found.kvs().first();
    compare.holds(entry.map(|entry| (entry.create_revision(), entry.mod_revision(), entry.value())))
}
