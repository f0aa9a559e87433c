"""Files in a multipart body, as RFC 7578 says: cut at its boundary, which costs the same whatever is in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from python_multipart.multipart import parse_options_header

from offramp.errors import RequestError, TooLargeError

_PART_HEAD_BYTES = 8_192
_PART_HEADERS = 16
_PADDING_BYTES = 80  # blanks behind a boundary
_LOOKALIKES = 1_000  # places that only begin like a boundary
_CHARSETS = {b"", b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1"}


def images_in_multipart(
    data: bytes, content_type: str, *, most_images: int, most_in_words: str
) -> Sequence[bytes]:
    """The files of a multipart body, whatever the names of their fields.

    Args:
        data: the body.
        content_type: of the request, which has the boundary.
        most_images: in one request.
        most_in_words: that number and what sets it, for the error.

    Raises:
        TooLargeError: there are more files, or the head of a part is too large.
        RequestError: it is not a multipart body, or ends early, or has a field that is no file.
    """
    boundary = _boundary(content_type)
    images: list[bytes] = []
    for start, stop in _parts(data, boundary):
        if len(images) == most_images:
            raise TooLargeError(
                f"multipart: more than {most_images} parts; send 1 to {most_in_words} files and no other fields"
            )
        images.append(_content(data, start, stop, len(images) + 1))
    return images


def _boundary(content_type: str) -> bytes:
    _, options = parse_options_header(content_type)
    if options.get(b"charset", b"").lower() not in _CHARSETS:
        raise RequestError(
            f"multipart: unknown charset '{options[b'charset'].decode('latin-1')}'; leave the charset out of the "
            "content type"
        )
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise RequestError(
            f"multipart: the content type '{content_type}' has no boundary of 1 to 70 characters; leave the content "
            "type to your HTTP client"
        )
    return boundary


def _parts(data: bytes, boundary: bytes) -> Iterator[tuple[int, int]]:
    """Where each part begins and ends, its head included, and the line break of the boundary before it."""
    mark = b"--" + boundary
    lookalikes = 0
    begin: int | None = None
    at = 0 if data.startswith(mark) else _found(data, b"\r\n" + mark, 0)
    while at >= 0:
        behind = at + len(mark) if data.startswith(mark, at) else at + len(mark) + 2
        is_last = data.startswith(b"--", behind)
        line_end = behind if is_last else data.find(b"\r\n", behind, behind + _PADDING_BYTES)
        if line_end < 0 or data[behind:line_end].strip(b" \t"):
            lookalikes += 1
            if lookalikes > _LOOKALIKES:
                raise RequestError("multipart: the boundary is part of the files; choose another one")
            at = data.find(b"\r\n" + mark, behind)
            continue
        if begin is not None:
            yield begin, at
        if is_last:
            return
        begin = line_end
        # A part without content may share the line break that ends its head with the boundary behind it.
        at = data.find(b"\r\n" + mark, line_end + 2)
    raise RequestError("multipart: the body ends before its last boundary; send the whole body again")


def _found(data: bytes, mark: bytes, start: int) -> int:
    at = data.find(mark, start)
    if at < 0:
        raise RequestError(
            "multipart: the boundary of the content type is nowhere in the body; leave the content type to your HTTP "
            "client"
        )
    return at


def _content(data: bytes, start: int, stop: int, number: int) -> bytes:
    end = data.find(b"\r\n\r\n", start, start + _PART_HEAD_BYTES)
    lines = data[start + 2 : end].split(b"\r\n", _PART_HEADERS) if end > start else []
    if len(lines) > _PART_HEADERS or (end < 0 and stop - start > _PART_HEAD_BYTES):
        raise TooLargeError(
            f"multipart: part {number} has a head of more than {_PART_HEADERS} headers or {_PART_HEAD_BYTES} bytes; "
            "send less"
        )
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
    }
    _, options = parse_options_header(headers.get(b"content-disposition"))
    if b"filename" not in options:
        raise RequestError(
            f"multipart: part {number} is not a file; send files with names, and no other fields"
        )
    return data[end + 4 : stop]
