//! `Content-Encoding` (RFC 9110, section 8.4). Nothing else than gzip is in use, and it is not asked
//! for, but some servers and the caches before them send it anyway. Go's client, which asks for it,
//! decodes it unseen.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use ureq::Body;
use ureq::http::Response;

/// What encoded content begins with (RFC 1952, section 2.3.1).
pub(super) const GZIP: &[u8] = &[0x1f, 0x8b];

/// Whether the content is encoded, as the header says.
pub(super) fn is_gzip(response: &Response<Body>) -> bool {
    let values = response.headers().get_all("Content-Encoding");
    (values.iter().filter_map(|value| value.to_str().ok()))
        .any(|value| ["gzip", "x-gzip"].contains(&&*value.trim().to_ascii_lowercase()))
}

/// Whether the content of a layer of this size is encoded. Object stores keep the header that a
/// compressed file was once uploaded with; then the header is about what is in the layer, and the
/// length is that of the layer itself.
pub(super) fn is_gzip_around(response: &Response<Body>, size: u64) -> bool {
    let length = response.headers().get("Content-Length");
    let length = length.and_then(|length| length.to_str().ok());
    is_gzip(response) && length.and_then(|length| length.trim().parse().ok()) != Some(size)
}

/// Reads the content.
pub(super) fn decoder<R: Read>(encoded: R) -> MultiGzDecoder<R> {
    MultiGzDecoder::new(encoded)
}
