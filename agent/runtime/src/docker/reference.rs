//! Names of images.

use crate::RuntimeError;

/// Registry of names that name none.
const HUB: &str = "docker.io";

/// The name of an image, taken apart: `registry/repository:tag@digest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// Host name, and port, of the registry; `docker.io` where none is named.
    pub registry: String,
    /// Name to pull by: everything but tag and digest, as it was written.
    pub name: String,
    /// Tag; `latest` where neither tag nor digest is named.
    pub tag: Option<String>,
    /// Digest, as `sha256:…`.
    pub digest: Option<String>,
}

impl ImageReference {
    /// Takes `image` apart.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidSpec`] where it is no name of an image.
    pub fn parse(image: &str) -> Result<Self, RuntimeError> {
        let fault = |reason: &str| RuntimeError::invalid("image", format!("`{image}` {reason}"));
        let (rest, digest) = match image.split_once('@') {
            Some((rest, digest)) if digest.contains(':') => (rest, Some(digest.to_owned())),
            Some(_) => return Err(fault("has a digest without an algorithm such as sha256:")),
            None => (image, None),
        };
        // A colon before the last slash belongs to the port of the registry.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].split_once(':') {
            Some((file, tag)) => (&rest[..last + file.len()], Some(tag.to_owned())),
            None => (rest, None),
        };
        let kept = |each: char| each.is_ascii_alphanumeric() || "._-/:[]".contains(each);
        if name.is_empty() || !name.chars().all(kept) || name.ends_with('/') {
            return Err(fault("is not an image name such as registry/name:tag"));
        }
        if tag.as_ref().is_some_and(String::is_empty) {
            return Err(fault("has an empty tag"));
        }
        let registry = match name.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
            _ => HUB,
        };
        Ok(Self {
            registry: registry.to_owned(),
            name: name.to_owned(),
            tag: match (&tag, &digest) {
                (None, None) => Some("latest".to_owned()),
                _ => tag,
            },
            digest,
        })
    }

    /// What to pull of [`Self::name`]: the digest where there is one, else the tag. Never empty:
    /// an engine would pull every tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The keys under which Docker's configuration may hold the credentials of the registry.
    pub(super) fn credential_keys(&self) -> Vec<String> {
        let host = &self.registry;
        if host == HUB {
            return vec!["https://index.docker.io/v1/".to_owned(), host.clone()];
        }
        vec![
            host.clone(),
            format!("https://{host}"),
            format!("http://{host}"),
            format!("https://{host}/"),
            format!("https://{host}/v1/"),
            format!("https://{host}/v2/"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let cases = [
            ("busybox", "docker.io", "busybox", "latest"),
            ("nvcr.io/nim/a:1.2", "nvcr.io", "nvcr.io/nim/a", "1.2"),
            ("me/tool", "docker.io", "me/tool", "latest"),
            ("localhost/a", "localhost", "localhost/a", "latest"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000", "127.0.0.1:5000/a", "latest"),
            ("h:5000/a/b:t@sha256:00", "h:5000", "h:5000/a/b", "sha256:00"),
            ("a@sha256:00", "docker.io", "a", "sha256:00"),
        ];
        for (image, registry, name, version) in cases {
            let parsed = ImageReference::parse(image).unwrap();
            assert_eq!(
                (parsed.registry.as_str(), parsed.name.as_str(), parsed.version()),
                (registry, name, version),
                "{image}"
            );
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", ":tag", "a b", "a:", "a@latest", "h.io/", "a?x=1"] {
            assert!(ImageReference::parse(bad).is_err(), "{bad}");
        }
    }
}
