//! Certificates from PEM files, for both ends of a connection.

use std::io;
use std::path::{Path, PathBuf};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Where a server's certificates lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsFiles {
    /// Certificate chain, its own first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Clients must show a certificate of this authority; `None`: they need none.
    pub client_ca: Option<PathBuf>,
}

/// Where a client's certificates lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientTlsFiles {
    /// The authority the server's certificate must come from; `None`: those in `system roots`
    /// are not consulted, so a server's certificate is then never accepted.
    pub ca: Option<PathBuf>,
    /// Certificate and key to show, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate, if it is not the host dialled.
    pub server_name: Option<String>,
}

/// Why certificates could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {what} {}", path.display())]
    Read {
        /// Which.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM form (a block that begins with `-----BEGIN {label}`)", path.display())]
    NotPem {
        /// What should be there.
        what: &'static str,
        /// How its block begins.
        label: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// Loads what a server needs.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn load_server(files: &ServerTlsFiles) -> Result<ServerTlsConfig, TlsError> {
    let identity = load_identity(&files.certificate, &files.key)?;
    let config = ServerTlsConfig::new().identity(identity);
    match &files.client_ca {
        Some(path) => Ok(config.client_ca_root(load_ca(path)?)),
        None => Ok(config),
    }
}

/// Loads what a client needs.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn load_client(files: &ClientTlsFiles) -> Result<ClientTlsConfig, TlsError> {
    let mut config = ClientTlsConfig::new();
    if let Some(ca) = &files.ca {
        config = config.ca_certificate(load_ca(ca)?);
    }
    if let Some((certificate, key)) = &files.identity {
        config = config.identity(load_identity(certificate, key)?);
    }
    if let Some(name) = &files.server_name {
        config = config.domain_name(name);
    }
    Ok(config)
}

fn load_identity(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
    let certificate = read("certificate", "CERTIFICATE", certificate)?;
    let key = read("private key", "", key)?;
    Ok(Identity::from_pem(certificate, key))
}

fn load_ca(path: &Path) -> Result<Certificate, TlsError> {
    Ok(Certificate::from_pem(read("certificate authority", "CERTIFICATE", path)?))
}

/// Keys come as `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`: an empty label stands for
/// any of them.
fn read(what: &'static str, label: &'static str, path: &Path) -> Result<String, TlsError> {
    let text = std::fs::read_to_string(path).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })?;
    let found = match label {
        "" => text.contains("PRIVATE KEY-----"),
        label => text.contains(&format!("-----BEGIN {label}-----")),
    };
    if found {
        return Ok(text);
    }
    let label = if label.is_empty() { "PRIVATE KEY" } else { label };
    Err(TlsError::NotPem { what, label, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_wrong_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let files =
            ServerTlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca: None };

        let missing = load_server(&files).unwrap_err();
        assert!(missing.to_string().contains("tls.crt"), "{missing}");

        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.cert.pem()).unwrap();
        let swapped = load_server(&files).unwrap_err();
        assert!(matches!(&swapped, TlsError::NotPem { path, .. } if *path == key), "{swapped}");

        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        assert!(load_server(&files).is_ok());
    }
}
