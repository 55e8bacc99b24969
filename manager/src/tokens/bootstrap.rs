//! The first tokens of a new cluster.

use super::{Role, TokenRecord, Tokens, TokensError};
use crate::config::BootstrapConfig;
use fgpu_domain::ids::UserName;
use fgpu_domain::time::UnixMillis;
use fgpu_service::secret::Token;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Makes sure that somebody can get in: while the store has no token, an administrator's token is
/// taken from outside or made and written to a file only its owner can read.
///
/// The file is written before the store is, and taken up again if the store has not got it: a crash
/// in between loses nothing.
pub(crate) async fn bootstrap(
    tokens: &Tokens,
    config: &BootstrapConfig,
    now: UnixMillis,
) -> Result<(), TokensError> {
    if !tokens.is_empty() {
        return Ok(());
    }
    // Agents first: once the administrator's token is stored, this is not entered again.
    if let Some(token) = &config.agent_token {
        tokens.insert(first(token, "agent", Role::Agent, now)).await?;
    }
    let token = match &config.token {
        Some(token) => token.clone(),
        None => token_in_file(&config.token_file)?,
    };
    tokens.insert(first(&token, "admin", Role::Admin, now)).await
}

fn first(token: &Token, user: &str, role: Role, now: UnixMillis) -> TokenRecord {
    let user = UserName::new(user).unwrap_or_else(|error| unreachable!("{error}"));
    TokenRecord::new(token, user, role, now, None)
}

/// The token in the file, made now if there is none.
fn token_in_file(path: &Path) -> Result<Token, TokensError> {
    let failed = |action| move |source| TokensError::File { action, path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            if let Ok(token) = text.trim().parse() {
                return Ok(token);
            }
            tracing::warn!(file = %path.display(), "holds no token; writing a new one");
            std::fs::remove_file(path).map_err(failed("replace"))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read")(error)),
    }
    let token = Token::generate()?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed("make a folder for"))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create"))?;
    writeln!(file, "{}", token.secret().expose()).map_err(failed("write"))?;
    file.sync_all().map_err(failed("write"))?;
    tracing::info!(file = %path.display(), "wrote the first administrator's token");
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::keys;
    use fgpu_store::{Compare, EmbeddedStore, Fault, FaultyStore, Store};
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    #[tokio::test]
    async fn the_first_token_is_written_for_its_owner_only_and_survives_a_store_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let embedded = EmbeddedStore::open(folder.path().join("store")).await.unwrap();
        let store = Arc::new(FaultyStore::new(embedded));
        let shared: Arc<dyn Store> = store.clone();
        let tokens = Tokens::new(shared, Compare::absent(keys::LEADER), Vec::new());
        let token_file = folder.path().join("made/admin.token");
        let config =
            BootstrapConfig { token_file: token_file.clone(), token: None, agent_token: None };

        store.fail_next_commits([Fault::Unavailable]);
        assert!(bootstrap(&tokens, &config, UnixMillis(1)).await.is_err());
        let written = std::fs::read_to_string(&token_file).unwrap();
        bootstrap(&tokens, &config, UnixMillis(1)).await.unwrap();

        assert_eq!(std::fs::read_to_string(&token_file).unwrap(), written);
        let mode = std::fs::metadata(&token_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let identity = tokens.authenticate(written.trim(), UnixMillis(2)).unwrap();
        assert_eq!(identity.role, Role::Admin);
        bootstrap(&tokens, &config, UnixMillis(1)).await.unwrap();
        assert_eq!(tokens.list().len(), 1);
    }
}
