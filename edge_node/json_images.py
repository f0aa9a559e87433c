"""Images as base64 in a JSON body: what is in it is counted before it is parsed, for a parser stops for nobody."""

from __future__ import annotations

import binascii
from collections.abc import Sequence

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offramp.errors import RequestError, TooLargeError

_MOST_OF_A_KIND = 8_192  # quotes, commas, and so on, which a parser makes objects of
_STEP_BYTES = 262_144  # so much is counted, cleaned or decoded without a pause for other threads
_BOM = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16 and UTF-32
# The line breaks of MIME and the URL-safe alphabet are base64 too.
_BLANKS = b" \t\r\n\v\f"
_PLAIN = bytes.maketrans(b"-_", b"+/")
_EXPECTED = 'expected {"image": "<base64>"} or {"images": ["<base64>", …]}'


class ImagesAsJson(BaseModel):
    """A JSON body: one image or several, each as base64, with or without a `data:` prefix."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = None
    images: list[str] | None = Field(default=None)


def images_in_json(body: bytes, *, most_images: int) -> Sequence[bytes]:
    """The images of a JSON body.

    Args:
        body: as it came.
        most_images: in a request; this function allows more, but not for ever more.

    Raises:
        TooLargeError: it has far more in it than images that anybody sends.
        RequestError: it is not JSON, or not the JSON that is expected.
    """
    if body.startswith(_OTHER_MARKS):
        raise RequestError("JSON: body in UTF-16 or UTF-32, expected UTF-8; encode it so")
    body = body.removeprefix(_BOM)
    _check_counts(body, max(_MOST_OF_A_KIND, 8 * most_images))
    content = _parsed(body)
    if (content.image is None) == (content.images is None):
        raise RequestError('JSON: expected either "image" or "images", each as base64')
    texts = content.images if content.images is not None else [content.image or ""]
    if len(texts) > most_images:
        return [b""] * len(texts)  # their number is all that will be looked at
    return [_from_base64(text, number) for number, text in enumerate(texts, start=1)]


def _check_counts(body: bytes, most: int) -> None:
    for mark in b'",[{':
        found = 0
        for start in range(0, len(body), _STEP_BYTES):
            found += body.count(mark, start, start + _STEP_BYTES)
            if found > most:
                raise TooLargeError(f"JSON: more than {most} {chr(mark)} in one body; {_EXPECTED}")


def _parsed(body: bytes) -> ImagesAsJson:
    try:
        return ImagesAsJson.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise RequestError(f"JSON: body: {error}; {_EXPECTED}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestError(f"JSON: {place}: {first['msg']}; {_EXPECTED}") from error


def _from_base64(text: str, number: int) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        plain = b"".join(
            encoded[start : start + _STEP_BYTES].encode("ascii").translate(_PLAIN, _BLANKS)
            for start in range(0, len(encoded), _STEP_BYTES)
        )
        # Padding belongs to the end: a step before it that is padded would pass as whole.
        if plain.find(b"=", 0, max(0, len(plain) - 4)) >= 0:
            raise ValueError("padding before its end")
        steps = range(0, len(plain), _STEP_BYTES)
        return b"".join(
            binascii.a2b_base64(plain[start : start + _STEP_BYTES], strict_mode=True) for start in steps
        )
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are among them
        raise RequestError(f"JSON: image {number} is not base64: {error}; encode the file's bytes") from error
