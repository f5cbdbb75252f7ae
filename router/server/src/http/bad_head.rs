//! Answers to heads that are no HTTP. hyper answers them by itself, with a status and no body, and has no way to change
//! that; so what it writes is told by its look, and replaced by the API's error object.

use bytes::Bytes;

use super::error::ServerError;

/// Our answer in place of the bytes that hyper is about to write, if these are its own answer to a bad head.
///
/// No answer of ours looks like it: all have a body. Nor can text of a model that happens to begin a write: line ends are
/// escaped in JSON.
pub(super) fn in_place_of(written: &[u8]) -> Option<Bytes> {
    let head = std::str::from_utf8(written)
        .ok()?
        .strip_suffix("\r\n\r\n")?;
    let (line, headers) = head.split_once("\r\n")?;
    let (version, status) = line.split_once(' ')?;
    let empty = headers
        .split("\r\n")
        .any(|header| header == "content-length: 0");
    if !version.starts_with("HTTP/1.") || !empty {
        return None;
    }
    let what = match status.get(..3)? {
        "400" => "it is not valid HTTP/1.1",
        "414" => "its URL is too long",
        "431" => "its head is too large or has too many headers",
        _ => return None,
    };
    let body = ServerError::BadHead { what }.to_json();
    let head = format!(
        "{line}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\
         x-should-retry: false\r\n\r\n",
        body.len()
    );
    Some([head.as_bytes(), &body].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_answer_is_replaced() {
        let own = b"HTTP/1.0 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let ours = "HTTP/1.0 414 URI Too Long\r\ncontent-type: application/json\r\ncontent-length: 140\r\n\
                    connection: close\r\nx-should-retry: false\r\n\r\n\
                    {\"error\":{\"message\":\"the request cannot be read: its URL is too long\",\
                    \"type\":\"invalid_request_error\",\"param\":null,\"code\":\"invalid_request\"}}";
        let given = in_place_of(own).unwrap();
        assert_eq!(std::str::from_utf8(&given), Ok(ours));
        let others: [&[u8]; 5] = [
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n{}",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"",
        ];
        assert_eq!(others.map(in_place_of), [const { None }; 5]);
    }
}
