//! The contract suite: each rule is run on the embedded store and on a real etcd.

#![allow(clippy::unwrap_used)]

mod backend;
mod election;
mod leases;
mod lifetime;
mod pages;
mod transactions;
mod watches;

/// Makes each rule (an async function over a [`backend::Backend`]) a test on both stores.
macro_rules! on_both_stores {
    ($($rule:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let mut backend = crate::backend::Embedded::start().await;
                super::$rule(&mut backend).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let mut backend = crate::backend::Etcd::start().await;
                super::$rule(&mut backend).await;
            })*
        }
    };
}
pub(crate) use on_both_stores;
