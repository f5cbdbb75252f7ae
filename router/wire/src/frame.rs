//! The four parts of a message, their limits and the encodings of the two array parts.

use crate::error::WireError;

/// Most parts of a message, checked by the transport before anything is allocated. Ours have four.
pub const MAX_PARTS: usize = 8;
/// Largest frame in bytes, checked by the transport where a length is read.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// A message as it travels: `[kind][body][ids][floats]`, parts that are not used are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frames {
    /// One byte, see [`crate::Kind`].
    pub kind: u8,
    /// JSON.
    pub body: Vec<u8>,
    /// Little-endian u32.
    pub ids: Vec<u8>,
    /// Little-endian f32.
    pub floats: Vec<u8>,
}

impl Frames {
    /// Takes a message's parts apart and checks count and sizes.
    ///
    /// # Errors
    /// [`WireError::PartCount`], [`WireError::PartTooLarge`] or [`WireError::KindLength`].
    pub fn from_parts<P: AsRef<[u8]>>(parts: &[P]) -> Result<Self, WireError> {
        let [kind, body, ids, floats] = parts else {
            return Err(WireError::PartCount { parts: parts.len() });
        };
        for (part, bytes) in parts.iter().map(|part| part.as_ref().len()).enumerate() {
            if bytes > MAX_FRAME_BYTES {
                return Err(WireError::PartTooLarge {
                    part,
                    bytes,
                    limit: MAX_FRAME_BYTES,
                });
            }
        }
        let [kind] = kind.as_ref() else {
            return Err(WireError::KindLength {
                bytes: kind.as_ref().len(),
            });
        };
        Ok(Self {
            kind: *kind,
            body: body.as_ref().to_vec(),
            ids: ids.as_ref().to_vec(),
            floats: floats.as_ref().to_vec(),
        })
    }

    /// The parts in order.
    pub fn into_parts(self) -> [Vec<u8>; 4] {
        [vec![self.kind], self.body, self.ids, self.floats]
    }
}

/// Token ids as they travel.
pub fn ids_to_bytes(ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
    ids.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Numbers as they travel.
pub fn floats_to_bytes(floats: &[f32]) -> Vec<u8> {
    floats
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Token ids from an array part.
///
/// # Errors
/// [`WireError::Misaligned`] where the part is not a whole number of ids.
pub fn ids_from_bytes(kind: &'static str, bytes: &[u8]) -> Result<Vec<u32>, WireError> {
    let whole = words(kind, "ids", bytes)?;
    Ok(whole.iter().map(|id| u32::from_le_bytes(*id)).collect())
}

/// Numbers from an array part.
///
/// # Errors
/// [`WireError::Misaligned`] where the part is not a whole number of floats.
pub fn floats_from_bytes(kind: &'static str, bytes: &[u8]) -> Result<Vec<f32>, WireError> {
    let whole = words(kind, "floats", bytes)?;
    Ok(whole
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect())
}

fn words<'b>(
    kind: &'static str,
    part: &'static str,
    bytes: &'b [u8],
) -> Result<&'b [[u8; 4]], WireError> {
    let (whole, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        return Ok(whole);
    }
    Err(WireError::Misaligned {
        kind,
        part,
        bytes: bytes.len(),
    })
}
