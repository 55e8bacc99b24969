//! The form of one record.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of all record formats this release writes, and the newest it reads.
const FORMAT: u32 = 1;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A later release wrote it.
    #[error(
        "record {key} has format {found}, this release reads up to {FORMAT}; use the release that \
         wrote it or a newer one"
    )]
    Newer {
        /// Its key.
        key: String,
        /// Its format.
        found: u32,
    },
    /// It is not what it should be.
    #[error("record {key} cannot be read; restore it from a backup or delete the key")]
    Unreadable {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Its key and its content name different things.
    #[error("record {key} holds {found}; restore it from a backup or delete the key")]
    Misplaced {
        /// Its key.
        key: String,
        /// What it holds.
        found: String,
    },
    /// It cannot be written as JSON: a bug.
    #[error("record {key} cannot be written")]
    Unwritable {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

#[derive(Serialize)]
struct Written<'a, T> {
    format: u32,
    value: &'a T,
}

#[derive(Deserialize)]
struct Read<T> {
    format: u32,
    value: T,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The record as it is stored under `key`.
pub(crate) fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, RecordError> {
    // Room for a common session, which would else grow its buffer three times.
    let mut bytes = Vec::with_capacity(1024);
    serde_json::to_writer(&mut bytes, &Written { format: FORMAT, value })
        .map_err(|source| RecordError::Unwritable { key: key.to_owned(), source })?;
    Ok(bytes)
}

/// Reads the record stored under `key`.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
    let unreadable = |source| RecordError::Unreadable { key: key.to_owned(), source };
    let newer = |found| RecordError::Newer { key: key.to_owned(), found };
    match serde_json::from_slice::<Read<T>>(bytes) {
        Ok(Read { format, value }) if format <= FORMAT => Ok(value),
        Ok(Read { format, .. }) => Err(newer(format)),
        // A newer record may not even have the fields known here.
        Err(source) => match serde_json::from_slice::<Format>(bytes) {
            Ok(Format { format }) if format > FORMAT => Err(newer(format)),
            _ => Err(unreadable(source)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let bytes = encode("k", &vec![1, 2]).unwrap();
        assert_eq!(decode::<Vec<u32>>("k", &bytes).unwrap(), [1, 2]);
    }

    #[test]
    fn a_newer_record_is_refused_as_such_and_a_damaged_one_names_its_key() {
        let newer = decode::<Vec<u32>>("sessions/x", br#"{"format":2,"data":{}}"#).unwrap_err();
        assert!(matches!(newer, RecordError::Newer { found: 2, .. }), "{newer}");

        let readable = decode::<Vec<u32>>("sessions/x", br#"{"format":2,"value":[1]}"#);
        assert!(matches!(readable, Err(RecordError::Newer { found: 2, .. })));

        for bad in [&b"{"[..], b"{}", br#"{"format":1}"#, br#"{"format":1,"value":3}"#] {
            let refused = decode::<Vec<u32>>("sessions/x", bad).unwrap_err();
            assert!(refused.to_string().contains("sessions/x"), "{refused}");
        }
    }
}
