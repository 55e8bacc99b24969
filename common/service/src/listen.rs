//! Binding an address.

use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has the port.
    #[error(
        "cannot listen on {address}: the port is in use; stop what holds it (`ss -ltnp`) or choose another port"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A port below 1024, or a rule of the system.
    #[error(
        "cannot listen on {address}: not permitted; choose a port above 1023 or run with more rights"
    )]
    Denied {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address is none of this machine.
    #[error(
        "cannot listen on {address}: this machine has no such address (`ip address` lists them)"
    )]
    NoSuchAddress {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Something else.
    #[error("cannot listen on {address}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on `address` and says where: with port 0 the system chooses one.
///
/// # Errors
/// [`ListenError`] names the address and what to do.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let classify = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address, source },
        io::ErrorKind::PermissionDenied => ListenError::Denied { address, source },
        io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress { address, source },
        _ => ListenError::Other { address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(classify)?;
    let bound = listener.local_addr().map_err(classify)?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_next_step() {
        let (_held, address) = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_ne!(address.port(), 0);

        let refused = bind(address).await.unwrap_err();

        assert!(matches!(refused, ListenError::InUse { .. }));
        assert!(refused.to_string().contains(&address.to_string()), "{refused}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused_as_such() {
        // TEST-NET-1: never assigned to a machine.
        let refused = bind("192.0.2.1:0".parse().unwrap()).await.unwrap_err();
        assert!(matches!(refused, ListenError::NoSuchAddress { .. }), "{refused:?}");
    }
}
