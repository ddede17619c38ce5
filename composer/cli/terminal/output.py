"""Standard output and standard error that outlive their reader, and say so where they cannot be written."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from composer.settings.errors import UserError, os_message

_GONE = (errno.EPIPE, errno.EIO)
"""What writing to a pipe without a reader, and to a closed terminal, fails with."""


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Within the context, show warnings as their text, without the line of code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def outliving_readers() -> Iterator[None]:
    """Within the context, drop what is printed once nobody reads it; other errors of writing are UserErrors.

    `| head` or a pager that is closed must not end hours of training, and a short command ends quietly.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Outliving(stream)) if stream else stream for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Outliving:
    """A text stream whose `write` and `flush` do not fail for want of a reader."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write or drop the text; return its length."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, if anybody reads."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except OSError as error:
            # nothing can be said on a stream that failed, not even that it did
            _discard(self._stream)
            if error.errno not in _GONE:
                name = self._stream.name.strip("<>")
                raise UserError(f"{name}: {os_message(error)}") from None


def _discard(stream: TextIO) -> None:
    """Send what a stream still buffers, and all that follows, nowhere."""
    with suppress(OSError, ValueError):  # a stream without a file descriptor buffers nothing
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
