//! Why a manager stopped, or did not start.

use crate::records::RecordError;
use crate::tokens::TokensError;
use fgpu_domain::cluster::RestoreError;
use fgpu_service::listen::ListenError;
use fgpu_service::tls::TlsError;
use fgpu_store::StoreError;

/// Why a manager stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It would serve other machines in plaintext.
    #[error(
        "refusing to listen on {address} without TLS: set `tls.cert` and `tls.key`, or listen on \
         127.0.0.1"
    )]
    Exposed {
        /// The address.
        address: std::net::SocketAddr,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server could not be set up or broke down.
    #[error("the server on {address} failed")]
    Server {
        /// Where it listens.
        address: String,
        /// What happened.
        source: tonic::transport::Error,
    },
    /// The store cannot be opened, or refuses for good.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in the store cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What is in the store contradicts itself.
    #[error("the state in the store cannot be used")]
    Restore(#[from] RestoreError),
    /// The first token could not be made.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A part of the manager panicked: a bug.
    #[error("a part of the manager broke down")]
    Broken(#[from] tokio::task::JoinError),
    /// The compiled contract cannot be served by reflection.
    #[error("the contract cannot be served by reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}
