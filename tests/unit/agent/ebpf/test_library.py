"""Loading libbpf where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaosorca.agent.ebpf import library
from chaosorca.agent.ebpf.program import Program
from chaosorca.model.errors import AgentError


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have no libbpf installed."""
    monkeypatch.setattr(library, "_LIBRARY", "libnowhere.so.1")
    library.libbpf.cache_clear()
    yield
    library.libbpf.cache_clear()


@pytest.mark.usefixtures("no_library")
def test_the_message_says_where_the_library_is_installed() -> None:
    with pytest.raises(AgentError, match=r"libnowhere\.so\.1 cannot be loaded \(.*\): use the agent's image, which has it"):
        Program("arm", {})
