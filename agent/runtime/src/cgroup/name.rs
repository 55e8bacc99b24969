//! Names of units of systemd.

use std::fmt::Write;

/// The slice of a session below the slice of all sessions: `fgpu-7f3c.slice` lies below
/// `fgpu.slice`, because a `-` nests.
pub fn slice_of(root: &str, session: &str) -> String {
    format!("{}-{}.slice", escape_unit(root), escape_unit(session))
}

/// `text` as one part of a unit name: every byte but letters, digits, `_`, `:` and `.` (not as the
/// first) becomes `\xNN`. So a `-` in it does not nest.
pub fn escape_unit(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let kept =
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':') || (byte == b'.' && at > 0);
        if kept {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hyphen_in_a_session_does_not_nest() {
        assert_eq!(slice_of("fgpu", "7f3c"), "fgpu-7f3c.slice");
        assert_eq!(slice_of("fgpu", "a-b"), r"fgpu-a\x2db.slice");
        assert_eq!(slice_of("my-root", "a"), r"my\x2droot-a.slice");
    }

    #[test]
    fn bytes_that_units_cannot_hold_are_escaped() {
        assert_eq!(escape_unit("a.b_c:d"), "a.b_c:d");
        assert_eq!(escape_unit(".a/ b"), r"\x2ea\x2f\x20b");
        assert_eq!(escape_unit("é"), r"\xc3\xa9");
    }
}
