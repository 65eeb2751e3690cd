"""A sweep is many runs of one spec, each known by its identity."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cluster.common.errors import SpecError, UsageError
from cluster.sampling import streams
from cluster.spec import Spec, parse
from cluster.spec.points import Point, count, expand
from cluster.spec.request import Request, resolve

ROOT = Path(__file__).parents[2]
BALL = "kernel: jobs/ball.py:ball\nsamples: 1e6\n"


def swept(sweep: str, *overrides: str) -> Spec:
    """The spec of a sweep over the shipped kernel ball."""
    return parse(f"{BALL}{sweep}\n", "s.yaml", ROOT, overrides, {})


def values(sweep: str, *overrides: str) -> list[dict[str, Any]]:
    """The values of each point of a sweep."""
    return [dict(point.values) for point in expand(swept(sweep, *overrides))]


def points(sweep: str) -> tuple[Point, ...]:
    """The points of a sweep."""
    return expand(swept(sweep))


def axis(text: str) -> list[Any]:
    """The values of one axis of seeds or parameters."""
    spec = swept(f"sweep: {{matrix: {{params.dimension: {text!r}}}}}")
    assert spec.sweep is not None
    assert spec.sweep.matrix is not None
    return list(spec.sweep.matrix["params.dimension"])


def told(sweep: str, *overrides: str) -> list[str]:
    """The problems of a sweep, one line each."""
    with pytest.raises(SpecError) as caught:
        expand(swept(sweep, *overrides))
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("sweep", "cuts"),
    [
        ("{matrix: {params.cut: [null, 1]}}", [None, 1.0]),
        ("{zip: {params.cut: [1, null], seed: [1, 2]}}", [1.0, None]),
        ("{include: [{params.cut: null}, {params.cut: 2}]}", [None, 2.0]),
        ("{matrix: {params.cut: [null, 1]}, exclude: [{params.cut: null}]}", [1.0]),
        ("{matrix: {params.cut: [{at: null, by: [null, 1]}]}}", [{"at": None, "by": (None, 1)}]),
    ],
)
def test_null_is_a_value_of_a_parameter_wherever_a_sweep_gives_one(
    tmp_path: Path, sweep: str, cuts: list[Any]
) -> None:
    """As in ``params``: null is a value of a parameter, alone or inside a mapping."""
    (tmp_path / "k.py").write_text("def k(rng, samples, cut=1.0): ...\n")
    text = f"kernel: k.py:k\nsamples: 1e3\nseed: 1\nsweep: {sweep}\n"
    points = expand(parse(text, "s.yaml", tmp_path, (), {}))
    assert [point.request.params["cut"] for point in points] == cuts
    again = Spec.from_json(parse(text, "s.yaml", tmp_path, (), {}).to_json())
    assert [point.request.identity for point in expand(again)] == [
        point.request.identity for point in points
    ]


@pytest.mark.parametrize(
    ("override", "cuts"),
    [("params.dimension=null,2", [None, 2]), ("sweep.matrix.params.dimension=[null]", [None])],
)
def test_null_can_be_set_among_the_values_of_an_axis(override: str, cuts: list[Any]) -> None:
    """A list after ``--set`` is validated like one in the file."""
    assert swept("sweep: {matrix: {seed: [1]}}", override).sweep.matrix["params.dimension"] == (  # type: ignore[union-attr, index]
        *cuts,
    )


@pytest.mark.parametrize(
    ("sweep", "place"),
    [
        ("{matrix: {samples: [null, 1]}}", "sweep.matrix.samples[0]"),
        ("{matrix: {params.dimension: null}}", "sweep.matrix.'params.dimension'"),
        ("{include: [null]}", "sweep.include[0]"),
    ],
)
def test_null_of_anything_else_in_a_sweep_is_a_value_that_is_missing(
    sweep: str, place: str
) -> None:
    """A key without values is an unfinished line, as everywhere."""
    assert any(f": {place}: a value is missing" in line for line in told(f"sweep: {sweep}"))


def test_matrix_is_the_product_and_zip_goes_in_step() -> None:
    """The first key of the matrix changes slowest."""
    sweep = "sweep: {matrix: {seed: [1, 2]}, zip: {params.dimension: [2, 3], samples: [10, 20]}}"
    assert values(sweep) == [
        {"seed": 1, "params.dimension": 2, "samples": 10},
        {"seed": 1, "params.dimension": 3, "samples": 20},
        {"seed": 2, "params.dimension": 2, "samples": 10},
        {"seed": 2, "params.dimension": 3, "samples": 20},
    ]


def test_exclude_takes_points_out_and_include_adds_some() -> None:
    """An excluded combination has all of the values; an included point has only its own keys."""
    sweep = (
        "sweep: {matrix: {seed: [1, 2], params.dimension: [2, 3]},"
        " exclude: [{seed: 1, params.dimension: 3}], include: [{params.dimension: 9}]}"
    )
    got = values(sweep)
    assert {"seed": 1, "params.dimension": 3} not in got
    assert len(got) == 4
    assert got[-1] == {"params.dimension": 9}


def test_an_excluded_true_is_no_1() -> None:
    """Although they are equal in Python; 10 still matches the 10.0 of logspace."""
    for exclude in ("seed: true", "params.dimension: [true]"):
        (line,) = told(f"sweep: {{matrix: {{seed: [1]}}, exclude: [{{{exclude}}}]}}")
        assert "excludes nothing" in line
    sweep = (
        "sweep: {matrix: {until.max_time: 'logspace(1, 100, 3)'}, exclude: [{until.max_time: 10}]}"
    )
    assert [value["until.max_time"] for value in values(sweep)] == [1.0, 100.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("range(1, 6, 2)", [1, 3, 5]),
        ("range(5, 0, -2)", [5, 3, 1]),
        ("range(0, 1, 0.25)", [0.0, 0.25, 0.5, 0.75]),
        ("range(0, 0.4, 0.1)", [0.0, 0.1, 0.2, 0.3]),
        ("range(0, 7, 2)", [0, 2, 4, 6]),
        ("logspace(1e-3, 1, 4)", [0.001, 0.01, 0.1, 1.0]),
        ("logspace(1, 2, 2)", [1.0, 2.0]),
        ("logspace(1e-200, 1e200, 3)", [1e-200, 1.0, 1e200]),
        ("logspace(2e200, 2e-200, 5)", [2e200, 2e100, 2.0, 2e-100, 2e-200]),
    ],
)
def test_values_may_be_written_as_a_rule(text: str, expected: list[float]) -> None:
    """A range excludes its end and has no rounding errors; logspace includes both ends."""
    got = axis(text)
    assert got == expected
    assert [type(value) for value in got] == [type(value) for value in expected]


@pytest.mark.parametrize(("low", "high"), [(1e-3, 1), (3, 7e5), (0.02, 1e-9), (1e-150, 1e150)])
def test_values_of_a_logspace_are_those_that_they_were(low: float, high: float) -> None:
    """They are part of a run's identity: computed from the ratio of the ends if that is finite."""
    factor = float(Decimal(str(high)) / Decimal(str(low)))
    inner = [float(f"{low * factor ** (at / 16):.12g}") for at in range(1, 16)]
    assert axis(f"logspace({low}, {high}, 17)") == [low, *inner, high]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("sweep: {matrix: {params.z: [1]}}", "3:29: sweep.matrix.'params.z'[0]: ball.py:ball has"),
        ("sweep: {matrix: {samples: [1, 0]}}", "3:31: sweep.matrix.samples[1]: must be at least 1"),
        ("sweep: {matrix: {nodes: [a]}}", "3:18: sweep.matrix.nodes: a sweep cannot vary 'nodes'"),
        ("sweep: {matrix: {sed: [1]}}", "3:18: sweep.matrix.sed: a sweep cannot vary 'sed'; did"),
        ("sweep: {matrix: {seed: []}}", "3:24: sweep.matrix.seed: must have at least one value"),
        ("sweep: {matrix: {seed: 3}}", "3:24: sweep.matrix.seed: must be a list of values, got 3"),
        (
            "sweep: {matrix: {seed: 'x(1)'}}",
            "3:24: sweep.matrix.seed: has an unknown function",
        ),
        ("sweep: {matrix: {seed: 'range(1)'}}", "3:24: sweep.matrix.seed: takes three numbers"),
        ("sweep: {matrix: {seed: 'range(2, 1, 1)'}}", "3:24: sweep.matrix.seed: has no value"),
        ("sweep: {matrix: {seed: 'range(0, 9, 0)'}}", "3:24: sweep.matrix.seed: the step"),
        ("sweep: {matrix: {seed: 'range(0, 1e999999, 1)'}}", "3:24: sweep.matrix.seed: takes num"),
        ("sweep: {matrix: {seed: 'range(0, 1e9, 1)'}}", "3:24: sweep.matrix.seed: has 1,000,000,"),
        (
            "sweep: {matrix: {seed: 'logspace(0, 1, 3)'}}",
            "3:24: sweep.matrix.seed: logspace needs",
        ),
        ("sweep: {zip: {seed: [1, 2], samples: [1]}}", "3:14: sweep.zip: all keys must have"),
        ("sweep: {matrix: {seed: [1]}, exclude: [{seed: 2}]}", "3:40: sweep.exclude[0]: excludes"),
        ("sweep: {matrix: {seed: [1, 1]}}", "3:28: sweep.matrix.seed[1]: the same point as"),
        ("sweep: {order: x}", "3:16: sweep.order: unknown order 'x'; it has breadth, depth"),
        ("sweep: {keep_going: yes}", "3:21: sweep.keep_going: must be true or false"),
        ("sweep: {order: depth}", "3:8: sweep: has no point; give it a matrix"),
        (
            "sweep: {matrix: {until.half_width: [1]}}",
            "2:10: samples: cannot be combined with a target",
        ),
    ],
)
def test_what_is_wrong_is_told_at_its_place(sweep: str, expected: str) -> None:
    """File, line and column of the value that causes it, or of the key."""
    (line,) = told(sweep)
    assert line.startswith(f"s.yaml:{expected}")


def test_a_key_that_stands_in_two_parts_is_refused() -> None:
    """Neither may win silently; nor a mapping over one of its own keys."""
    assert len(told("sweep: {matrix: {seed: [1]}, zip: {seed: [2]}}")) == 2
    assert len(told("sweep: {matrix: {params.a: [1], params.a.b: [2]}}")) == 1


def test_a_comma_after_set_makes_a_sweep() -> None:
    """Each key is an axis of the matrix."""
    expected = [{"params.dimension": d, "seed": s} for d in (2, 3) for s in (1, 2)]
    assert values("", "params.dimension=2,3", "seed=1,2") == expected


def test_one_value_for_a_key_that_varies_is_refused() -> None:
    """The sweep would silently override it."""
    with pytest.raises(SpecError, match="--set: seed: the sweep varies it"):
        swept("sweep: {matrix: {seed: [1, 2]}}", "seed=3")


def test_a_point_is_the_run_that_it_would_be_alone() -> None:
    """The same identity, request key and stream: so it has the same digest."""
    for point in points("seed: 7\nsweep: {matrix: {params.dimension: [2, 3]}}"):
        dimension = point.values["params.dimension"]
        alone = resolve(swept(f"seed: 7\nparams: {{dimension: {dimension}}}"))
        assert point.request.identity == alone.identity
        assert point.request.key == alone.key
        assert point.request.work("r") == alone.work("r")
        assert point.request.goal == alone.goal


def test_points_with_other_goals_or_backends_share_their_streams() -> None:
    """Also where the seed is drawn: it is drawn once."""
    found = points("sweep: {matrix: {samples: [1e6, 1e9], backend: [serial, threads]}}")
    assert len({point.request.identity for point in found}) == 1
    assert len({(point.request.seed, point.request.point) for point in found}) == 1
    other = points("sweep: {matrix: {params.dimension: [2, 3]}}")
    assert len({point.request.seed for point in other}) == 1
    assert len({point.request.point for point in other}) == 2


def test_common_streams_are_one_for_all_points_and_part_of_the_identity() -> None:
    """Such a point draws other numbers than a single run, so it has another identity."""
    text = "seed: 1\nsweep: {matrix: {params.dimension: [2, 3]}, streams: %s}"
    own, common = points(text % "own"), points(text % "common")
    assert len({point.request.point for point in common}) == 1
    identities = {point.request.identity for point in (*own, *common)}
    assert len(identities) == 4
    again = Request.from_json(common[0].request.to_json())
    assert again == common[0].request
    assert again.identity == common[0].request.identity


def test_a_request_of_an_earlier_version_has_no_common_streams() -> None:
    """Runs already in a ledger keep their identity."""
    request = resolve(swept("seed: 1"))
    data = request.to_json()
    del data["common"]
    assert Request.from_json(data) == request


def test_equal_stream_keys_of_different_parameters_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such points would draw the same numbers; the hash is replaced to provoke it."""
    monkeypatch.setattr(streams, "point_of", lambda _params: 5)
    (line,) = told("seed: 1\nsweep: {matrix: {params.dimension: [2, 3]}}")
    assert "has the 64-bit stream key of another point" in line


def test_ten_thousand_points_are_planned_in_five_seconds() -> None:
    """The kernel is loaded once, and keys that do not vary are not validated again."""
    sweep = "sweep: {matrix: {params.dimension: 'range(2, 12, 1)', seed: 'range(0, 1000, 1)'}}"
    begin = time.process_time()
    assert len(points(sweep)) == 10_000
    assert time.process_time() - begin < 5


@pytest.mark.fault(81)
def test_a_million_points_need_a_yes() -> None:
    """They are counted before any is created."""
    spec = swept("sweep: {matrix: {seed: 'range(0, 1000, 1)', samples: 'range(1, 1001, 1)'}}")
    assert spec.sweep is not None
    assert count(spec.sweep) == 1_000_000
    begin = time.process_time()
    with pytest.raises(UsageError, match=r"1,000,000 points \(add --yes"):
        expand(spec)
    assert time.process_time() - begin < 1


def test_a_sweep_survives_json() -> None:
    """So that the ledger can store it."""
    spec = swept("sweep: {matrix: {seed: 'range(0, 3, 1)'}, include: [{samples: 5}]}")
    assert Spec.from_json(spec.to_json()) == spec


def test_a_sweep_is_not_run_as_if_it_were_one_run() -> None:
    """A sweep is refused where a single run is needed, as in the trial of ``plan``."""
    with pytest.raises(SpecError, match=r"s\.yaml:3:8: sweep: makes many runs"):
        resolve(swept("sweep: {matrix: {seed: [1, 2]}}"))
