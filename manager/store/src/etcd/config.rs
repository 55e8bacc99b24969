//! How to reach etcd.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::StoreError;

/// Pings that find a connection whose other end is gone. etcd closes connections that ping more
/// often than every 5 s (`--grpc-keepalive-min-time`).
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdConfig {
    /// URLs of the members, such as `http://127.0.0.1:2379`; `https` with [`tls`](Self::tls).
    pub endpoints: Vec<String>,
    /// What every key is put under, such as `/fgpu/v1/`; not empty.
    pub prefix: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long any later call may take; a large range: each of its pages.
    pub request_timeout: Duration,
    /// The user, where etcd has authentication enabled.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// Certificates, for `https` endpoints.
    pub tls: Option<EtcdTls>,
}

/// Certificates for etcd, as paths of PEM files.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificates.
    pub ca: PathBuf,
    /// Our certificate and its key, where etcd asks clients for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in etcd's certificate, if it is not the host of the endpoint.
    pub server_name: Option<String>,
}

impl EtcdConfig {
    /// A configuration for plain HTTP without a user: prefix `/fgpu/v1/`, 5 s to connect, 5 s
    /// for each call.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: "/fgpu/v1/".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            username: None,
            password: None,
            tls: None,
        }
    }

    pub(super) async fn options(&self) -> Result<ConnectOptions, StoreError> {
        self.check()?;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            // A member cut off from the others must not serve watches that never move.
            .with_require_leader(true);
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            options = options.with_user(username, password).with_auto_token_refresh(true);
        }
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options().await?);
        }
        Ok(options)
    }

    fn check(&self) -> Result<(), StoreError> {
        let invalid = |detail: String| Err(StoreError::Invalid { detail });
        if self.endpoints.is_empty() {
            return invalid("no etcd endpoint is given".to_owned());
        }
        if self.prefix.is_empty() {
            return invalid("the etcd prefix is empty; use one such as /fgpu/v1/".to_owned());
        }
        if self.username.is_some() != self.password.is_some() {
            return invalid("etcd needs a user name and a password, or neither".to_owned());
        }
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        match self.endpoints.iter().find(|endpoint| !endpoint.starts_with(scheme)) {
            Some(endpoint) if self.tls.is_some() => invalid(format!(
                "etcd endpoint {endpoint} must start with https:// when certificates are given"
            )),
            Some(endpoint) => invalid(format!(
                "etcd endpoint {endpoint} must start with http://, or certificates must be given"
            )),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("tls", &self.tls)
            .finish()
    }
}

impl EtcdTls {
    async fn options(&self) -> Result<TlsOptions, StoreError> {
        let ca = Certificate::from_pem(read(&self.ca).await?);
        let mut options = TlsOptions::new().ca_certificate(ca);
        if let Some((certificate, key)) = &self.identity {
            let identity = Identity::from_pem(read(certificate).await?, read(key).await?);
            options = options.identity(identity);
        }
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        Ok(options)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    tokio::fs::read(path).await.map_err(|source| StoreError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let mut config = EtcdConfig::new(vec!["http://127.0.0.1:2379".to_owned()]);
        config.password = Some("secret".to_owned());
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_wrong_setting_is_refused_before_anything_is_sent() {
        let good = EtcdConfig::new(vec!["http://127.0.0.1:1".to_owned()]);
        let cases = [
            EtcdConfig { endpoints: Vec::new(), ..good.clone() },
            EtcdConfig { endpoints: vec!["https://etcd:2379".to_owned()], ..good.clone() },
            EtcdConfig { prefix: String::new(), ..good.clone() },
            EtcdConfig { username: Some("root".to_owned()), ..good.clone() },
        ];
        for config in cases {
            let refused = config.options().await.unwrap_err();
            assert!(matches!(refused, StoreError::Invalid { .. }), "{config:?}: {refused:?}");
        }
    }
}
