"""Text files in UTF-8: the file is one document, or each line, or paragraphs between blank lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources.protocol import Columns
from softlabels.sources.request import DataKind, OpenRequest
from softlabels.sources.text_source import TextSource
from softlabels.text import as_tokenizer, in_blocks
from softlabels.text.documents import text_encoder
from softlabels.text.options import Documents

BOM = "\ufeff"


def read_documents(path: Path, name: str, documents: Documents) -> Iterator[str]:
    """Yield the documents of a text file.

    Args:
        path: The file.
        name: Its name in messages.
        documents: ``file``, ``line`` or ``blank``.

    Raises:
        InvalidData: The file is not UTF-8; names the line.
    """
    number = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if documents == "file":
                text = file.read().removeprefix(BOM)
                if text:
                    yield text
                return
            paragraph: list[str] = []
            for number, line in enumerate(file, 1):
                text = line.rstrip("\r\n").removeprefix(BOM) if number == 1 else line.rstrip("\r\n")
                if documents == "line" and text.strip():
                    yield text
                elif documents == "blank" and text.strip():
                    paragraph.append(text)
                elif paragraph:
                    yield "\n".join(paragraph)
                    paragraph = []
            if paragraph:
                yield "\n".join(paragraph)
    except UnicodeDecodeError as error:
        raise InvalidData(
            f"{name}, after line {number}: not UTF-8, got byte {error.object[error.start]:#04x} ({error.reason}); "
            "expected text. Convert the file with iconv"
        ) from None


def _open(request: OpenRequest) -> TextSource:
    options = request.text
    if options is None:
        raise InvalidArgument(
            f"{request.spec}: text needs a tokenizer, got none; expected tokenizer='bpe:8192' or a directory, or a "
            "teacher that has one"
        )

    def texts() -> Iterator[str]:
        return read_documents(request.path, request.spec, options.documents)

    tokenizer = as_tokenizer(options.tokenizer, texts)
    encode = text_encoder(tokenizer, options, request.spec)
    return TextSource(
        request.spec, lambda: in_blocks(texts()), encode, tokenizer, options, Columns(inputs=("text",))
    )  # fmt: skip


KIND = DataKind(name="text", suffixes=(".txt",), open=_open)
