//! What the store holds: one JSON record under one key each, with the version of its format.
//!
//! Keys: `cluster` (made once), `nodes/<name>`, `sessions/<id>`,
//! `projects/<name>`, `classes/<name>`, `usage/<project>`, `tokens/<id>`, `engine/commit` (the
//! mark of the last batch) and `leader`.

pub(crate) mod keys;
mod load;
mod record;

pub(crate) use load::ensure_cluster;
pub use load::{LoadedRecords, load_records, seed_records};
pub use record::RecordError;
pub(crate) use record::{decode, encode};
