"""Seals: what a finished file has to look like, and the two ways to check it.

A seal holds a file's size, the digest of all its bytes and the digest of a sample. A file of up to
16 MiB is its own sample; of a larger one the sample is 256 blocks of 64 KiB, evenly spread. Readers
check size and sample, which takes milliseconds whatever the size. `--verify` and `anaglyph verify`
check all bytes.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from anaglyph.core.errors import StoreError
from anaglyph.core.files import digest, file_digest, os_error_text

BLOCK_BYTES = 64 * 2**10
BLOCKS = 256


class Seal(BaseModel):
    """A finished file's size and digests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0, description="Bytes.")
    digest: str = Field(description="Digest of all bytes (BLAKE2b, 16 bytes).")
    sample: str = Field(description="Digest of the sample: 256 blocks of 64 KiB, or all if fewer.")

    @classmethod
    def of(cls, path: Path) -> "Seal":
        """Seal a file that was just written.

        Raises:
            StoreError: It cannot be read.
        """
        try:
            whole = file_digest(path)
            return cls(size=path.stat().st_size, digest=whole, sample=sample_digest(path, whole))
        except OSError as error:
            raise StoreError(f"cannot read {os_error_text(error, path)}") from error

    def problem(self, path: Path, whole: bool = False) -> str | None:
        """Return what is wrong with a file; None if it is as it was sealed.

        Args:
            path: The file.
            whole: Read all bytes instead of the sample.
        """
        try:
            size = path.stat().st_size
            if size != self.size:
                return f"{path} has {size} bytes instead of {self.size}"
            if (file_digest(path) != self.digest) if whole else (self._sample(path) != self.sample):
                return f"{path} is damaged: its bytes are not those that were written"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"cannot read {os_error_text(error, path)}"
        return None

    def _sample(self, path: Path) -> str:
        """Return the sample's digest; a file is read once a process, unless it changes."""
        found = path.stat()
        state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = _samples.get(path)
        if known is None or known[0] != state:
            known = _samples[path] = (state, sample_digest(path))
        return known[1]


_samples: dict[Path, tuple[tuple[int, ...], str]] = {}


def sample_digest(path: Path, whole: str | None = None) -> str:
    """Return the digest of a file's sample.

    Args:
        path: The file.
        whole: The digest of all its bytes, if it is known: that of a small file's sample.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= BLOCKS * BLOCK_BYTES:
            return whole or file_digest(path)
        hasher, last = hashlib.blake2b(digest_size=16), size - BLOCK_BYTES
        for block in range(BLOCKS):
            file.seek(last * block // (BLOCKS - 1))
            hasher.update(file.read(BLOCK_BYTES))
    return hasher.hexdigest()


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with a digest of its other fields as its last field."""
    return value | {"digest": digest(value)}


def unsigned(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check a signed object that was read from ``path``, and return it without its digest.

    An object without a digest, of an earlier version, is returned as it is.

    Raises:
        StoreError: The digest is not that of the other fields.
    """
    content = {name: field for name, field in value.items() if name != "digest"}
    try:
        intact = "digest" not in value or value["digest"] == digest(content)
    except ValueError:  # NaN or inf, which we never write
        intact = False
    if not intact:
        raise StoreError(
            f"{path} is damaged: its fields do not have the digest that it states (if you have "
            'edited it, remove "digest")'
        )
    return content
