//! How nodes that can take a request are ranked.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the best of the nodes that fit is chosen. Ties go to the node inserted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Any node that fits, and any of its devices, each with the same chance.
    Random,
    /// The node that is the most allocated afterwards, then its fullest device.
    Binpack,
    /// The node that is the least allocated afterwards, then its emptiest device.
    Spread,
    /// The node with the least CPU and GPU left over in absolute terms, then its fullest device.
    BestFit,
    /// The node where what is asked for is most alike to what is free, then its fullest device.
    DotProduct,
    /// The device whose rest loses least value to the requests that are expected, on a node that
    /// keeps CPU for the GPU it has left, of a model that is not needed more elsewhere.
    #[default]
    Fragmentation,
    /// Fragmentation Gradient Descent as published (USENIX ATC 2023): the device where the idle GPU
    /// that typical requests cannot use grows least.
    Fgd,
}

/// A text that names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no placement policy is called `{value}`: use {}", Policy::names())]
pub struct PolicyError {
    /// The text given.
    pub value: String,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 7] = [
        Self::Random,
        Self::Binpack,
        Self::Spread,
        Self::BestFit,
        Self::DotProduct,
        Self::Fgd,
        Self::Fragmentation,
    ];

    /// The name, as in configuration and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Binpack => "binpack",
            Self::Spread => "spread",
            Self::BestFit => "best-fit",
            Self::DotProduct => "dot-product",
            Self::Fgd => "fgd",
            Self::Fragmentation => "fragmentation",
        }
    }

    /// Whether it weighs nodes by the requests that are expected.
    pub(super) const fn looks_at_the_mix(self) -> bool {
        matches!(self, Self::Fgd | Self::Fragmentation)
    }

    fn names() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|policy| policy.name()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| PolicyError { value: text.to_owned() })
    }
}
