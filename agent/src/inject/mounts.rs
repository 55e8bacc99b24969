//! Which host folders a session may mount: only those below the administrator's, and never a way
//! to the container engine or to the agent's own files.

use std::path::{Path, PathBuf};

/// Sockets that give whoever reaches them the whole machine.
const ENGINE_SOCKETS: [&str; 5] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
];

/// Why a mount is refused.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// It is not there.
    #[error("mount source {source_path} cannot be used on this node")]
    Missing {
        /// The path asked for.
        source_path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is outside of what is allowed.
    #[error(
        "mount source {source_path} (really {real}) is not below an allowed folder: {allowed}; \
         an administrator may add one with `--allowed-mount`"
    )]
    NotAllowed {
        /// The path asked for.
        source_path: String,
        /// Where it leads.
        real: String,
        /// What is allowed.
        allowed: String,
    },
    /// It holds, or is, something no session may see.
    #[error("mount source {source_path} would give the container {what}")]
    Forbidden {
        /// The path asked for.
        source_path: String,
        /// What.
        what: String,
    },
    /// The place in the container is ours.
    #[error("mount target {target} is not allowed: `/run/fgpu` belongs to fgpu")]
    Target {
        /// The place asked for.
        target: String,
    },
}

/// The rules of one node.
#[derive(Debug, Clone, Default)]
pub struct MountRules {
    /// Folders of the administrator.
    pub allowed: Vec<PathBuf>,
    /// The engine's socket and the agent's state folder.
    pub forbidden: Vec<PathBuf>,
}

impl MountRules {
    /// The real path to mount for `source`, all links resolved.
    ///
    /// # Errors
    /// [`MountError`] with the rule it breaks.
    pub fn resolve(&self, source: &str, target: &str) -> Result<PathBuf, MountError> {
        if Path::new(target).components().any(|part| part.as_os_str() == "..")
            || Path::new(target).starts_with("/run/fgpu")
            || Path::new("/run/fgpu").starts_with(target)
        {
            return Err(MountError::Target { target: target.to_owned() });
        }
        let real = std::fs::canonicalize(source).map_err(|error| MountError::Missing {
            source_path: source.to_owned(),
            source: error,
        })?;
        let sockets = ENGINE_SOCKETS.iter().map(PathBuf::from);
        for secret in self.forbidden.iter().cloned().chain(sockets) {
            let real_secret = std::fs::canonicalize(&secret).unwrap_or_else(|_| secret.clone());
            if real_secret.starts_with(&real) || real.starts_with(&real_secret) {
                let what = format!("{}, which no session may see", secret.display());
                return Err(MountError::Forbidden { source_path: source.to_owned(), what });
            }
        }
        let below = |folder: &PathBuf| {
            std::fs::canonicalize(folder).is_ok_and(|folder| real.starts_with(folder))
        };
        if self.allowed.iter().any(below) {
            return Ok(real);
        }
        let allowed: Vec<String> = self.allowed.iter().map(|p| p.display().to_string()).collect();
        let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        let real = real.display().to_string();
        Err(MountError::NotAllowed { source_path: source.to_owned(), real, allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree {
        root: tempfile::TempDir,
        rules: MountRules,
    }

    fn tree() -> Tree {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["data/set", "other", "state/logs"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        symlink(at("other"), at("data/out")).unwrap();
        symlink(at("data/set"), at("data/in")).unwrap();
        symlink(at("state/logs"), at("data/logs")).unwrap();
        let rules = MountRules { allowed: vec![at("data")], forbidden: vec![at("state")] };
        Tree { root, rules }
    }

    fn resolve(tree: &Tree, source: &str) -> Result<PathBuf, MountError> {
        tree.rules.resolve(&tree.root.path().join(source).to_string_lossy(), "/data")
    }

    #[test]
    fn links_are_followed_before_the_rule_is_asked() {
        let tree = tree();
        let set = tree.root.path().canonicalize().unwrap().join("data/set");

        assert_eq!(resolve(&tree, "data/set").unwrap(), set);
        assert_eq!(resolve(&tree, "data/in").unwrap(), set);
        for outside in ["other", "data/out", "data/../other"] {
            let refused = resolve(&tree, outside).unwrap_err();
            assert!(matches!(refused, MountError::NotAllowed { .. }), "{outside}: {refused}");
        }
        assert!(matches!(resolve(&tree, "data/none"), Err(MountError::Missing { .. })));
    }

    #[test]
    fn nothing_that_leads_to_the_agent_or_the_engine_is_mounted() {
        let mut tree = tree();
        tree.rules.allowed = vec![tree.root.path().to_owned(), PathBuf::from("/")];

        for source in ["state", "data/logs", "."] {
            let refused = resolve(&tree, source).unwrap_err();
            assert!(matches!(refused, MountError::Forbidden { .. }), "{source}: {refused}");
        }
        let refused = tree.rules.resolve("/run", "/host").unwrap_err();
        assert!(matches!(refused, MountError::Forbidden { .. }), "{refused}");
    }

    #[test]
    fn the_place_of_the_slice_file_is_ours() {
        let tree = tree();
        let source = tree.root.path().join("data").to_string_lossy().into_owned();

        for target in ["/run/fgpu", "/run/fgpu/x", "/run", "/", "/a/../run/fgpu"] {
            let refused = tree.rules.resolve(&source, target).unwrap_err();
            assert!(matches!(refused, MountError::Target { .. }), "{target}: {refused}");
        }
    }
}
