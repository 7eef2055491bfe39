"""The regression gate's arithmetic: paired ratios, and what counts as a regression."""

import pytest

quick = pytest.importorskip("bench.quick")


def found(**ratios):
    return {"ratios": dict.fromkeys(quick.TOLERANCES, 1.0) | ratios, "changed_vectors": 0}


def test_ratios_are_medians_of_pairs_within_rounds():
    cheap = {"float32": 2.0, "int8": 1.0, "stream": 2.0, "alone": 1.0, "single": 4.0}
    slow_round = {name: 100 * value for name, value in cheap.items()}
    assert quick.ratios([cheap, slow_round, cheap]) == {
        "int8_to_float32": 2.0,
        "in_process_to_stream": 0.5,
        "in_process_to_single": 0.25,
    }


def test_only_what_falls_by_more_than_its_tolerance_is_a_regression():
    assert quick.regressions(found(), None) == []
    assert quick.regressions(found(int8_to_float32=0.89), found()) == []
    assert quick.regressions(found(int8_to_float32=3.0), found()) == []
    (fault,) = quick.regressions(found(int8_to_float32=0.87), found())
    assert fault == "int8_to_float32 is 0.870, less than 0.880 (1.000 before)"
    (fault,) = quick.regressions(found() | {"changed_vectors": 2}, found())
    assert "2 vectors" in fault
