//! Which manager to talk to, and as whom: flags, environment and context file together.

use std::path::PathBuf;

use clap::Args;
use tonic::transport::Endpoint;

use super::Link;
use crate::context::{self, Contexts};
use crate::failure::Failure;

/// Where a manager of `fgpu up` listens.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7070";

/// Which manager to talk to, and as whom.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectArgs {
    /// Address of the manager: `http://host:port` or `https://host:port`, several with commas
    #[arg(long, env = "FGPU_ADDRESS", value_name = "URL")]
    pub(crate) address: Option<String>,
    /// Bearer token
    #[arg(long, env = "FGPU_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the bearer token
    #[arg(long, value_name = "FILE", env = "FGPU_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the certificates to trust, PEM; without it, those of the system
    #[arg(long, env = "FGPU_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Context to use instead of the current one, see `fgpu context`
    #[arg(long, env = "FGPU_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// Where a manager is and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Addresses, in the order to try.
    pub(crate) addresses: Vec<String>,
    /// Bearer token.
    pub(crate) token: Option<String>,
    /// Certificates to trust.
    pub(crate) ca: Option<PathBuf>,
    /// The context it came from.
    pub(crate) context: Option<String>,
    /// What sessions count for that name no project.
    pub(crate) project: Option<String>,
}

impl ConnectArgs {
    /// Opens the way; nothing is sent yet.
    pub(crate) fn link(&self) -> Result<Link, Failure> {
        Ok(Link::new(self.target()?))
    }

    /// What flags, environment and context file say together. The token of a context goes only to
    /// the address of that context.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        let contexts = match (&self.context, &self.address) {
            (None, Some(_)) => Contexts::default(),
            _ => context::path().and_then(|path| Contexts::read(&path))?,
        };
        let name = self.context.clone().or_else(|| contexts.current.clone());
        let chosen = match &name {
            Some(name) => Some(contexts.get(name)?.clone()),
            None => None,
        };
        let own_address = chosen.as_ref().map(|context| context.address.clone());
        let address = self.address.clone().or(own_address.clone());
        let from_context = chosen.filter(|_| address == own_address);
        let given = match &self.token_file {
            Some(path) if self.token.is_none() => Some(context::read_token(path)?),
            _ => self.token.clone().filter(|token| !token.is_empty()),
        };
        let (token, ca) = match &from_context {
            Some(context) => {
                (given.or(context.token.clone()), self.ca.clone().or(context.ca.clone()))
            }
            None => (given, self.ca.clone()),
        };
        let address = address.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        let context = name.filter(|_| from_context.is_some());
        let project = from_context.and_then(|context| context.project);
        Ok(Target { addresses: check_addresses(&address)?, token, ca, context, project })
    }
}

/// Splits and checks a list of addresses.
pub(crate) fn check_addresses(text: &str) -> Result<Vec<String>, Failure> {
    let addresses: Vec<String> =
        text.split(',').map(|part| part.trim().trim_end_matches('/').to_owned()).collect();
    for address in &addresses {
        let scheme = address.starts_with("http://") || address.starts_with("https://");
        if !scheme || Endpoint::from_shared(address.clone()).is_err() {
            return Err(Failure::usage(format!("`{address}` is no address of a manager"))
                .hint("write `http://host:7070` or `https://host:7070`, several with commas"));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_list_of_urls() {
        let good = check_addresses("http://a:1, https://b:2/").unwrap();
        assert_eq!(good, ["http://a:1", "https://b:2"]);
        for bad in ["", "a:1", "ftp://a", "http://a:1,"] {
            assert_eq!(check_addresses(bad).unwrap_err().exit, Some(2), "{bad}");
        }
    }
}
