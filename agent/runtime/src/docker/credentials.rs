//! Credentials of registries, as Docker's own configuration on the node holds them.
//!
//! They come from `config.json`: a helper for the registry (`credHelpers`), the helper for all
//! (`credsStore`), or the file itself (`auths`). Helpers are the programs
//! `docker-credential-<name>`. Secrets are never logged and never part of an error.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::ImageReference;
use crate::RuntimeError;

const HELPER_DEADLINE: Duration = Duration::from_secs(15);
/// What helpers answer as user name where the secret is a token.
const TOKEN_USER: &str = "<token>";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: HashMap<String, Auth>,
    creds_store: String,
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Auth(***)")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The credentials for the registry of `image`; `None` where the configuration has none.
pub(super) async fn find(
    config: &Path,
    image: &ImageReference,
) -> Result<Option<DockerCredentials>, RuntimeError> {
    let fault =
        |reason: String| RuntimeError::Credentials { registry: image.registry.clone(), reason };
    let text = match tokio::fs::read_to_string(config).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| fault(format!("{}: {error}", config.display())))?,
    };
    let file: ConfigFile = serde_json::from_str(&text).map_err(|error| {
        // The text of the error could quote a secret: its place is enough.
        fault(format!(
            "{} is not valid at line {}, column {}",
            config.display(),
            error.line(),
            error.column()
        ))
    })?;
    let keys = image.credential_keys();
    let own = keys.iter().find_map(|key| file.cred_helpers.get(key));
    let helper = own.filter(|name| !name.is_empty()).or(Some(&file.creds_store));
    if let Some(name) = helper.filter(|name| !name.is_empty()) {
        if name.contains('/') {
            return Err(fault(format!("`{name}` is not the name of a credential helper")));
        }
        let program = format!("docker-credential-{name}");
        let found = from_helper(&program, &keys[0]).await.map_err(&fault)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    match keys.iter().find_map(|key| file.auths.get(key)) {
        Some(auth) => from_file(auth, &keys[0]).map_err(fault),
        None => Ok(None),
    }
}

fn from_file(auth: &Auth, server: &str) -> Result<Option<DockerCredentials>, String> {
    let (mut username, mut password) = (auth.username.clone(), auth.password.clone());
    if !auth.auth.is_empty() {
        let decoded =
            STANDARD.decode(auth.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or("its `auth` is not base64 of user:password")?;
        let (user, secret) =
            decoded.split_once(':').ok_or("its `auth` is not base64 of user:password")?;
        // Docker pads the password with zero bytes.
        username = user.to_owned();
        password = secret.trim_end_matches('\0').to_owned();
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let found = DockerCredentials {
        username: some(&username),
        password: some(&password),
        identitytoken: some(&auth.identitytoken),
        registrytoken: some(&auth.registrytoken),
        serveraddress: Some(server.to_owned()),
        ..DockerCredentials::default()
    };
    // An entry without any secret only says that a helper holds it.
    let any =
        found.username.is_some() || found.identitytoken.is_some() || found.registrytoken.is_some();
    Ok(any.then_some(found))
}

async fn from_helper(program: &str, server: &str) -> Result<Option<DockerCredentials>, String> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program} could not be run: {error}"))?;
    let mut input = child.stdin.take().ok_or("no input")?;
    let talk = async {
        // A helper that does not read its input says so by how it ends.
        let _ = input.write_all(server.as_bytes()).await;
        drop(input);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_DEADLINE, talk)
        .await
        .map_err(|_| format!("{program} did not end within {} s", HELPER_DEADLINE.as_secs()))?
        .map_err(|error| format!("{program} could not be run: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        return match said.contains("not found") {
            true => Ok(None),
            false => Err(format!("{program} failed: {}", said.trim())),
        };
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("{program} did not answer with Username and Secret"))?;
    let mut found = DockerCredentials {
        serveraddress: Some(server.to_owned()),
        ..DockerCredentials::default()
    };
    if answer.username == TOKEN_USER {
        found.identitytoken = Some(answer.secret);
    } else {
        found.username = Some(answer.username);
        found.password = Some(answer.secret);
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(config: &str, image: &str) -> Result<Option<DockerCredentials>, RuntimeError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        find(&path, &ImageReference::parse(image).unwrap()).await
    }

    #[tokio::test]
    async fn a_password_in_the_file_is_for_its_registry_alone() {
        let secret = STANDARD.encode("me:pa:ss");
        let config = format!(r#"{{"auths":{{"https://r.io/v1/":{{"auth":"{secret}"}}}}}}"#);

        let mine = found(&config, "r.io/a").await.unwrap().unwrap();
        assert_eq!(mine.username.as_deref(), Some("me"));
        assert_eq!(mine.password.as_deref(), Some("pa:ss"));
        assert!(found(&config, "other.io/a").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_hub_has_a_key_of_its_own() {
        let secret = STANDARD.encode("hub:x");
        let config =
            format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{secret}"}}}}}}"#);
        let mine = found(&config, "busybox").await.unwrap().unwrap();
        assert_eq!(mine.username.as_deref(), Some("hub"));
    }

    #[tokio::test]
    async fn no_file_and_no_entry_mean_no_credentials() {
        let image = ImageReference::parse("r.io/a").unwrap();
        let nowhere = Path::new("/nowhere/config.json");
        assert!(find(nowhere, &image).await.unwrap().is_none());
        assert!(found("{}", "r.io/a").await.unwrap().is_none());
        let empty = r#"{"auths":{"r.io":{}}}"#;
        assert!(found(empty, "r.io/a").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_broken_file_is_an_error_that_quotes_no_secret() {
        for config in [
            r#"{"auths":{"r.io":{"auth":"c2VjcmV0"}}}"#,
            r#"{"auths":{"r.io":{"auth":"sec ret!"}}}"#,
            r#"{"auths":{"r.io":{"auth":"secret""#,
        ] {
            let error = found(config, "r.io/a").await.unwrap_err();
            assert!(matches!(error, RuntimeError::Credentials { .. }), "{error:?}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_missing_helper_is_an_error_that_names_it() {
        let config = r#"{"credHelpers":{"r.io":"fgpu-absent"}}"#;
        let error = found(config, "r.io/a").await.unwrap_err().to_string();
        assert!(error.contains("docker-credential-fgpu-absent"), "{error}");
    }

    /// What a helper answers for the server it is asked about.
    async fn answered(script: &str) -> Result<Option<DockerCredentials>, String> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper");
        // Renamed when it is closed: one that is open for writing cannot be run.
        let draft = folder.path().join("draft");
        std::fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&draft, &path).unwrap();
        from_helper(&path.to_string_lossy(), "r.io").await
    }

    #[tokio::test]
    async fn a_helper_is_asked_for_the_server_and_gives_a_password_or_a_token() {
        let script = r#"[ "$1" = get ] && echo "{\"Username\":\"me\",\"Secret\":\"for $(cat)\"}""#;
        let found = answered(script).await.unwrap().unwrap();
        assert_eq!(found.username.as_deref(), Some("me"));
        assert_eq!(found.password.as_deref(), Some("for r.io"));

        let script = r#"cat >/dev/null; echo '{"Username":"<token>","Secret":"t"}'"#;
        let found = answered(script).await.unwrap().unwrap();
        assert_eq!((found.username, found.identitytoken.as_deref()), (None, Some("t")));
    }

    #[tokio::test]
    async fn a_helper_without_credentials_is_not_an_error_but_a_broken_one_is() {
        let none = "echo 'credentials not found in native keychain'; exit 1";
        assert!(answered(none).await.unwrap().is_none());
        assert!(answered("echo locked; exit 1").await.unwrap_err().contains("locked"));
        let leaks = answered("echo '{\"Secret\":\"s3cret\"}'").await.unwrap_err();
        assert!(!leaks.contains("s3cret"), "{leaks}");
    }
}
