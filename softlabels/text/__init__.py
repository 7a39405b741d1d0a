"""Text: tokenizers, chats, tokenised corpora and packing.

``as_tokenizer`` turns a specification into a ``Tokenizer``. ``tokenize`` turns documents into a ``Corpus`` of token
ids, and ``pack`` or ``by_document`` turn that into rows.
"""

from softlabels.text.chat import encode_chat
from softlabels.text.corpus import Corpus, in_blocks, tokenize
from softlabels.text.rows import LABELLED, START, TokenRows, by_document, next_tokens, pack
from softlabels.text.tokenizer import Tokenizer
from softlabels.text.tokenizer_files import as_tokenizer, load_tokenizer

__all__ = [
    "LABELLED",
    "START",
    "Corpus",
    "TokenRows",
    "Tokenizer",
    "as_tokenizer",
    "by_document",
    "encode_chat",
    "in_blocks",
    "load_tokenizer",
    "next_tokens",
    "pack",
    "tokenize",
]
