//! Names of images, so that two ways to write one are known to be the same.

/// Registry of names that name none.
const HUB: &str = "docker.io";

/// The name in full: registry, repository, and what of it: `docker.io/library/busybox:latest` for
/// `busybox`. A name with a digest is known by that alone.
#[must_use]
pub fn full_name(image: &str) -> String {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash belongs to the port of the registry.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].split_once(':') {
        Some((file, tag)) => (&rest[..last + file.len()], tag),
        None => (rest, "latest"),
    };
    let name = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            match (host, path.contains('/')) {
                ("index.docker.io" | HUB, true) => format!("{HUB}/{path}"),
                ("index.docker.io" | HUB, false) => format!("{HUB}/library/{path}"),
                _ => name.to_owned(),
            }
        }
        Some(_) => format!("{HUB}/{name}"),
        None => format!("{HUB}/library/{name}"),
    };
    match digest {
        Some(digest) => format!("{name}@{digest}"),
        None => format!("{name}:{tag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::full_name;

    #[test]
    fn names_that_mean_the_same_are_the_same_in_full() {
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox:latest", "docker.io/library/busybox:latest"),
            ("me/tool:1", "docker.io/me/tool:1"),
            ("nvcr.io/nim/a:1.2", "nvcr.io/nim/a:1.2"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("h:5000/a/b:t@sha256:00", "h:5000/a/b@sha256:00"),
            ("a@sha256:00", "docker.io/library/a@sha256:00"),
        ];
        for (image, full) in cases {
            assert_eq!(full_name(image), full, "{image}");
            assert_eq!(full_name(full), full, "a full name stays as it is");
        }
    }
}
