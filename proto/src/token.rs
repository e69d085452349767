//! Tokens as they are kept: by the hash of their secret.

/// Hash under which a token's secret is kept. The secret has 256 random bits: no slow hash is needed.
pub fn secret_hash(secret: &str) -> [u8; 32] {
    *fleet::digest::Digest::of("muster.token.v1", &[secret.as_bytes()]).as_bytes()
}
