"""Configuration files as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcatd.errors import ConfigError
from flowcatd.links.text_file import FILE_BYTES, read_text


def test_a_file_as_long_as_may_be_is_read_as_it_is(tmp_path: Path) -> None:
    """Line ends and all."""
    text = "é\r\n#".ljust(FILE_BYTES - 1, "x")
    (tmp_path / "x.toml").write_bytes(text.encode())
    assert read_text(tmp_path / "x.toml") == text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "x.toml: cannot be read: No such file or directory"),
        (b"a = 1\n\xff\n", "x.toml:2: is not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "x.toml: is longer than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, said: str):
    """With its name and the reason."""
    if content is not None:
        (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_text(tmp_path / "x.toml")
    assert str(caught.value) == f"{tmp_path}/{said}"
