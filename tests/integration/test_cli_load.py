"""``whit load`` against a real server: one that keeps up, and one that is given far more than it takes."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.server import server_thread
from whit.cli import load_calls
from whit.cli.app import run
from whit.cli.load import Target, measure
from whit.cli.remote import Server


def test_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("a text\n\nanother one\n", encoding="utf-8")
    with server_thread(tmp_path / "data") as address:
        common = ["--server", address, "--duration-s", "0.5", "--file", str(tmp_path / "texts.txt")]

        assert run(["load", "--rate", "40", "--rate", "60", "--deadline-ms", "20000", "--json", *common]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["model"] == "tiny"
        assert [entry["rate"] for entry in found["rates"]] == [40, 60]
        for entry in found["rates"]:
            assert entry["statuses"] == {"OK": entry["request_count"]}
            assert entry["goodput"] == entry["offered"] > 0
            assert 0 < entry["latency_ms"]["p50"] <= entry["latency_ms"]["p99"] <= entry["latency_ms"]["max"]

        assert run(["load", "--rate", "40", "--deadline-ms", "20000", *common]) == 0
        shown = capsys.readouterr()
        assert "in 20000 ms, /s" in shown.out
        assert "100.0%" in shown.out
        assert "failed" not in shown.err

        assert run(["load", "--texts-per-request", "1025", *common]) == 1
        refused = capsys.readouterr()
        assert "--texts-per-request: a request to this server has at most 1,024 texts (batch_item_count)" in refused.err

        assert run(["load", "--rate", "40", "--model", "unknown", *common]) == 1
        refused = capsys.readouterr()
        assert (refused.out, refused.err.count("\n")) == ("", 1)
        assert "unknown" in refused.err


def test_overload_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server_thread(tmp_path / "data", queue_token_count=800) as address:
        command = ["load", "--server", address, "--rate", "300", "--duration-s", "0.3", "--texts-per-request", "16"]
        assert run([*command, "--deadline-ms", "20000", "--json"]) == 0

    [entry] = json.loads(capsys.readouterr().out)["rates"]
    refused = entry["statuses"]["RESOURCE_EXHAUSTED"]
    assert entry["retry_info_count"] == refused > 0
    assert entry["statuses"]["OK"] + refused == entry["request_count"]
    assert entry["goodput"] < entry["offered"]


def test_a_server_that_is_gone_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_calls, "_CONNECT_S", 0.1)
    with server_thread(tmp_path / "data") as address:
        target = Target(Server(address), "tiny", deadline_s=5.0, texts_per_request=1)

    report = asyncio.run(measure(target, ["a text"], rate=100.0, duration_s=0.2, seed=0))

    assert report.statuses == {"UNAVAILABLE": report.request_count}
    assert report.request_count > 0
    assert report.latency_ms is None


def test_files_that_cannot_be_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("empty.txt", b"\n\n"), ("latin.txt", b"gr\xfc\xdfe\n")):
        (tmp_path / name).write_bytes(content)
        assert run(["load", "--file", str(tmp_path / name)]) == 1
        refused = capsys.readouterr()
        assert refused.err.count("\n") == 1
        assert name in refused.err
