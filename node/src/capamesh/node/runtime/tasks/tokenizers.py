"""Texts to tokens, by a tokenizer's file. The only importer of `tokenizers`, which is loaded where a model needs it. Pure but for the library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from capamesh.node.runtime.tasks.task import PackageMissing
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENIZER_BYTES: Final = 64 * 2**20
"""The most bytes of a tokenizer's file (guess: those of 250,000 tokens have 17 MB)."""
_PAD_NAMES: Final = ("[PAD]", "<pad>", "<|padding|>", "<|endoftext|>")
"""The names that padding has where a file does not say; it is masked, so that another number would do."""


class TextTokenizer:
    """One model's tokenizer. Safe to use from several threads at once."""

    def __init__(self, raw: bytes, *, max_tokens: int, is_truncated: bool) -> None:
        """`raw` is the tokenizer's file. A text is cut to `max_tokens` with `is_truncated`, else it may have any number.

        Raises `ModelInvalid`: the file is no tokenizer, or it adds as many tokens as there may be; `PackageMissing`.
        """
        # the machine's cores are for runs; and a pool of threads would be made for each text
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415 - a node without texts goes without
        except ImportError as exc:
            raise PackageMissing("tokenizers") from exc
        try:
            made: Any = Tokenizer.from_buffer(raw)
            padding: dict[str, int] | None = made.padding
            made.no_padding()
            made.no_truncation()
            if is_truncated:
                made.enable_truncation(max_tokens)
            made.encode("")  # what a file lacks is told at the first text
            added: int = made.num_special_tokens_to_add(False)
        except BaseException as exc:  # a panic of Rust is no Exception
            if isinstance(exc, KeyboardInterrupt | SystemExit):
                raise
            raise ModelInvalid(f"the tokenizer cannot be used: {str(exc)[:200]}") from exc
        if added >= max_tokens:
            raise ModelInvalid(
                f"text.max_tokens is {max_tokens}; the tokenizer itself adds {added} tokens to each text: allow more"
            )
        self._tokenizer: Tokenizer = made
        self.vocabulary: int = made.get_vocab_size(with_added_tokens=True)
        """The number of tokens; theirs are 0 to one less."""
        self.pad_id: int = padding["pad_id"] if padding else _pad_id(made)
        """The number that fills rows behind a text's end."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens' numbers of each text, those included that the model's kind adds. Blocks."""
        return [one.ids for one in self._tokenizer.encode_batch_fast(list(texts))]


def _pad_id(made: Tokenizer) -> int:
    for name in _PAD_NAMES:
        found = made.token_to_id(name)
        if found is not None:
            return found
    return 0
