//! Configuration in layers: defaults, then a TOML file, then the environment, then flags.
//!
//! A daemon describes its file as a struct of optional [`Text`] fields (`deny_unknown_fields`,
//! `default`). [`Layers`] collects values from everywhere, later ones win, and
//! [`Layers::finish`] gives the struct together with [`Origins`]: where each value came from. The
//! daemon then resolves texts to its types with [`Resolver`], which gathers every fault instead of
//! stopping at the first.

mod duration;
mod fault;
mod layers;
mod resolver;
mod text;

pub use duration::{format_duration, parse_duration};
pub use fault::{ConfigFault, ConfigFaults, Source};
pub use layers::{Layers, Origins};
pub use resolver::Resolver;
pub use text::{Text, TextList};

#[cfg(test)]
mod tests;
