//! Why a replay cannot be made.

use std::io;
use std::path::PathBuf;

/// Why no replay was made. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A list could not be read.
    #[error("could not read the list {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A list lacks a column.
    #[error("{list} has no column `{column}`: the lists of the openb trace are understood")]
    NoColumn {
        /// The file.
        list: String,
        /// The column.
        column: String,
    },
    /// A cell does not hold what its column says.
    #[error("{list}, line {line}: `{text}`: {rule}")]
    Cell {
        /// The file.
        list: String,
        /// Where.
        line: usize,
        /// What stands there.
        text: String,
        /// What is wanted.
        rule: String,
    },
    /// No node has a GPU.
    #[error("none of the nodes has a GPU")]
    NoGpu,
    /// No pod can run on these nodes.
    #[error("none of the {pods} pods of the list fits one of the {nodes} nodes")]
    NoPods {
        /// Pods in the list.
        pods: usize,
        /// Nodes.
        nodes: usize,
    },
    /// A share that cannot be reached.
    #[error("{flag} {percent} is not possible: {rule}")]
    Share {
        /// The flag.
        flag: &'static str,
        /// What was asked for.
        percent: u32,
        /// What stands against it.
        rule: &'static str,
    },
    /// The replay could not be written.
    #[error("could not write the replay")]
    Write {
        /// Why.
        source: io::Error,
    },
}
