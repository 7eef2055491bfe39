"""Loading, with the runtime faked: what is refused and how."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from whit.contract.manifest import PackageError
from whit.runtime import Verification
from whit.server.engine import loading

GOOD = Verification(verified=True, text_count=4, max_abs_difference=0.0, min_cosine=1.0, tolerance=1e-5)
BAD = Verification(verified=False, text_count=4, max_abs_difference=0.25, min_cosine=0.9, tolerance=1e-5)


@pytest.fixture
def outcome(monkeypatch):
    """By directory name: the package is named after its directory, and verification gives what this dict says."""
    outcomes: dict[str, Verification] = {}

    def open_package(directory):
        return SimpleNamespace(
            directory=directory, size_bytes=5, manifest=SimpleNamespace(name=directory.name, fingerprint="sha256:0")
        )

    monkeypatch.setattr(loading, "open_package", open_package)
    monkeypatch.setattr(loading, "open_tokenizer", lambda package: SimpleNamespace(encode=lambda texts: texts))
    monkeypatch.setattr(
        loading, "open_encoder", lambda package, provider: SimpleNamespace(run=lambda sequences: sequences)
    )
    monkeypatch.setattr(loading, "read_golden", lambda package: package.manifest.name)
    monkeypatch.setattr(loading, "compare", lambda golden, *_: outcomes[golden])
    return outcomes


def test_models_are_loaded_by_name(outcome):
    outcome |= {"one": GOOD, "two": GOOD}
    models = loading.load_models([Path("a/one"), Path("b/two")])
    assert list(models) == ["one", "two"]
    assert models["one"].verified
    assert models["one"].fingerprint == "sha256:0"
    assert models["one"].verify() is GOOD


def test_golden_vectors_that_differ_are_refused(outcome):
    outcome["one"] = BAD
    with pytest.raises(PackageError, match=r"differ on this machine by up to 0.25.*--allow-unverified"):
        loading.load_model(Path("one"))


def test_golden_vectors_that_differ_may_be_allowed(outcome, caplog):
    outcome["one"] = BAD
    assert not loading.load_model(Path("one"), allow_unverified=True).verified
    assert "serving it all the same" in caplog.text


def test_one_name_twice_is_refused(outcome):
    outcome["one"] = GOOD
    with pytest.raises(PackageError, match=r"b/one and a/one are both named 'one'"):
        loading.load_models([Path("a/one"), Path("b/one")])


def test_a_name_that_cannot_be_a_resource_name_is_refused(outcome):
    with pytest.raises(PackageError, match="'no good' cannot be a model id"):
        loading.load_model(Path("no good"))


@pytest.mark.parametrize(
    ("seconds", "expected"), [([0.9, 0.1, 0.3e-3, 0.3, 0.3], True), ([0.9, 0.5e-3, 0.1, 0.3, 0.3], False)]
)
def test_a_model_is_instant_by_its_best_run(outcome, monkeypatch, seconds, expected):
    outcome["one"] = GOOD
    ticks = iter([t for i, s in enumerate(seconds) for t in (float(i), i + s)])
    monkeypatch.setattr(loading.time, "perf_counter", lambda: next(ticks))
    assert loading.load_model(Path("one")).is_instant is expected
