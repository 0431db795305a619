"""The preflight's verdict: of this device, or none."""

import pytest

from stages.train import PREFLIGHT, packs_are_plain
from text2sql.errors import UserError
from text2sql.files import write_json
from text2sql.model.device import device_name


@pytest.mark.parametrize(
    ("verdict", "plain"),
    [(None, False), ({}, False), ({"packs": "passed"}, False), ({"packs": "plain"}, True)],
)
@pytest.mark.parametrize("named", [True, False])
def test_what_the_preflight_found(tmp_path, monkeypatch, verdict, plain, named):
    monkeypatch.chdir(tmp_path)
    if verdict is not None:
        write_json(PREFLIGHT, verdict | ({"device": device_name()} if named else {}))
    assert packs_are_plain() is plain


def test_a_verdict_of_another_device_is_refused(tmp_path, monkeypatch):
    """Of a clone that has pulled what another machine pushed: DVC takes its preflight for done."""
    monkeypatch.chdir(tmp_path)
    write_json(PREFLIGHT, {"packs": "passed", "device": "Another GPU"})
    with pytest.raises(UserError, match="is of another device, Another GPU") as refused:
        packs_are_plain()
    assert "--force preflight" in refused.value.remedy
