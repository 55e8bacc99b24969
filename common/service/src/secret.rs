//! Bearer tokens: 256 random bits with a public beginning, shown once, stored only as a hash.
//!
//! A token reads `fgpu_<id>_<secret>`. The id names it in lists and for revoking; the secret is
//! base64url. Random secrets of this size need no slow hash: SHA-256 is enough.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt::{self, Write as _};
use std::str::FromStr;
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "fgpu_";
const ID_BYTES: usize = 5;
const SECRET_BYTES: usize = 32;
/// Shortest secret accepted from outside; 32 characters of base64url are 192 bits.
const MIN_SECRET_LEN: usize = 32;
const MAX_LEN: usize = 256;

/// A text that does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A token in full, as its holder has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    id: TokenId,
    secret: Secret,
}

/// The public part of a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(String);

/// What is stored of a token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; 32]);

/// A text that is not a token. The text is not repeated: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a token: `fgpu_`, 6 to 32 lower-case letters or digits, `_`, and at least {MIN_SECRET_LEN} \
     letters, digits, `-` or `_`"
)]
pub struct TokenError;

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed")]
pub struct RandomError(#[source] getrandom::Error);

impl Secret {
    /// Hides `text` from logs.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Token {
    /// A new random token.
    ///
    /// # Errors
    /// [`RandomError`] if the system has no randomness to give.
    pub fn generate() -> Result<Self, RandomError> {
        let id = hex(&random::<ID_BYTES>()?);
        let secret = URL_SAFE_NO_PAD.encode(random::<SECRET_BYTES>()?);
        let text = Secret(format!("{PREFIX}{id}_{secret}"));
        Ok(Self { id: TokenId(id), secret: text })
    }

    /// Its public part.
    #[must_use]
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The whole token.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What to store of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.secret.0.as_bytes()).into())
    }

    /// Whether `stored` was made from this token; takes the same time whether or not.
    #[must_use]
    pub fn matches(&self, stored: &TokenHash) -> bool {
        self.hash().0.ct_eq(&stored.0).into()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text.strip_prefix(PREFIX).filter(|_| text.len() <= MAX_LEN);
        let (id, secret) = rest.and_then(|rest| rest.split_once('_')).ok_or(TokenError)?;
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if secret.len() < MIN_SECRET_LEN || !secret.bytes().all(fine) {
            return Err(TokenError);
        }
        let id = TokenId::try_from(id.to_owned())?;
        Ok(Self { id, secret: Secret(text.to_owned()) })
    }
}

impl TokenId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for TokenId {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let valid = (6..=32).contains(&text.len()) && text.bytes().all(fine);
        valid.then_some(Self(text)).ok_or(TokenError)
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.0
    }
}

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "a hash is 64 hexadecimal digits";
        if text.len() != 64 || !text.is_ascii() {
            return Err(RULE);
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| RULE)?;
        }
        Ok(Self(bytes))
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hex(&hash.0)
    }
}

/// `N` random bytes of the system.
///
/// # Errors
/// [`RandomError`] if the system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(RandomError)?;
    Ok(bytes)
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_matches_only_its_own_hash() {
        let (one, other) = (Token::generate().unwrap(), Token::generate().unwrap());
        let stored = String::from(one.hash());

        let read: Token = one.secret().expose().parse().unwrap();
        let hash = TokenHash::try_from(stored).unwrap();

        assert_eq!(read, one);
        assert!(read.matches(&hash));
        assert!(!other.matches(&hash));
    }

    #[test]
    fn neither_token_nor_hash_shows_itself() {
        let token = Token::generate().unwrap();
        let secret = token.secret().expose().splitn(3, '_').nth(2).unwrap().to_owned();
        let shown = format!("{token:?} {:?} {:?}", token.secret(), token.hash());
        assert!(!shown.contains(&secret), "{shown}");
        assert!(!shown.contains(&String::from(token.hash())), "{shown}");
    }

    #[test]
    fn what_is_too_short_or_oddly_spelled_is_no_token() {
        let long = "a".repeat(40);
        for bad in [
            String::new(),
            format!("gh_abcdef_{long}"),
            format!("fgpu_abcdef{long}"),
            format!("fgpu_ABCDEF_{long}"),
            "fgpu_abcdef_short".to_owned(),
            format!("fgpu_abcdef_{long} "),
            format!("fgpu_abcdef_{}", "a".repeat(300)),
        ] {
            assert_eq!(bad.parse::<Token>(), Err(TokenError), "{bad}");
        }
        assert!(format!("fgpu_abcdef_{long}").parse::<Token>().is_ok());
    }

    #[test]
    fn a_stored_hash_that_is_damaged_is_refused() {
        for bad in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            assert!(TokenHash::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
