from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.emulators import KINDS, Emulator


@pytest.fixture(scope="module", params=KINDS)
def emulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """Each emulator in turn, one process a test module."""
    running = Emulator(request.param, tmp_path_factory.mktemp(request.param)).start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
    running.kill()
